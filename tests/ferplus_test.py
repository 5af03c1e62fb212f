import csv
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fer_tfdata import ferplus
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS, NO_LABEL, SPLITS, expression_of

HEADER = ("Usage", "Image name", *ferplus.COLUMNS)


def made_up_votes(count: int) -> npt.NDArray[np.int64]:
    """Ten votes an image, int64 [count, 10]: from agreement on any column to none at all."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(len(ferplus.COLUMNS), 0.15), count)
    return rng.multinomial(10, shares).astype(np.int64)


def write_votes(path: Path, usages: Sequence[str], votes: npt.NDArray[np.int64]) -> None:
    """Writes votes as `fer2013new.csv` has them."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for number, (usage, counts) in enumerate(zip(usages, votes.tolist(), strict=True)):
            writer.writerow([usage, f"fer{number:07d}.png", *counts])


def votes_on_every_row(fer2013_csv: Path, path: Path) -> ferplus.Votes:
    """Writes made-up votes on the rows of a Kaggle CSV, most for their label, and reads them."""
    with fer2013_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    votes = made_up_votes(len(rows))
    named = [expression_of(column) for column in ferplus.COLUMNS]
    for number, row in enumerate(rows):
        if number % 3:
            label, most = named.index(EXPRESSIONS[int(row["emotion"])]), votes[number].argmax()
            votes[number, [label, most]] = votes[number, [most, label]]
    write_votes(path, [row["Usage"] for row in rows], votes)
    return ferplus.read_votes(path)


def votes_of(**counts: int) -> npt.NDArray[np.int64]:
    return np.array([[counts.get(name, 0) for name in ferplus.COLUMNS]])


def test_votes_are_read_as_they_were_written(tmp_path) -> None:
    written = made_up_votes(30)
    write_votes(tmp_path / "votes.csv", ["Training"] * 20 + ["PrivateTest"] * 10, written)
    votes = ferplus.read_votes(tmp_path / "votes.csv")
    assert votes.counts.dtype == np.uint8
    assert list(votes.splits) == ["train"] * 20 + ["test"] * 10
    rows = np.array([3, 4, 25])
    of_rows = votes.of(rows, ["train", "train", "test"])
    assert of_rows.dtype == np.int64
    assert (of_rows == written[rows]).all()
    votes.check_joined(30, votes.fates(rows, ["train", "train", "test"]))


def test_columns_are_found_by_name_in_any_order_and_case(tmp_path) -> None:
    path = tmp_path / "votes.csv"
    header = [name.upper() for name in reversed(HEADER)]
    row = ["0", "1", "2", "0", "0", "0", "0", "0", "7", "0", "fer0.png", "publictest"]
    text = f"{', '.join(header)}\r\n\r\n{','.join(row)}\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    votes = ferplus.read_votes(path)
    assert list(votes.splits) == ["validation"]
    assert votes.counts.tolist() == votes_of(NF=0, unknown=1, contempt=2, happiness=7).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: expected the columns Usage, neutral, .*received: $"),
        ("Usage,neutral\nTraining,1\n", r"line 1: expected the columns.*received: Usage, neutral"),
        ("{header}\n", "expected rows below the header, received none"),
        ("{header}\nTraining,a,1,2\n", r"line 2: expected 12 columns .* received 4"),
        ("{header}\nDrilling,a,{zeros}\n", "line 2: expected a Usage of .* received 'Drilling'"),
        ("{header}\nTraining,a,{zeros}\nTraining,a,-1,{nine}\n", "line 3: .*received '-1'"),
        ("{header}\nTraining,a,256,{nine}\n", "whole numbers from 0 to 255, received '256'"),
        ("{header}\nTraining,a,1.5,{nine}\n", "whole numbers from 0 to 255, received '1.5'"),
        ("{header}\nTraining,a,,{nine}\n", "whole numbers from 0 to 255, received ''"),
        ("\xff\xfe{header}", "expected a readable CSV file of FER\\+ votes"),
    ],
)
def test_what_is_no_file_of_votes_is_said_with_its_line(tmp_path, text, message) -> None:
    path = tmp_path / "votes.csv"
    zeros = ",".join(["0"] * 10)
    filled = text.format(header=",".join(HEADER), zeros=zeros, nine=zeros[2:])
    path.write_bytes(filled.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        ferplus.read_votes(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


CELLS = st.sampled_from(
    [
        *("Training", "PublicTest", "privatetest ", "fer0000003.png", "fer0000004.png", "fer.png"),
        *("0", "10", " 7", "256", "-1", "1e1", "", '"', '"2"', "\0", "\ufeff", "\u0663", "NF"),
        *("a\nb", "\x1b", "x" * 500),
    ]
)
CHANGES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12), CELLS), max_size=3)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=CHANGES,
    cut=st.none() | st.integers(1, 400),
    join=st.sampled_from(["row", "name"]),
)
def test_whatever_a_file_of_votes_holds_is_read_right_or_an_error_of_one_line(
    tmp_path, changes, cut, join
) -> None:
    path = tmp_path / "votes.csv"
    votes = made_up_votes(5)
    rows = [["Training", f"fer{number:07d}.png", *map(str, votes[number])] for number in range(5)]
    table = [list(HEADER), *rows]
    for row, column, cell in changes:
        table[row][column : column + 1] = [cell]
    path.write_bytes("\n".join(",".join(row) for row in table).encode()[: cut and -cut])
    try:
        received = ferplus.read_votes(path, join=join)
    except InputError as error:
        (line,) = str(error).splitlines()
        assert line.startswith(str(path))
        assert len(line) < 500 + len(str(path))
        assert line.isprintable()
    else:
        assert received.counts.shape == (len(received.splits), len(ferplus.COLUMNS))
        assert received.counts.dtype == np.uint8
        assert set(received.splits) <= {*SPLITS, ""}
        if not changes and not cut:
            np.testing.assert_array_equal(received.counts, votes)


