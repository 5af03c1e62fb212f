import csv
import dataclasses
import hashlib
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, NO_LABEL
from fer_tfdata.sources import BadRow, KaggleCsv, RawBatch, archives, kaggle_csv

ROOT = Path(__file__).resolve().parent.parent
HEADER = "emotion,pixels,Usage"
SPLIT_OF_USAGE = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}


def face(seed: int) -> npt.NDArray[np.uint8]:
    """Pixels [2304] of one, two and three digits, with both ends of the range among them."""
    pixels = np.random.default_rng(seed).integers(0, 256, 2304).astype(np.uint8)
    pixels[::7] %= 10
    pixels[::11] %= 100
    pixels[[5, -1]] = 0
    pixels[[6, -2]] = 255
    return pixels


def pixel_text(seed: int) -> str:
    return " ".join(map(str, face(seed).tolist()))


def fields(seed: int) -> dict[str, str]:
    """A good row."""
    usage = list(SPLIT_OF_USAGE)[seed % 3]
    return {"emotion": str(seed % 7), "pixels": pixel_text(seed), "Usage": usage}


def separator_of(header: str) -> str:
    return next((separator for separator in ",;\t" if separator in header), ",")


def good_line(seed: int, header: str = HEADER, quote: str = "") -> str:
    values = {"id": f"face {seed}", "note": "größer", **fields(seed)}
    separator = separator_of(header)
    names = [name.strip(" ").removeprefix("\ufeff") for name in header.split(separator)]
    return separator.join(f"{quote}{values[name]}{quote}" for name in names)


def csv_file(path: Path, lines: Sequence[str | bytes], header: str = HEADER) -> Path:
    parts = [part.encode() if isinstance(part, str) else part for part in (header, *lines)]
    path.write_bytes(b"".join(part + b"\n" for part in parts))
    return path


def read(*paths: Path, num_parts: int = 1) -> RawBatch:
    """All rows of the files as one batch, each part's count of them checked on the way."""
    batches: list[RawBatch] = []
    first_row = 0
    for part in KaggleCsv(paths).parts(num_parts):
        in_part = list(pickle.loads(pickle.dumps(part)).batches(first_row))
        num_rows = sum(len(batch.rows) + len(batch.bad_rows) for batch in in_part)
        assert part.count_rows() == num_rows
        first_row += num_rows
        batches += in_part
    for batch in batches:
        count = len(batch.rows)
        assert batch.images.shape == (count, 48, 48, 1)
        assert batch.images.dtype == np.uint8
        assert batch.labels.shape == (count,)
        assert batch.labels.dtype == batch.rows.dtype == np.int64
        assert len(batch.splits) == count
    return RawBatch(
        images=np.concatenate([batch.images for batch in batches]),
        labels=np.concatenate([batch.labels for batch in batches]),
        splits=[split for batch in batches for split in batch.splits],
        rows=np.concatenate([batch.rows for batch in batches]),
        bad_rows=[bad for batch in batches for bad in batch.bad_rows],
    )


def places(batch: RawBatch) -> list[tuple[int, int]]:
    """Row and line of each bad row."""
    return [(bad.row, int(bad.place.rpartition("line ")[2])) for bad in batch.bad_rows]


def assert_equal(batch: RawBatch, expected: RawBatch) -> None:
    for field in dataclasses.fields(RawBatch):
        assert np.array_equal(getattr(batch, field.name), getattr(expected, field.name)), field.name


def assert_rows(batch: RawBatch, seeds: Sequence[int], rows: Sequence[int] | None = None) -> None:
    """The batch holds the good rows of `seeds`, in order."""
    np.testing.assert_array_equal(
        batch.images.reshape(-1, 2304), np.array([face(seed) for seed in seeds])
    )
    assert batch.labels.tolist() == [seed % 7 for seed in seeds]
    assert list(batch.splits) == [list(SPLIT_OF_USAGE.values())[seed % 3] for seed in seeds]
    assert batch.rows.tolist() == list(range(len(seeds)) if rows is None else rows)


# What it takes.


