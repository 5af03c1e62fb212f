import collections
import csv
import subprocess
import sys

import cv2
import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fer_tfdata import demo_faces
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import NUM_EXPRESSIONS

NUM_FACES = 1500


@pytest.fixture(scope="module")
def faces():
    return demo_faces.draw_faces(NUM_FACES, seed=7)


def test_one_face():
    for expression in range(NUM_EXPRESSIONS):
        face = demo_faces.draw_face(expression, seed=3)
        assert face.shape == (48, 48)
        assert face.dtype == np.uint8
        assert face.std() > 5
        np.testing.assert_array_equal(face, demo_faces.draw_face(expression, seed=3))
        assert not np.array_equal(face, demo_faces.draw_face(expression, seed=4))


def test_the_expression_changes_the_face_and_not_the_person():
    faces = np.stack([demo_faces.draw_face(e, seed=5) for e in range(NUM_EXPRESSIONS)])
    assert len(np.unique(faces, axis=0)) == NUM_EXPRESSIONS
    same_person = np.abs(np.diff(faces.astype(float), axis=0)).mean()
    strangers = np.stack([demo_faces.draw_face(6, seed=seed) for seed in range(20)])
    assert same_person < 0.3 * np.abs(np.diff(strangers.astype(float), axis=0)).mean()


@pytest.mark.parametrize("size", [16, 40, 96, 197])
def test_a_seed_is_the_same_face_at_any_size(size):
    face = demo_faces.draw_face(3, seed=11, size=size)
    assert face.shape == (size, size)
    coarse = [
        cv2.resize(image, (12, 12), interpolation=cv2.INTER_AREA).astype(float).ravel()
        for image in (face, demo_faces.draw_face(3, seed=11))
    ]
    assert np.corrcoef(coarse)[0, 1] > 0.97


def test_many_faces_are_balanced_shuffled_and_distinct(faces):
    images, labels = faces
    assert images.shape == (NUM_FACES, 48, 48)
    assert images.dtype == np.uint8
    assert labels.shape == (NUM_FACES,)
    assert labels.dtype == np.int64
    assert set(np.bincount(labels, minlength=NUM_EXPRESSIONS)) == {214, 215}
    assert set(labels[:50]) == set(range(NUM_EXPRESSIONS))
    assert not np.array_equal(labels, np.arange(NUM_FACES) % NUM_EXPRESSIONS)
    assert len({image.tobytes() for image in images}) == NUM_FACES


def test_many_faces_follow_the_seed():
    images, labels = demo_faces.draw_faces(20, seed=1)
    again = demo_faces.draw_faces(20, seed=1)
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(labels, again[1])
    other = demo_faces.draw_faces(20, seed=2)[0]
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in other}


@pytest.mark.parametrize("num_faces", [0, 1, 6, 7])
def test_few_faces(num_faces):
    images, labels = demo_faces.draw_faces(num_faces, seed=0)
    assert images.shape == (num_faces, 48, 48)
    assert len(set(labels.tolist())) == len(labels) == num_faces


def test_the_expressions_can_be_learnt_but_not_perfectly(faces):
    images, labels = faces
    small = np.stack(
        [cv2.resize(image, (24, 24), interpolation=cv2.INTER_AREA) for image in images]
    )
    pixels = small.reshape(len(small), -1).astype(float)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= pixels.std(axis=1, keepdims=True)
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    classifier.fit(pixels[:1000], labels[:1000])
    predicted = classifier.predict(pixels[1000:])
    assert 0.40 < np.mean(predicted == labels[1000:]) < 0.80
    for expression in range(NUM_EXPRESSIONS):
        recall = np.mean(predicted[labels[1000:] == expression] == expression)
        assert recall > 1.3 / NUM_EXPRESSIONS


def test_csv_is_kaggles_format(tmp_path):
    path = tmp_path / "made" / "fer2013.csv"
    demo_faces.write_csv(path, train=70, validation=14, test=21, seed=5)
    content = path.read_bytes()
    assert content.startswith(b"emotion,pixels,Usage\n")

    with path.open(encoding="ascii", newline="") as file:
        rows = list(csv.DictReader(file))
    usages = [row["Usage"] for row in rows]
    assert usages == ["Training"] * 70 + ["PublicTest"] * 14 + ["PrivateTest"] * 21
    counts = collections.Counter((row["Usage"], int(row["emotion"])) for row in rows)
    for expression in range(NUM_EXPRESSIONS):
        assert counts["Training", expression] == 10
        assert counts["PublicTest", expression] == 2
        assert counts["PrivateTest", expression] == 3

    images = [np.array(row["pixels"].split(" "), dtype=np.uint8) for row in rows]
    assert {image.shape for image in images} == {(48 * 48,)}
    assert len({image.tobytes() for image in images}) == len(rows)

    lines = ["emotion,pixels,Usage"] + [
        f"{int(row['emotion'])},{' '.join(str(value) for value in image)},{row['Usage']}"
        for row, image in zip(rows, images, strict=True)
    ]
    assert content == ("\n".join(lines) + "\n").encode("ascii")


def test_csv_follows_the_seed(tmp_path):
    written = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        path = tmp_path / f"{name}.csv"
        demo_faces.write_csv(path, train=7, validation=7, test=7, seed=seed)
        written[name] = path.read_bytes()
    assert written["first"] == written["again"]
    assert not set(written["first"].splitlines()[1:]) & set(written["other"].splitlines()[1:])


def test_csv_is_whole_or_untouched(tmp_path, monkeypatch):
    path = tmp_path / "fer2013.csv"
    path.write_text("what was there")
    draw, drawn = demo_faces._draw, []

    def stop_at_the_third(*args):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(draw(*args))
        return drawn[-1]

    monkeypatch.setattr(demo_faces, "_draw", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        demo_faces.write_csv(path, train=7, validation=0, test=0)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "what was there"


def test_a_split_may_be_empty(tmp_path):
    path = tmp_path / "fer2013.csv"
    demo_faces.write_csv(path, train=1, validation=0, test=0)
    assert [line.split(",")[2] for line in path.read_text().splitlines()] == ["Usage", "Training"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: demo_faces.draw_face(7, seed=0), "expression must be from 0 to 6. Got: 7"),
        (lambda: demo_faces.draw_face(-1, seed=0), "expression must be from 0 to 6. Got: -1"),
        (lambda: demo_faces.draw_face(0, seed=-1), "seed must be at least 0. Got: -1"),
        (lambda: demo_faces.draw_face(0, seed=0, size=15), "at least 16 pixels. Got: 15"),
        (lambda: demo_faces.draw_faces(-1, seed=0), "at least 0. Got: -1"),
    ],
)
def test_refuses_what_is_out_of_range(draw, message):
    with pytest.raises(InputError, match=message):
        draw()


def test_a_refused_csv_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"at least 0\. Got: -2"):
        demo_faces.write_csv(tmp_path / "made" / "fer2013.csv", validation=-2)
    assert not list(tmp_path.iterdir())


def test_no_global_generator_is_involved():
    before = np.random.get_state()[1].copy()
    demo_faces.draw_face(0, seed=0)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_tensorflow_is_not_imported():
    program = "import sys, fer_tfdata.demo_faces; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