def test_a_file_that_is_not_there_is_said(tmp_path) -> None:
    with pytest.raises(InputError, match=r"absent\.csv: expected a readable CSV"):
        ferplus.read_votes(tmp_path / "absent.csv")


@pytest.fixture
def votes(tmp_path: Path) -> ferplus.Votes:
    write_votes(tmp_path / "votes.csv", ["Training", "Training", "PublicTest"], made_up_votes(3))
    return ferplus.read_votes(tmp_path / "votes.csv")


def test_votes_on_another_source_are_refused(votes) -> None:
    message = r"votes\.csv, row 1 .* image of PrivateTest.*received votes on one of Training"
    with pytest.raises(InputError, match=message):
        votes.of(np.array([0, 1]), ["train", "test"])
    with pytest.raises(InputError, match=r"received 3 rows, and the source has a row 3"):
        votes.of(np.array([2, 3]), ["validation", "validation"])
    for num_rows in (2, 4):
        with pytest.raises(InputError, match=f"votes on the {num_rows} rows .* received 3"):
            votes.check_joined(num_rows, votes.fates(np.array([0, 1]), ["train", "train"]))


def test_votes_joined_by_name_go_to_the_row_in_it(tmp_path) -> None:
    header, zeros = ",".join(HEADER), ",".join(["0"] * 9)
    lines = ["Training,fer0000000.png,1", "Training,,9", "Training,fer0000003.png,2"]
    lines += ["PublicTest,fer0000001.png,3", "Training,fer0000003.png,4"]
    path = tmp_path / "votes.csv"
    path.write_text("\n".join([header, *(f"{line},{zeros}" for line in lines)]))
    votes = ferplus.read_votes(path, join="name")
    rows = np.arange(5)
    of_rows = votes.of(rows, ["train"] * 5)
    # Row 1 is of another split, row 2 has no name, row 4 lies beyond the last.
    assert of_rows[:, 0].tolist() == [1, 0, 0, 2, 0]
    assert not of_rows[:, 1:].any()
    assert ferplus.majority(of_rows[[1, 2, 4]]).tolist() == [NO_LABEL] * 3
    assert not ferplus.distribution(of_rows[[1, 2, 4]]).any()
    fates = votes.fates(rows, ["train"] * 5)
    assert fates == {"joined": 2, "no votes": 2, "other usage": 1}
    votes.check_joined(999, fates)


def test_votes_of_which_no_name_is_a_row_of_the_source_are_refused(tmp_path) -> None:
    write_votes(tmp_path / "votes.csv", ["Training"] * 3, made_up_votes(3))
    votes = ferplus.read_votes(tmp_path / "votes.csv", join="name")
    fates = votes.fates(np.arange(4), ["validation"] * 3 + ["train"])
    with pytest.raises(
        InputError, match=r"none: 1 rows have no votes, .* on 3 rows are on .*Usage"
    ):
        votes.check_joined(4, fates)


def test_names_without_numbers_cannot_be_joined_by(tmp_path) -> None:
    write_votes(tmp_path / "votes.csv", ["Training"] * 2, made_up_votes(2))
    text = (tmp_path / "votes.csv").read_text()
    (tmp_path / "votes.csv").write_text(text.replace("fer0", "img0"))
    with pytest.raises(InputError, match=r"expected names such as fer0000017\.png"):
        ferplus.read_votes(tmp_path / "votes.csv", join="name")
    (tmp_path / "votes.csv").write_text(text.replace("Image name", "file"))
    with pytest.raises(InputError, match="expected the columns Image name, each once"):
        ferplus.read_votes(tmp_path / "votes.csv", join="name")
    ferplus.read_votes(tmp_path / "votes.csv")


