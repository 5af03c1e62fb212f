import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from fer_tfdata import conversion, records
from fer_tfdata.beam_engine import BeamEngine
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, SPLITS
from fer_tfdata.sources import ImageFolder, KaggleCsv, RawBatch, parse_expression_names
from tests.batch_source import BatchSource
from tests.ferplus_test import votes_on_every_row, write_votes
from tools import make_tfrecords

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, "-m", "tools.make_tfrecords"]


def run_program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def convert(csv: Path, data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(f"--csv={csv}", f"--output_dir={data_dir}", *arguments)


@pytest.fixture
def convert_here(
    run_main: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Runs the program in this process; returns the lines that it printed."""

    def convert(*arguments: str | Path) -> list[str]:
        run_main(make_tfrecords, *arguments)
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out.splitlines()

    return convert


def assert_refused(process: subprocess.CompletedProcess[str], *parts: str) -> None:
    """One line on stderr, with each of the parts, and exit code 2."""
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("make_tfrecords.py: ")
    for part in parts:
        assert part in line


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


# What it prints.


def test_a_conversion_reports_and_is_not_repeated(
    demo_csv: Path, demo_data_dir: Path, tmp_path: Path, convert_here: Callable[..., list[str]]
):
    data_dir = tmp_path / "deep" / "data"
    process = convert(demo_csv, data_dir)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    lines = process.stdout.splitlines()
    assert lines[0] == f"{data_dir}/fer2013/1.0.0"
    assert lines[1] == (
        "  train: 140 images in 1 shards (angry 20, disgust 20, fear 20, happy 20, sad 20, "
        "surprise 20, neutral 20)"
    )
    assert lines[2].startswith("  validation: 35 images in 1 shards (angry 5, ")
    assert lines[3].startswith("  test: 35 images in 1 shards (angry 5, ")
    assert lines[4] == "Found in the source:"
    assert "  0 images (0 rows) have conflicting labels" in lines
    assert "  0 images are of one colour, 0 nearly so" in lines
    assert "  in train, the most frequent expression is 1 times the rarest" in lines
    assert not any(line.startswith(("Dropped", "Left out")) for line in lines)
    # Another process, the same bytes.
    before = contents(data_dir)
    assert before == contents(demo_data_dir)

    with pytest.raises(InputError, match=r"1\.0\.0: exists already.*--overwrite"):
        convert_here(f"--csv={demo_csv}", f"--output_dir={data_dir}")
    assert contents(data_dir) == before


@pytest.mark.parametrize(
    ("engine", "pattern"),
    [
        ("local", r"searching for duplicates: 210 rows \["),
        pytest.param("beam", r"searching for duplicates *$", marks=pytest.mark.slow),
    ],
)
def test_a_terminal_shows_what_is_done(demo_csv: Path, tmp_path: Path, engine: str, pattern: str):
    main_end, program_end = os.openpty()
    termios.tcsetwinsize(program_end, (24, 100))
    arguments = [f"--csv={demo_csv}", f"--output_dir={tmp_path}", f"--engine={engine}"]
    with subprocess.Popen(
        [*PROGRAM, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=program_end
    ) as started:
        os.close(program_end)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal, on Linux
            while piece := os.read(main_end, 4096):
                shown += piece
    os.close(main_end)
    assert started.returncode == 0
    lines = shown.decode().replace("\r", "\n").splitlines()
    for stage in ("reading", "searching for duplicates", "writing"):
        assert any(line.startswith(stage) for line in lines), lines
    assert any(re.match(pattern, line) for line in lines), lines


def test_what_is_left_after_dropping_is_said(
    demo_csv: Path, tmp_path: Path, convert_here: Callable[..., list[str]]
):
    header, first, *lines = demo_csv.read_text(encoding="ascii").splitlines()
    assert first.endswith("Training")
    emotion, pixels, _ = first.split(",")
    numbers = pixels.split(" ")
    changed = " ".join([str(int(numbers[0]) ^ 1), *numbers[1:]])
    more = [f"{emotion},{pixels},PublicTest", f"{emotion},{changed},Training"]
    csv = tmp_path / "leaking.csv"
    csv.write_text("\n".join([header, first, *lines, *more]), encoding="ascii")
    output = convert_here(f"--csv={csv}", f"--output_dir={tmp_path}/data", "--drop=leaks")
    assert "  1 images of validation stand in train too, 0 more nearly so" in output
    assert output[-3:-1] == [
        "Dropped from train: 1 images, listed in the manifest; what is left:",
        "  0 images of validation stand in train too, 1 more nearly so",
    ]
    assert output[-1].startswith("  0 images of test stand in train too, ")


def test_votes_that_are_lost_or_on_other_images_are_said(
    demo_csv: Path, tmp_path: Path, convert_here: Callable[..., list[str]]
):
    votes = votes_on_every_row(demo_csv, tmp_path / "all.csv").counts.astype(np.int64)
    usages = ["Training"] * 140 + ["PublicTest"] * 35 + ["PrivateTest"] * 20 + ["Training"] * 5
    write_votes(tmp_path / "votes.csv", usages, np.roll(votes, 1, axis=0)[:200])
    output = convert_here(
        f"--csv={demo_csv}",
        f"--output_dir={tmp_path}/data",
        f"--ferplus_csv={tmp_path}/votes.csv",
        "--ferplus_join=name",
    )
    manifest = json.loads((tmp_path / "data/fer2013/1.0.0/manifest.json").read_bytes())
    assert (
        "FER+ has no votes on 10 rows, and those on 5 more are on images of another Usage, and are "
        "not taken."
    ) in output
    position = next(i for i, line in enumerate(output) if line.startswith("FER+'s majority"))
    assert output[position + 1].startswith(
        "  That is no more than chance: these votes are on other"
    )
    assert output[position + 1].endswith("Try --ferplus_join=row.")
    usable = manifest["splits"]["train"]["ferplus_examples"]["ferplus_majority"]
    assert f"    {usable} usable with --labels=ferplus_majority" in output
    count = len(manifest["audit"]["not_a_face_rows"])
    assert (
        f"  {count} images are no face to FER+'s voters, whose votes are on other images" in output
    )


def test_a_bad_row_is_one_line_and_leaves_nothing(demo_csv: Path, tmp_path: Path):
    csv = tmp_path / "bad.csv"
    csv.write_bytes(demo_csv.read_bytes() + b"3,1 2 3,Training\n")
    assert_refused(
        convert(csv, tmp_path / "data"),
        f"{csv}, line 212: expected 2304 pixels, received 3. ",
        "--on_bad_row=skip",
    )
    assert list(tmp_path.iterdir()) == [csv]


def test_bad_rows_are_left_out_and_listed(
    demo_csv: Path, tmp_path: Path, convert_here: Callable[..., list[str]]
):
    header, *lines = demo_csv.read_text(encoding="ascii").splitlines()
    csv = tmp_path / "bad.csv"
    bad = ["9" + line[1:] for line in lines[:12]]
    csv.write_text("\n".join([header, *bad, lines[0], *lines[12:], lines[5]]), encoding="ascii")
    output = convert_here(
        f"--csv={csv}", f"--output_dir={tmp_path}/data", "--on_bad_row=skip", "--num_shards=4"
    )
    assert output[1].startswith("  train: 130 images in 4 shards (")
    position = output.index("Left out: 12 rows, which could not be used:")
    assert output[position + 1 :] == [
        *(
            f"  {csv}, line {line}: expected an emotion from 0 to 6, received '9'"
            for line in range(2, 12)
        ),
        f"  ... all of them in {tmp_path}/data/fer2013/1.0.0/manifest.json",
    ]
    manifest = json.loads((tmp_path / "data/fer2013/1.0.0/manifest.json").read_bytes())
    assert [(bad["row"], bad["place"]) for bad in manifest["rows_skipped"]] == [
        (row, f"{csv}, line {row + 2}") for row in range(12)
    ]
    rows = records.load_split(records.open_split(tmp_path / "data", "train"))["row"]
    assert rows.min() == 12


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--csv=a.csv", "--output_dir=data", "--frobnicate"], ["frobnicate"]),
        (["--csv=a.csv", "--output_dir=data", "data"], ["unknown argument 'data'", "--help"]),
        (["--csv=a.csv"], ["--output_dir"]),
        (["--output_dir=data"], ["--csv", "--image_dir", "received neither"]),
        (["--csv=a.csv", "--image_dir=b", "--output_dir=data"], ["received both"]),
        ([], ["--output_dir"]),
        (["--csv=a.csv", "--output_dir=data", "--num_shards=many"], ["num_shards", "many"]),
        (["--csv=a.csv", "--output_dir=data", "--on_bad_row=mend"], ["on_bad_row", "error|skip"]),
        (["--csv"], ["csv"]),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_line(tmp_path: Path, arguments: list[str], parts: list[str]):
    process = subprocess.run(
        [*PROGRAM, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert_refused(process, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--csv=a.csv", "-h"]])
def test_help_lists_every_flag(arguments: list[str]):
    process = run_program(*arguments)
    assert process.returncode == 0
    assert process.stderr == ""
    assert process.stdout.startswith(
        "Converts FER2013, or a folder of faces, into sharded TFRecords"
    )
    values = flags.FlagValues()
    make_tfrecords.define_flags(values)
    names = set(values)
    assert names >= {"csv", "output_dir", "num_shards", "on_bad_row", "overwrite"}
    listed = {
        line.strip().removeprefix("--").removeprefix("[no]").split("=")[0]
        for line in process.stdout.splitlines()
        if line.startswith("  --")
    }
    assert listed == names
    assert "--on_bad_row=<error|skip>" in process.stdout


# Interruptions.


@pytest.fixture(scope="module")
def large_csv(demo_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The demo rows twenty times over: a second or two of writing."""
    header, rows = demo_csv.read_bytes().split(b"\n", 1)
    directory = tmp_path_factory.mktemp("large")
    path = directory / "fer2013.csv"
    path.write_bytes(header + b"\n" + rows * 20)
    yield path
    shutil.rmtree(directory)


class Conversion:
    """A program at work, to be stopped at a chosen point."""

    def __init__(self, csv: Path, data_dir: Path, *arguments: str) -> None:
        self.directory = data_dir / "fer2013" / "1.0.0"
        self.work = data_dir / "fer2013" / ".1.0.0.incomplete"
        self.process = subprocess.Popen(
            [*PROGRAM, f"--csv={csv}", f"--output_dir={data_dir}", *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job ignores Ctrl-C, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Returns when the point is reached, or the program has ended before."""
        deadline = time.monotonic() + 300
        while not reached() and self.process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.0005)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> str:
        """Sends the signal, and returns what was on stderr."""
        self.process.send_signal(number)
        return self.process.communicate()[1]


def assert_complete(data_dir: Path, csv: Path) -> None:
    """Every shard has its checksum, and the splits hold the rows of the CSV."""
    rows = np.concatenate(
        [
            records.load_split(records.open_split(data_dir, name, verify=True))["row"]
            for name in SPLITS
        ]
    )
    assert sorted(rows.tolist()) == list(range(csv.read_bytes().count(b"\n") - 1))


def assert_absent_or_complete(data_dir: Path, csv: Path) -> None:
    if (data_dir / "fer2013" / "1.0.0").exists():
        assert_complete(data_dir, csv)


def test_a_killed_conversion_leaves_nothing_in_the_way(large_csv: Path, tmp_path: Path):
    data_dir = tmp_path / "data"
    program = Conversion(large_csv, data_dir)
    program.wait_until(lambda: any(program.work.glob("spool/*.tfrecord")))
    program.stop()
    assert program.process.returncode == -signal.SIGKILL
    assert not program.directory.exists()
    assert program.work.exists()

    conversion.convert(KaggleCsv((large_csv,)), data_dir)
    assert_complete(data_dir, large_csv)
    assert [path.name for path in program.directory.parent.iterdir()] == ["1.0.0"]


def test_an_interrupt_is_one_line_and_leaves_nothing(large_csv: Path, tmp_path: Path):
    program = Conversion(large_csv, tmp_path / "data")
    program.wait_until(lambda: any(program.work.glob("spool/*.tfrecord")))
    assert program.stop(signal.SIGINT) == "interrupted\n"
    assert program.process.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_program_is_refused(demo_csv: Path, tmp_path: Path):
    (part,) = KaggleCsv((demo_csv,)).parts(1)

    def batches() -> Iterator[RawBatch]:
        yield from part.batches(0)
        assert_refused(convert(demo_csv, tmp_path, "--overwrite"), "another process is writing it")

    conversion.convert(BatchSource(batches()), tmp_path)
    assert_complete(tmp_path, demo_csv)


POINTS: dict[str, Callable[[Conversion], bool]] = {
    "the directory": lambda program: program.work.exists(),
    "a spool": lambda program: any(program.work.glob("spool/*.tfrecord")),
    "the last spool": lambda program: any(program.work.glob("spool/*-test.index")),
    "a shard": lambda program: any(program.work.glob("*.tfrecord-*")),
    "the last shard": lambda program: any(program.work.glob("*-test.tfrecord-*")),
    "TFDS metadata": lambda program: (program.work / "features.json").exists(),
    "the manifest": lambda program: (program.work / "manifest.json").exists(),
    "the final directory": lambda program: program.directory.exists(),
}


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_stage(large_csv: Path, tmp_path: Path, point: str):
    program = Conversion(large_csv, tmp_path, "--num_shards=3")
    program.wait_until(lambda: POINTS[point](program))
    program.stop()
    assert_absent_or_complete(tmp_path, large_csv)
    process = convert(large_csv, tmp_path, "--overwrite")
    assert process.returncode == 0, process.stderr
    assert_complete(tmp_path, large_csv)
    assert [path.name for path in program.directory.parent.iterdir()] == ["1.0.0"]


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
def test_kills_at_random_moments(large_csv: Path, tmp_path: Path, overwrite: bool):
    """Each conversion starts from what the one killed before it left."""
    started = Conversion(large_csv, tmp_path / "measured")
    started.wait_until(started.work.exists)
    begin = time.monotonic()
    started.process.communicate()
    assert started.process.returncode == 0
    seconds = time.monotonic() - begin

    data_dir = tmp_path / "data"
    if overwrite:
        conversion.convert(KaggleCsv((large_csv,)), data_dir)
    for delay in np.random.default_rng(0).uniform(0, 1.1 * seconds, 15):
        program = Conversion(large_csv, data_dir, *["--overwrite"] * overwrite)
        program.wait_until(program.work.exists)
        time.sleep(delay)
        program.stop()
        assert_absent_or_complete(data_dir, large_csv)
        if overwrite:
            replaced = program.directory.with_name(".1.0.0.replaced")
            assert program.directory.exists() or replaced.exists()
        elif program.directory.exists():
            shutil.rmtree(program.directory)
    process = convert(large_csv, data_dir, "--overwrite")
    assert process.returncode == 0, process.stderr
    assert_complete(data_dir, large_csv)
    assert [path.name for path in (data_dir / "fer2013").iterdir()] == ["1.0.0"]


# A folder whose expressions have numbers.


def test_numbered_folders_are_converted_as_named_ones(
    image_dir: Path, tmp_path: Path, convert_here: Callable[..., list[str]]
):
    numbers = {name: str(number) for number, name in enumerate(sorted(EXPRESSIONS))}
    for split in SPLITS:
        for name, number in numbers.items():
            shutil.copytree(image_dir / split / name, tmp_path / "faces" / split / number)
    meanings = [f"{number}={name}" for name, number in numbers.items()]
    arguments = [
        f"--image_dir={tmp_path}/faces",
        f"--expression_names={','.join(meanings[:3])}",
        f"--expression_names={','.join(meanings[3:])}",
    ]
    convert_here(*arguments, f"--output_dir={tmp_path}/local")
    source = ImageFolder(tmp_path / "faces", expression_names=parse_expression_names(meanings))
    conversion.convert(source, tmp_path / "beam", engine=BeamEngine("--runner=DirectRunner"))
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")
    conversion.convert(ImageFolder(image_dir), tmp_path / "named")
    for split in SPLITS:
        named, numbered = (
            records.load_split(records.open_split(tmp_path / name, split))
            for name in ("named", "local")
        )
        for key, values in named.items():
            np.testing.assert_array_equal(
                numbered[key][np.argsort(numbered["row"])], values[np.argsort(named["row"])]
            )
    manifest = json.loads((tmp_path / "local/fer2013/1.0.0/manifest.json").read_bytes())
    names = {number: name for name, number in numbers.items()}
    assert manifest["source"]["expression_names"] == names
