from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_tfdata import annotation, copies
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.faces import Box
from fer_tfdata.frames import Frame
from fer_tfdata.images import Pixels
from fer_tfdata.results import FacePrediction, ImagePrediction
from tests.videos import read_video

FACES = [FacePrediction(Box(30, 30, 60, 60), dict.fromkeys(EXPRESSIONS, 1 / 7))]


def picture(tone: int) -> Pixels:
    return np.full((301, 400, 3), tone, np.uint8)


def predicted(*frames: Frame) -> Iterator[tuple[Frame, ImagePrediction]]:
    for frame in frames:
        faces = FACES if frame.error is None else []
        yield frame, ImagePrediction(frame.source, faces, frame.error, frame.index)


def video_frames(source: Path, count: int) -> list[Frame]:
    return [
        Frame(source=source, pixels=picture(20 * n), index=n, time=Fraction(n * n, 10))
        for n in range(count)
    ]


def test_copies_do_not_collide(tmp_path: Path) -> None:
    names = ("a/x.jpg", "b/x.jpg", "c/X.JPG", "a/x.png", "a/x.webp", "a/x.mov", "b/x.mp4")
    sources = [Path(name) for name in names]
    named = copies.name_copies(sources, tmp_path)
    assert [named[source].name for source in sources] == [
        *("x.jpg", "x-2.jpg", "X-3.JPG", "x.png", "x-2.png", "x.mp4", "x-2.mp4")
    ]
    assert {path.parent for path in named.values()} == {tmp_path}


def test_the_longest_names_are_shortened(tmp_path: Path) -> None:
    names = ("a/" + "é" * 125 + "x.jpg", "b/" + "é" * 125 + "x.jpg", "a/" + "x" * 255)
    sources = [Path(name) for name in names]
    named = copies.name_copies(sources, tmp_path)
    assert [named[source].name for source in sources] == [
        *("é" * 125 + "x.jpg", "é" * 124 + "-2.jpg", "x" * 251 + ".png")
    ]
    for copy in named.values():
        copy.touch()


def test_copies_never_replace_an_input(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "notes.txt").write_text("no folder")
    with pytest.raises(InputError, match="expected a folder without inputs"):
        copies.name_copies([tmp_path / "wall.png"], tmp_path / "more" / "..")
    with pytest.raises(InputError, match="expected a folder, received a file"):
        copies.name_copies([tmp_path / "wall.png"], tmp_path / "notes.txt")


def test_images_and_videos_are_copied_as_their_results_pass(tmp_path: Path) -> None:
    clip, photograph, wrong = Path("clip.mov"), Path("photograph.png"), Path("wrong.jpg")
    sources = [
        Frame(source=photograph, pixels=picture(90)),
        *video_frames(clip, 5),
        Frame(source=wrong, error="no image"),
    ]
    named = copies.name_copies([photograph, clip, wrong], tmp_path / "out")
    results = list(copies.write_copies(predicted(*sources), named))
    assert results == [result for _, result in predicted(*sources)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"clip.mp4", "photograph.png"}
    with Image.open(named[photograph]) as copy:
        np.testing.assert_array_equal(np.asarray(copy), annotation.annotate(picture(90), FACES))
    frames, times = read_video(named[clip])
    assert times == [0, 0.1, 0.4, 0.9, 1.6]
    for number, frame in enumerate(frames):
        annotated = annotation.annotate(picture(20 * number), FACES)
        assert np.abs(frame[:301].astype(int) - annotated).mean() < 6


def test_a_damaged_videos_copy_has_the_frames_before(tmp_path: Path) -> None:
    clip = Path("clip.mp4")
    sources = [*video_frames(clip, 3), Frame(source=clip, error="damaged")]
    results = list(copies.write_copies(predicted(*sources), {clip: tmp_path / "clip.mp4"}))
    assert results[-1].error == "damaged"
    assert len(read_video(tmp_path / "clip.mp4")[0]) == 3


def test_a_video_that_cannot_be_read_has_no_copy(tmp_path: Path) -> None:
    clip = Path("clip.mp4")
    broken = Frame(source=clip, error="no video")
    assert len(list(copies.write_copies(predicted(broken), {clip: tmp_path / "clip.mp4"}))) == 1
    assert not list(tmp_path.iterdir())


def test_a_file_that_comes_twice_has_both_results(tmp_path: Path) -> None:
    photograph, wrong = Path("photograph.png"), Path("wrong.mp4")
    sources = [Frame(source=photograph, pixels=picture(90))] * 2
    sources += [Frame(source=wrong, error="no video")] * 2
    named = copies.name_copies([photograph, wrong], tmp_path)
    results = list(copies.write_copies(predicted(*sources), named))
    assert [result.path for result in results] == [frame.source for frame in sources]


def test_of_a_video_that_comes_twice_the_second_copy_is_kept(tmp_path: Path) -> None:
    clip, copy = Path("clip.mp4"), tmp_path / "clip.mp4"
    sources = [*video_frames(clip, 3), *video_frames(clip, 5)]
    assert len(list(copies.write_copies(predicted(*sources), {clip: copy}))) == 8
    assert read_video(copy)[1] == [0, 0.1, 0.4, 0.9, 1.6]


def test_an_interrupted_copy_is_none(tmp_path: Path) -> None:
    clip, copy = Path("clip.mp4"), tmp_path / "clip.mp4"
    copy.write_text("an earlier one")
    results = copies.write_copies(predicted(*video_frames(clip, 9)), {clip: copy})
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert copy.read_text() == "an earlier one"
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