def test_votes_can_be_sent_to_another_process(votes) -> None:
    received = pickle.loads(pickle.dumps(votes))
    assert (received.counts == votes.counts).all()
    assert list(received.splits) == list(votes.splits)


@pytest.mark.parametrize(
    ("counts", "expression"),
    [
        ({"anger": 10}, "angry"),
        ({"neutral": 4, "sadness": 1, "anger": 3, "disgust": 2}, None),  # 4 of 9
        ({"neutral": 6, "happiness": 1, "surprise": 1, "unknown": 2}, "neutral"),  # 6 of 8
        ({"fear": 5, "surprise": 5}, None),  # a tie
        ({"contempt": 3, "neutral": 2}, "contempt"),  # 3 of 5
        ({"contempt": 4, "neutral": 2, "disgust": 2}, None),  # half is not more than half
        ({"contempt": 2, "neutral": 1, "sadness": 1, "anger": 1, "fear": 1}, "contempt"),  # 2 of 2
        ({"unknown": 6, "happiness": 4}, None),
        ({"NF": 10}, None),
        (dict.fromkeys(ferplus.COLUMNS, 1), None),  # nothing is left
        ({}, None),
    ],
)
def test_the_majority_by_the_official_rule(counts, expression) -> None:
    (label,) = ferplus.majority(votes_of(**counts))
    assert label == (NO_LABEL if expression is None else EIGHT_EXPRESSIONS.index(expression))


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        ({"anger": 10}, {"angry": 1.0}),
        ({"fear": 6, "surprise": 3, "sadness": 1}, {"fear": 2 / 3, "surprise": 1 / 3}),
        ({"happiness": 4, "contempt": 2, "unknown": 4}, {"happy": 2 / 3, "contempt": 1 / 3}),
        ({"happiness": 3, "contempt": 2, "unknown": 5}, {}),  # half is not more than half
        ({"happiness": 4, "NF": 6}, {}),
        (dict.fromkeys(ferplus.COLUMNS, 1), {}),
    ],
)
def test_the_distribution_by_hand(counts, shares) -> None:
    (received,) = ferplus.distribution(votes_of(**counts))
    expected = [shares.get(name, 0.0) for name in EIGHT_EXPRESSIONS]
    np.testing.assert_allclose(received, expected, rtol=1e-6)


@pytest.mark.parametrize("column", ferplus.COLUMNS[:8])
def test_an_expression_that_all_agree_on_is_the_label_of_its_name(column) -> None:
    names = dict(zip(ferplus.COLUMNS, ("neutral", "happy", "surprise", "sad"), strict=False))
    names |= {"anger": "angry", "disgust": "disgust", "fear": "fear", "contempt": "contempt"}
    (label,) = ferplus.majority(votes_of(**{column: 10}))
    assert EIGHT_EXPRESSIONS[label] == names[column]


def test_more_than_half_of_all_votes_make_it_no_face() -> None:
    some = np.concatenate([votes_of(NF=n, anger=10 - n) for n in (0, 5, 6, 10)])
    assert ferplus.not_a_face(some).tolist() == [False, False, True, True]


ANY_VOTES = hnp.arrays(
    np.int64, st.tuples(st.integers(0, 8), st.just(10)), elements=st.sampled_from([0, 1, 2, 3, 255])
)


@given(votes=ANY_VOTES)
def test_the_majority_has_the_largest_share_of_a_distribution(votes) -> None:
    majority, distribution = ferplus.majority(votes), ferplus.distribution(votes)
    assert majority.dtype == np.int64
    assert distribution.dtype == np.float32
    kept = distribution.any(axis=1)
    np.testing.assert_allclose(distribution.sum(axis=1), kept, rtol=1e-6)
    labelled = majority != NO_LABEL
    assert kept[labelled].all()
    assert (distribution.argmax(axis=1) == majority)[labelled].all()
    assert ((distribution > 0.5).any(axis=1) >= labelled).all()
    assert not (ferplus.not_a_face(votes) & labelled).any()


@tf.function(input_signature=[tf.TensorSpec((None, 10), tf.int64)])
def in_a_graph(votes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    xp = tf.experimental.numpy
    return ferplus.majority(votes, xp), ferplus.distribution(votes, xp)


@settings(deadline=None)
@given(votes=ANY_VOTES)
def test_the_graph_goes_by_the_same_rule(votes) -> None:
    majority, distribution = in_a_graph(votes)
    assert majority.dtype == tf.int64
    assert distribution.dtype == tf.float32
    assert (majority.numpy() == ferplus.majority(votes)).all()
    assert (distribution.numpy() == ferplus.distribution(votes)).all()