@pytest.mark.parametrize("order", itertools.permutations(HEADER.split(",")), ids=",".join)
@pytest.mark.parametrize("extra", [(), ("id", "note")], ids=["", "extra columns"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_any_order_of_columns(tmp_path: Path, order: tuple[str, ...], extra: tuple, end: str):
    header = ",".join((*extra[:1], *order, *extra[1:]))
    path = tmp_path / "fer2013.csv"
    lines = [header, *(good_line(seed, header) for seed in range(8))]
    path.write_bytes("".join(line + end for line in lines).encode())
    assert_rows(read(path), range(8))


@pytest.mark.parametrize(
    "header",
    [
        "emotion, pixels, Usage",  # as some copies on Kaggle have it
        " emotion ,\tpixels , Usage \r",
        "\ufeffemotion,pixels,Usage",
        "\ufeff emotion,pixels,Usage",
        "Emotion,PIXELS,usage",
        '"emotion", "pixels", "Usage"',
        ' "emotion",  "pixels","Usage"\r',
    ],
)
def test_forms_of_the_header(tmp_path: Path, header: str):
    path = csv_file(tmp_path / "fer2013.csv", [good_line(0), good_line(1)], header)
    assert_rows(read(path), [0, 1])


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_the_last_newline_may_be_missing(tmp_path: Path, end: str):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(end.join([HEADER, good_line(0), good_line(1)]).encode())
    assert_rows(read(path), [0, 1])


def test_blank_lines_are_no_rows(tmp_path: Path):
    lines = ["", good_line(0), "", "  \t", "\r", good_line(1), "", ""]
    assert_rows(read(csv_file(tmp_path / "fer2013.csv", lines)), [0, 1])


@pytest.mark.parametrize(
    "line",
    [
        '"3","{}","Training"',
        '3,"{}",Training',
        " 3 , {} , Training ",
        "3,  {}  ,Training\r",
        '3, "{}", Training',
        ' "3", "{}",  "Training"\r',
        '3, "0{}", Training',  # four digits: the careful way
        "3,{},training",
        '3,"{}", "TRAINING"',
        "3,0{},tRAINING",
    ],
    ids=[
        *("quoted", "pixels quoted", "blanks", "blanks and CR", "a blank before quotes"),
        *("blanks before quotes", "a blank before quotes, carefully"),
        *("lower case", "upper case, quoted", "another case, carefully"),
    ],
)
def test_forms_of_a_row(tmp_path: Path, line: str):
    lines = [good_line(0), line.format(pixel_text(3)), good_line(1)]
    assert_rows(read(csv_file(tmp_path / "fer2013.csv", lines)), [0, 3, 1])


@pytest.mark.parametrize("separator", ["  ", "\t", " \t "])
def test_pixels_may_stand_apart(tmp_path: Path, separator: str):
    line = f"3,{pixel_text(3).replace(' ', separator)},Training"
    assert_rows(read(csv_file(tmp_path / "fer2013.csv", [line])), [3])


def test_pixels_may_have_leading_zeros(tmp_path: Path):
    padded = " ".join(f"{pixel:03d}" for pixel in face(3).tolist())
    longer = " ".join(f"{pixel:05d}" for pixel in face(3).tolist())
    lines = [f"3,{padded},Training", f"3,{longer},Training"]
    assert_rows(read(csv_file(tmp_path / "fer2013.csv", lines)), [3, 3])


def test_a_quoted_field_may_hold_commas(tmp_path: Path):
    header = "note,emotion,pixels,Usage"
    lines = [f'"a, b",{good_line(0)}', f'"",{good_line(1)}', f'"say ""hi""",{good_line(2)}']
    assert_rows(read(csv_file(tmp_path / "fer2013.csv", lines, header)), [0, 1, 2])


def test_header_and_rows_may_be_quoted(tmp_path: Path):
    header = '"emotion","pixels","Usage"'
    lines = [good_line(seed, quote='"') for seed in range(3)]
    assert_rows(read(csv_file(tmp_path / "quoted.csv", lines, header)), range(3))


ALL_FORMS = pytest.mark.parametrize(
    "header",
    [
        "emotion,pixels,Usage",
        "emotion, Usage, pixels",
        "emotion,pixels",
        "pixels,Usage",
        "pixels",
        "id,pixels",
        "emotion;pixels;Usage",
        "Usage;pixels",
        "emotion\tpixels\tUsage",
        "\ufeffemotion;pixels;Usage",
        "\ufeffpixels",
    ],
)


@ALL_FORMS
@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_every_form_of_the_csv(tmp_path: Path, header: str, quote: str, end: str):
    path = tmp_path / "form.csv"
    lines = [header, *(good_line(seed, header, quote) for seed in range(8))]
    path.write_bytes("".join(line + end for line in lines).encode())
    batch = read(path)
    assert not batch.bad_rows
    np.testing.assert_array_equal(
        batch.images.reshape(-1, 2304), np.array([face(seed) for seed in range(8)])
    )
    has_labels = "emotion" in header
    expected_labels = [seed % 7 if has_labels else NO_LABEL for seed in range(8)]
    assert batch.labels.tolist() == expected_labels
    if "Usage" in header:
        assert list(batch.splits) == [list(SPLIT_OF_USAGE.values())[seed % 3] for seed in range(8)]
    else:
        assert set(batch.splits) == {"train" if has_labels else "test"}


@pytest.mark.parametrize("separator", [";", "\t"], ids=["semicolon", "tab"])
def test_a_row_with_another_separator_is_a_bad_one(tmp_path: Path, separator: str):
    header = separator.join(HEADER.split(","))
    batch = read(csv_file(tmp_path / "form.csv", [good_line(0), good_line(1, header)], header))
    assert_rows(batch, [1], rows=[1])
    assert batch.bad_rows[0].reason == "expected 3 fields, received 1"


# As a source.


def test_what_a_source_says_of_itself(tmp_path: Path):
    first = csv_file(tmp_path / "a.csv", [good_line(0)])
    second = csv_file(tmp_path / "b.csv", [good_line(1)])
    source = KaggleCsv((first, second))
    assert source.image_shape == (48, 48, 1)
    assert source.expressions == EXPRESSIONS
    assert source.describe() == {
        "files": [
            {
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in (first, second)
        ]
    }


def test_a_source_without_files_is_refused():
    with pytest.raises(InputError, match="expected at least one CSV file"):
        KaggleCsv(())


def test_files_are_read_one_after_another_with_their_rows_counted_on(tmp_path: Path):
    train = csv_file(tmp_path / "train.csv", [good_line(0), "bad", good_line(1)])
    test = csv_file(tmp_path / "test.csv", [pixel_text(2), "bad"], "pixels")
    batch = read(train, test)
    assert batch.rows.tolist() == [0, 2, 3]
    assert batch.labels.tolist() == [0, 1, NO_LABEL]
    assert batch.splits == ["train", "validation", "test"]
    assert [(bad.row, bad.place) for bad in batch.bad_rows] == [
        (1, f"{train}, line 3"),
        (4, f"{test}, line 3"),
    ]


PIECES = {
    "good": [good_line(seed).encode() for seed in range(5)],
    "quoted": [good_line(5, quote='"').encode()],
    "bad": [b"bad", b'"', b"3,1 2 3,Training"],
    "blank": [b"", b" ", b"\r"],
}


@st.composite
def csv_contents(draw: st.DrawFn) -> bytes:
    """A CSV of good, bad and blank lines, with either line end and any last one."""
    lines = draw(
        st.lists(
            st.sampled_from(list(PIECES)).flatmap(lambda kind: st.sampled_from(PIECES[kind])),
            max_size=30,
        )
    )
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    last_end = draw(st.sampled_from([b"", end, end * 3]))
    return end.join([HEADER.encode(), PIECES["good"][0], *lines]) + last_end


@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(csv_contents(), min_size=1, max_size=3),
    num_parts=st.integers(0, 40),
    min_part_bytes=st.integers(1, 30_000),
)
def test_the_rows_are_the_same_however_many_parts_there_are(
    tmp_path_factory: pytest.TempPathFactory,
    contents: list[bytes],
    num_parts: int,
    min_part_bytes: int,
):
    directory = tmp_path_factory.mktemp("parts")
    paths = [directory / f"{index}.csv" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    whole = read(*paths)
    assert len(KaggleCsv(tuple(paths)).parts(1)) == len(paths)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(kaggle_csv, "_MIN_PART_BYTES", min_part_bytes)
        assert_equal(read(*paths, num_parts=num_parts), whole)


def test_the_parts_of_a_file_are_about_as_many_as_asked_for_and_of_one_size(tmp_path: Path):
    lines = [good_line(seed) for seed in range(400)]
    path = csv_file(tmp_path / "fer2013.csv", lines)
    size = path.stat().st_size
    whole = read(path)
    for num_parts in (2, 3, 7, 1000):
        parts = KaggleCsv((path,)).parts(num_parts)
        lengths = [part.end - part.start for part in parts if part.end is not None]
        assert len(lengths) == len(parts)
        assert min(lengths) >= 1 << 18
        assert sum(lengths) == size - len(HEADER) - 1
        assert max(lengths) - min(lengths) < 2 * 10_000 or num_parts == 1000
        assert len(parts) == num_parts or (num_parts == 1000 and len(parts) > 8)
        assert_equal(read(path, num_parts=num_parts), whole)


def test_large_files_get_more_parts_than_small_ones(tmp_path: Path):
    small = csv_file(tmp_path / "small.csv", [good_line(0)])
    large = csv_file(tmp_path / "large.csv", [good_line(seed) for seed in range(300)])
    parts = KaggleCsv((small, large, small)).parts(6)
    assert [part.table.csv.file for part in parts] == [small, *[large] * 6, small]
    assert_equal(read(small, large, small, num_parts=6), read(small, large, small))


@pytest.mark.parametrize("num_parts", [1, 20])
def test_a_line_that_never_ends_is_refused_however_many_parts_there_are(
    tmp_path: Path, num_parts: int
):
    path = csv_file(tmp_path / "fer2013.csv", [good_line(0), "1" * 9_000_000, good_line(1)])
    with pytest.raises(InputError, match="expected lines of at most 262144 bytes"):
        read(path, num_parts=num_parts)


@pytest.mark.parametrize("block_bytes", [1, 7, 23, 100, 4096, 8000, 8500, 20_000])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_lines_may_straddle_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, end: str
):
    monkeypatch.setattr(archives, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "fer2013.csv"
    lines = ["\ufeff" + HEADER, good_line(0), "", good_line(1), "3,1 2 3,Training", good_line(2)]
    path.write_bytes(end.join(lines).encode())
    batch = read(path)
    assert_rows(batch, [0, 1, 2], rows=[0, 1, 3])
    assert batch.bad_rows == [BadRow(2, f"{path}, line 5", "expected 2304 pixels, received 3")]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = KaggleCsv((pipe,))
    for call in (source.describe, lambda: source.parts(1)):
        with pytest.raises(InputError, match="received: a pipe or a device"):
            call()


def test_drawn_faces_come_back_as_an_independent_parser_reads_them(demo_csv: Path):
    with demo_csv.open(encoding="ascii", newline="") as file:
        expected = list(csv.DictReader(file))
    batch = read(demo_csv)
    assert batch.bad_rows == []
    assert len(expected) == len(batch.rows) == 140 + 35 + 35
    for row, image, label, split, number in zip(
        expected, batch.images, batch.labels, batch.splits, batch.rows, strict=True
    ):
        assert image.ravel().tolist() == [int(text) for text in row["pixels"].split(" ")]
        assert label == int(row["emotion"])
        assert split == SPLIT_OF_USAGE[row["Usage"]]
        assert row is expected[number]


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    path = tmp_path / "large.csv"
    block = b"".join(good_line(seed).encode() + b"\n" for seed in range(100))
    with path.open("wb") as file:
        file.write(HEADER.encode() + b"\n")
        while file.tell() < 120_000_000:
            file.write(block)
    # Not ru_maxrss: a child inherits it from the process that started it.
    program = """
        import re, sys
        from pathlib import Path
        from fer_tfdata.sources import KaggleCsv

        def peak_kib():
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

        before = peak_kib()
        (part,) = KaggleCsv((Path(sys.argv[1]),)).parts(1)
        assert part.count_rows() == sum(len(batch.rows) for batch in part.batches(0))
        rows = part.count_rows()
        print(rows, peak_kib() - before)
    """
    size = path.stat().st_size
    output = subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], cwd=ROOT, text=True
    )
    path.unlink()
    rows, growth_kib = map(int, output.split())
    assert rows == (size - len(HEADER) - 1) // len(block) * 100
    assert growth_kib < 60_000


# What it refuses.


def without_last_number(text: str) -> str:
    return text.rsplit(" ", 1)[0]


def with_pixel(value: str) -> str:
    numbers = pixel_text(1).split(" ")
    numbers[1000] = value
    return f"1,{' '.join(numbers)},PublicTest"


PIXELS = "expected pixels that are whole numbers from 0 to 255, received "
LABEL = "expected an emotion from 0 to 6, received "
USAGE = "expected a Usage of Training, PublicTest, PrivateTest, received "

BAD_LINES = {
    "a pixel too few": (
        f"1,{without_last_number(pixel_text(1))},PublicTest",
        "expected 2304 pixels, received 2303",
    ),
    "a pixel too many": (f"1,{pixel_text(1)} 7,PublicTest", "expected 2304 pixels, received 2305"),
    "no pixels": ("1,,PublicTest", "expected 2304 pixels, received 0"),
    "256": (with_pixel("256"), f"{PIXELS}'256' as pixel 1000"),
    "999": (with_pixel("999"), f"{PIXELS}'999' as pixel 1000"),
    "1000": (with_pixel("1000"), f"{PIXELS}'1000' as pixel 1000"),
    "a number of 5000 digits": (with_pixel("1" * 5000), f"{PIXELS}'{'1' * 40}...' as pixel 1000"),
    "-1": (with_pixel("-1"), f"{PIXELS}'-1' as pixel 1000"),
    "+1": (with_pixel("+1"), f"{PIXELS}'+1' as pixel 1000"),
    "1_0": (with_pixel("1_0"), f"{PIXELS}'1_0' as pixel 1000"),
    "x": (with_pixel("x"), f"{PIXELS}'x' as pixel 1000"),
    "3.5": (with_pixel("3.5"), f"{PIXELS}'3.5' as pixel 1000"),
    "0x1": (with_pixel("0x1"), f"{PIXELS}'0x1' as pixel 1000"),
    "Arabic digit": (with_pixel("\u0663"), f"{PIXELS}'\\\\xd9\\\\xa3' as pixel 1000"),
    "non-ASCII bytes": (with_pixel("?").encode().replace(b"?", b"\xff\xfe"), PIXELS),
    "NUL": (with_pixel("\0"), f"{PIXELS}'\\x00' as pixel 1000"),
    "label 7": (f"7,{pixel_text(1)},PublicTest", f"{LABEL}'7'"),
    "label -1": (f"-1,{pixel_text(1)},PublicTest", f"{LABEL}'-1'"),
    "label happy": (f"happy,{pixel_text(1)},PublicTest", f"{LABEL}'happy'"),
    "label 3.0": (f"3.0,{pixel_text(1)},PublicTest", f"{LABEL}'3.0'"),
    "no label": (f",{pixel_text(1)},PublicTest", f"{LABEL}''"),
    "label of non-ASCII bytes": (b"\xe9," + pixel_text(1).encode() + b",PublicTest", LABEL),
    "unknown usage": (f"1,{pixel_text(1)},Testing", f"{USAGE}'Testing'"),
    "text behind quotes": (f'1,"{pixel_text(1)}" x,PublicTest', "expected a row of CSV"),
    "no usage": (f"1,{pixel_text(1)},", f"{USAGE}''"),
    "a field too few": (f"1,{pixel_text(1)}", "expected 3 fields, received 2"),
    "a field too many": (f"{good_line(1)},more", "expected 3 fields, received 4"),
    "two rows in a line": (f"{good_line(1)}\r{good_line(2)}", "expected a row of CSV"),
    "another kind of line": ("<html>", "expected 3 fields, received 1"),
    "an open quote": (f'1,"{pixel_text(1)},PublicTest', "expected a row of CSV"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_row_is_listed_with_where_it_stands_and_what_is_wrong(
    tmp_path: Path, line: str | bytes, message: str
):
    path = csv_file(tmp_path / "fer2013.csv", [good_line(0), "", line, good_line(2)])
    batch = read(path)
    assert_rows(batch, [0, 2], rows=[0, 2])
    (bad,) = batch.bad_rows
    assert (bad.row, bad.place) == (1, f"{path}, line 4")
    assert bad.reason.startswith(message)
    assert "received" in bad.reason
    assert bad.reason.isprintable()
    assert len(bad.reason) < 300


def test_the_good_rows_keep_their_numbers(tmp_path: Path):
    lines = [
        "7,1,Training",
        good_line(0),
        "",
        "x",
        "x",
        good_line(1),
        good_line(2),
        ",",
    ]
    batch = read(csv_file(tmp_path / "fer2013.csv", lines))
    assert_rows(batch, [0, 1, 2], rows=[1, 4, 5])
    assert places(batch) == [(0, 2), (2, 5), (3, 6), (6, 9)]


@pytest.mark.parametrize("num_parts", [1, 4])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_line_number_is_right_far_down(tmp_path: Path, end: str, num_parts: int):
    block = "".join(good_line(seed) + end for seed in range(100))
    path = tmp_path / "fer2013.csv"
    path.write_bytes(f"{HEADER}{end}{block * 3}{end}bad{end}{block}".encode())
    batch = read(path, num_parts=num_parts)
    assert batch.bad_rows == [
        BadRow(300, f"{path}, line 303", "expected 3 fields, received 1"),
    ]
    assert batch.rows.tolist() == [*range(300), *range(301, 401)]


def test_a_file_may_be_cut_anywhere(tmp_path: Path):
    whole = f"{HEADER}\n{good_line(0)}\n{good_line(1)}".encode()
    last = whole.rindex(b"\n") + 1
    path = tmp_path / "fer2013.csv"
    for end in [*range(last + 1, last + 40), last + 4000, *range(len(whole) - 40, len(whole))]:
        path.write_bytes(whole[:end])
        batch = read(path)
        assert_rows(batch, [0])
        assert places(batch) == [(1, 3)]
        assert batch.bad_rows[0].reason.startswith("expected ")


def test_many_short_lines_come_in_small_batches(tmp_path: Path):
    path = csv_file(tmp_path / "fer2013.csv", ["x", ""] * 20_000)
    (part,) = KaggleCsv((path,)).parts(1)
    batches = list(part.batches(0))
    assert max(len(batch.bad_rows) for batch in batches) <= 256
    bad_rows = [bad for batch in batches for bad in batch.bad_rows]
    assert [bad.row for bad in bad_rows] == list(range(20_000))
    assert bad_rows[-1].place == f"{path}, line 40000"


def test_numbers_cannot_move_between_rows(tmp_path: Path):
    short = f"0,{without_last_number(pixel_text(0))},Training"
    long = f"1,{pixel_text(1)} 7,Training"
    path = csv_file(tmp_path / "fer2013.csv", [short, long, good_line(2)])
    batch = read(path)
    assert_rows(batch, [2], rows=[2])
    assert [bad.reason for bad in batch.bad_rows] == [
        "expected 2304 pixels, received 2303",
        "expected 2304 pixels, received 2305",
    ]


@pytest.mark.parametrize(
    "header",
    [
        "emotion",
        "emotion,Usage",
        "emotion,pixel,Usage",
        "emotion|pixels|Usage",
        "emotion,pixels,Usage,pixels",
        "emotion,pixels,Usage,Emotion",
        "",
        "0,1 2 3,Training",
    ],
)
def test_columns_that_are_missing_or_there_twice(tmp_path: Path, header: str):
    path = csv_file(tmp_path / "fer2013.csv", [good_line(0)], header)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}, line 1: expected the columns emotion, pixels, Usage, each once, in any order "
        f"(emotion and Usage may be missing); received: {', '.join(header.split(','))}"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a CSV with the columns emotion, pixels, Usage; it is empty"),
        (HEADER.encode(), "expected rows below the header, received none"),
        (HEADER.encode() + b"\r\n\r\n \n", "expected rows below the header, received none"),
        (HEADER.encode() + b"\n" * 3_000_000, "expected rows below the header, received none"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "expected the columns"),
        (f"\ufeff{HEADER}\n".encode("utf-16-le"), "received one in UTF-16; save it as UTF-8"),
        (f"\ufeff{HEADER}\n".encode("utf-16-be"), "received one in UTF-16; save it as UTF-8"),
        (f"{HEADER}\n".encode("utf-16-le"), "received one in UTF-16; save it as UTF-8"),
        (f"{HEADER}\n".encode("utf-16-be"), "received one in UTF-16; save it as UTF-8"),
        (f"PK\x13fer2013.csv\0emotion,pixels\n1,{pixel_text(0)}".encode(), "expected the columns"),
        (bytes(3_000_000), "expected lines of at most 262144 bytes"),
        (b"\n" * 100, "expected the columns"),
        (HEADER.encode() + b"\n" + b"1" * 3_000_000, "expected lines of at most 262144 bytes"),
    ],
    ids=[
        "empty",
        "header",
        "header and blanks",
        "header and many blanks",
        "PNG",
        "UTF-16-LE with BOM",
        "UTF-16-BE with BOM",
        "UTF-16-LE",
        "UTF-16-BE",
        "a damaged zip",
        "zeros",
        "newlines",
        "long line",
    ],
)
def test_another_kind_of_file(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert message in text
    assert len(text) < 500 + len(str(path))
    assert len(text.splitlines()) == 1


def test_a_row_behind_a_block_of_blank_lines_is_read(tmp_path: Path):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(HEADER.encode() + b"\n" * (1 << 21) + good_line(3).encode())
    batch = read(path)
    assert batch.rows.tolist() == [0]


def test_random_bytes_are_never_anything_but_an_input_error(tmp_path: Path):
    path = tmp_path / "fer2013.csv"
    for seed in range(20):
        path.write_bytes(np.random.default_rng(seed).bytes(50_000))
        with pytest.raises(InputError, match=r"fer2013\.csv"):
            read(path)


def test_what_cannot_be_opened(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        read(tmp_path / "absent.csv")
    assert str(caught.value) == (
        f"{tmp_path}/absent.csv: expected a readable CSV file, received: No such file or directory"
    )
    with pytest.raises(InputError, match="expected a readable CSV file, received: Is a directory"):
        read(tmp_path)


# The fast way and the careful one.


def part_of(header: str) -> kaggle_csv.KaggleCsvPart:
    columns = kaggle_csv._find_columns(header.encode(), "header")
    csv_file = archives.CsvFile(Path("/dev/null"), "none")
    return kaggle_csv.KaggleCsvPart(kaggle_csv._Table(csv_file, columns, 0), 0, 0)


def assert_agree(lines: Sequence[bytes], header: str) -> None:
    """What the fast way takes, the careful one takes too, and reads the same."""
    part = part_of(header)
    block = kaggle_csv._Block(5, list(range(9, 9 + len(lines))), list(lines))
    fast = kaggle_csv._parse_fast(block, part.table.columns)
    if fast is None:
        return
    careful = kaggle_csv._parse_carefully(block, part)
    assert_equal(fast, careful)
    assert not careful.bad_rows
    assert fast.labels.dtype == careful.labels.dtype
    assert fast.rows.dtype == careful.rows.dtype
    assert fast.images.dtype == careful.images.dtype


HEADERS = [
    HEADER,
    "Usage,pixels,emotion",
    "pixels,Usage,emotion",
    "id,emotion,pixels,Usage",
    "emotion,pixels,Usage,note",
    "emotion,pixels",
    "pixels,Usage",
    "pixels",
    "emotion;pixels;Usage",
    "Usage\temotion\tpixels",
]
TELLING_BYTES = list(b'0123456789 ,;"\r\t\v\f\x1c\0-+._\\\xa0\xe9')


@st.composite
def mutated_lines(draw: st.DrawFn) -> tuple[bytes, str]:
    """A good line with some bytes inserted, deleted or replaced, and its header."""
    header = draw(st.sampled_from(HEADERS))
    quote = draw(st.sampled_from(["", '"']))
    line = bytearray(good_line(draw(st.integers(0, 6)), header, quote).encode())
    for _ in range(draw(st.integers(0, 4))):
        edges = [0, len(line), *(i for i, byte in enumerate(line) if byte in b",;\t")]
        near_an_edge = st.builds(
            lambda edge, offset: min(max(edge + offset, 0), len(line)),
            st.sampled_from(edges),
            st.integers(-4, 4),
        )
        position = draw(near_an_edge | st.integers(0, len(line)))
        kind = draw(st.sampled_from(["insert", "delete", "replace"]))
        byte = draw(st.sampled_from(TELLING_BYTES) | st.integers(0, 255))
        if byte == ord("\n"):  # ends a line, so that none has it
            continue
        if kind == "insert":
            line.insert(position, byte)
        elif kind == "delete":
            del line[position : position + 1]
        else:
            line[position : position + 1] = bytes([byte])
    return bytes(line), header


@settings(max_examples=250, deadline=None)
@given(mutated_lines())
@example((b' "1", "' + pixel_text(1).encode() + b'",publictest', HEADER))
@example((b'1,"' + pixel_text(1).encode() + b'" ,PublicTest', HEADER))
def test_the_fast_way_takes_nothing_that_the_careful_one_does_not(case: tuple[bytes, str]):
    line, header = case
    assert_agree([line], header)
    # Between others, so that a number more here and one fewer there would show.
    around = good_line(8, header).encode()
    assert_agree([around, line, around], header)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
@pytest.mark.parametrize("end", ["", "\r"], ids=["LF", "CRLF"])
def test_the_fast_way_takes_a_good_line(header: str, quote: str, end: str):
    lines = [(good_line(seed, header, quote) + end).encode() for seed in range(5)]
    block = kaggle_csv._Block(0, [2, 3, 4, 5, 6], lines)
    assert kaggle_csv._parse_fast(block, part_of(header).table.columns) is not None
    assert_agree(lines, header)


@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
def test_the_fast_way_takes_blanks_behind_separators_and_any_case(quote: str):
    lines = [good_line(seed, quote=quote).replace(",", ", ").lower().encode() for seed in range(5)]
    block = kaggle_csv._Block(0, [2, 3, 4, 5, 6], lines)
    assert kaggle_csv._parse_fast(block, part_of(HEADER).table.columns) is not None
    assert_agree(lines, HEADER)


@pytest.mark.parametrize("before", ["1,", ",PublicTest"])
@pytest.mark.parametrize("blank", ["\r", "\t", "\v", "\f", "\x1c", " "])
def test_the_two_ways_agree_on_blanks_at_a_field_s_edge(before: str, blank: str):
    line = good_line(1)
    position = line.index(before) + len(before) * before.endswith(",")
    for where in (position, position + before.startswith(",")):
        assert_agree([(line[:where] + blank + line[where:]).encode()], HEADER)


@pytest.mark.parametrize("note", ['"', '"open', 'in "it"', '"done"', '"x" y'])
def test_the_two_ways_agree_on_quotes_in_a_further_column(note: str):
    assert_agree([f"{good_line(1)},{note}".encode()], "emotion,pixels,Usage,note")
    assert_agree([f"{note},{good_line(1)}".encode()], "note,emotion,pixels,Usage")
