import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from skimage import data

from fer_tfdata import detectors, faces, images, inputs, prediction
from fer_tfdata.classifier import KerasClassifier
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from fer_tfdata.faces import Box
from fer_tfdata.frames import Frame
from fer_tfdata.images import Pixels
from fer_tfdata.prediction import Predictor
from fer_tfdata.results import FacePrediction, ImagePrediction
from tests.videos import sliding_photograph, write_video


def tiny_model(
    *,
    shape: tuple[int | None, ...] = (48, 48, 1),
    dtype: str = "uint8",
    outputs: int = 7,
    activation: str | None = None,
) -> Any:
    """A model whose answers differ from face to face; its weights are always the same ones."""
    inputs = keras.Input(shape, dtype=dtype, name="image")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.AveragePooling2D(8)(x)
    x = keras.layers.Flatten()(x)
    kernel = keras.initializers.RandomNormal(stddev=1, seed=1)
    logits = keras.layers.Dense(outputs, activation, kernel_initializer=kernel, name="logits")(x)
    return keras.Model(inputs, logits)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(KerasClassifier(tiny_model()))


def random_images(n: int, *shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def row(prediction: FacePrediction) -> list[float]:
    return list(prediction.probabilities.values())


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    crops = random_images(5, 48, 48, 1)
    model = tiny_model()
    logits = np.asarray(model(crops), np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probabilities = Predictor(KerasClassifier(model)).predict_faces(crops)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    model = tiny_model()
    model.get_layer("logits").set_weights([np.zeros((36, 7)), np.array([5e4, 0, 0, 0, 0, 0, -5e4])])
    probabilities = Predictor(KerasClassifier(model)).predict_faces(random_images(1, 48, 48, 1))
    np.testing.assert_array_equal(probabilities, [[1, 0, 0, 0, 0, 0, 0]])


def test_batches_of_any_number(predictor: Predictor) -> None:
    crops = random_images(prediction.BATCH_SIZE + 3, 48, 48, 1)
    together = predictor.predict_faces(crops)
    assert together.shape == (len(crops), 7)
    for index in (0, prediction.BATCH_SIZE - 1, prediction.BATCH_SIZE, len(crops) - 1):
        alone = predictor.predict_faces(crops[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-6)
    assert predictor.predict_faces(crops[:0]).shape == (0, 7)


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((2, 48, 48, 3), np.uint8),
        np.zeros((2, 47, 48, 1), np.uint8),
        np.zeros((48, 48, 1), np.uint8),
        np.zeros((2, 48, 48, 1), np.float32),
    ],
)
def test_wrong_crops_are_refused(predictor: Predictor, crops: Any) -> None:
    with pytest.raises(InputError, match="expected images as uint8"):
        predictor.predict_faces(crops)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": 6}, r"returns logits \[N, 7 or 8\].*received .* returns \[None, 6\]"),
        ({"dtype": "float32"}, "takes uint8 images.*received one that takes float32"),
        ({"shape": (48, 32, 1)}, "takes uint8 images"),
        ({"shape": (48, 48, 2)}, "takes uint8 images"),
        ({"activation": "softmax"}, "received one that returns probabilities"),
    ],
)
def test_wrong_models_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KerasClassifier(tiny_model(**arguments))


def test_a_model_of_another_rank_is_refused() -> None:
    inputs = keras.Input((48, 48, 1), dtype="uint8")
    spatial = keras.Model(inputs, keras.layers.Conv2D(7, 3)(inputs))
    with pytest.raises(InputError, match=r"expected a model that returns logits"):
        KerasClassifier(spatial)
    twice = keras.Model(inputs, [keras.layers.Flatten()(inputs), keras.layers.Flatten()(inputs)])
    with pytest.raises(InputError, match="one input and one output, received 1 and 2"):
        KerasClassifier(twice)


def test_logits_that_are_not_numbers_are_refused() -> None:
    model = tiny_model()
    model.get_layer("logits").set_weights([np.full((36, 7), np.nan), np.zeros(7)])
    with pytest.raises(InputError, match="expected finite logits"):
        Predictor(KerasClassifier(model)).predict_faces(random_images(1, 48, 48, 1))


def test_from_path(tmp_path: Path, predictor: Predictor) -> None:
    tiny_model().save(tmp_path / "model.keras")
    tiny_model(outputs=6).save(tmp_path / "wrong.keras")
    crops = random_images(2, 48, 48, 1)
    for path in (tmp_path, tmp_path / "model.keras"):
        probabilities = Predictor.from_path(path).predict_faces(crops)
        np.testing.assert_allclose(probabilities, predictor.predict_faces(crops), atol=1e-6)
    with pytest.raises(InputError, match=r"wrong\.keras: expected a model that returns logits"):
        Predictor.from_path(tmp_path / "wrong.keras")
    with pytest.raises(InputError, match="nothing there"):
        Predictor.from_path(tmp_path / "missing")


def test_a_photograph(tmp_path: Path, predictor: Predictor) -> None:
    photograph = data.astronaut()
    Image.fromarray(photograph).save(tmp_path / "astronaut.png")
    (face,) = predictor.predict_image(tmp_path / "astronaut.png")
    assert abs(face.box.left - 177) < 10
    assert abs(face.box.top - 66) < 10
    assert tuple(face.probabilities) == EXPRESSIONS
    assert sum(row(face)) == pytest.approx(1, abs=1e-6)
    assert face.probabilities[face.expression] == max(row(face))
    assert predictor.predict_image(photograph) == [face]


def test_a_face_as_it_is_goes_to_the_model_unchanged(tmp_path: Path, predictor: Predictor) -> None:
    gray = random_images(1, 48, 48)[0]
    Image.fromarray(gray).save(tmp_path / "face.png")
    (face,) = predictor.predict_image(tmp_path / "face.png")
    assert face.box == Box(0, 0, 48, 48)
    expected = predictor.predict_faces(gray[np.newaxis, ..., np.newaxis])[0]
    np.testing.assert_allclose(row(face), expected, atol=1e-6)
    assert predictor.predict_image(gray) == [face]


def test_a_path_is_a_path_whatever_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="pretrained: expected a run directory"):
        Predictor.from_path("pretrained")
    Path("pretrained").mkdir()
    tiny_model(outputs=8).save("pretrained/model.keras")
    assert Predictor.from_path(Path("pretrained")).expressions == EIGHT_EXPRESSIONS


def test_a_model_of_colours_sees_what_it_was_trained_on(tmp_path: Path) -> None:
    Image.fromarray(random_images(1, 64, 64, 3)[0]).save(tmp_path / "face.png")
    predictor = Predictor(KerasClassifier(tiny_model(shape=(64, 64, 3))))
    (face,) = predictor.predict_image(tmp_path / "face.png")
    trained_on = images.read_square(tmp_path / "face.png", 64, channels=3)
    expected = predictor.predict_faces(trained_on[np.newaxis])[0]
    np.testing.assert_allclose(row(face), expected, atol=1e-6)


def test_a_model_of_three_channels_sees_gray_three_times() -> None:
    gray = random_images(1, 64, 64)[0]
    predictor = Predictor(KerasClassifier(tiny_model(shape=(64, 64, 3))))
    (face,) = predictor.predict_image(gray)
    expected = predictor.predict_faces(np.stack([gray] * 3, axis=2)[np.newaxis])[0]
    np.testing.assert_allclose(row(face), expected, atol=1e-6)


def test_a_model_of_eight_expressions_gives_eight_probabilities() -> None:
    gray = random_images(1, 48, 48)[0]
    predictor = Predictor(KerasClassifier(tiny_model(outputs=8)))
    assert predictor.expressions == EIGHT_EXPRESSIONS
    assert predictor.predict_faces(random_images(0, 48, 48, 1)).shape == (0, 8)
    (face,) = predictor.predict_image(gray)
    assert tuple(face.probabilities) == EIGHT_EXPRESSIONS
    assert sum(row(face)) == pytest.approx(1, abs=1e-6)


def test_no_face_and_no_detector(predictor: Predictor) -> None:
    flat = np.full((200, 200, 3), 99, np.uint8)
    assert predictor.predict_image(flat) == []
    whole = Predictor(KerasClassifier(tiny_model()), detector=detectors.make_detector("none"))
    assert [face.box for face in whole.predict_image(flat)] == [Box(0, 0, 200, 200)]


def test_files_together_equal_one_at_a_time(tmp_path: Path, predictor: Predictor) -> None:
    paths = []
    for index, crop in enumerate(random_images(prediction.BATCH_SIZE + 5, 48, 48)):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(crop).save(paths[-1])
    astronaut, empty, broken = (tmp_path / name for name in ("a.jpg", "empty.png", "broken.png"))
    Image.fromarray(np.hstack([data.astronaut(), data.astronaut()])).save(astronaut)
    Image.new("RGB", (200, 200)).save(empty)
    broken.write_text("no image")
    paths[3:3] = [astronaut, broken, empty]
    results = list(predictor.predict_paths(iter(paths)))
    assert [result.path for result in results] == paths
    assert [len(result.faces) for result in results[:7]] == [1, 1, 1, 2, 0, 0, 1]
    assert [result.path for result in results if result.error is not None] == [broken]
    assert "broken.png: expected an image" in str(results[4].error)
    for index in (0, 3, 5, 6, len(paths) - 1):
        alone = predictor.predict_image(paths[index])
        assert [face.box for face in alone] == [face.box for face in results[index].faces]
        for one, other in zip(alone, results[index].faces, strict=True):
            np.testing.assert_allclose(row(one), row(other), atol=1e-6)


def test_no_files_no_results(predictor: Predictor) -> None:
    assert list(predictor.predict_paths([])) == []


def test_folders_and_patterns_are_searched_and_addresses_never(
    tmp_path: Path, predictor: Predictor
) -> None:
    for name in ("b.png", "a.png"):
        Image.new("L", (48, 48)).save(tmp_path / name)
    named = [tmp_path, str(tmp_path / "b*"), "https://example.org/a.png", tmp_path / "none*"]
    results = list(predictor.predict_paths(named))
    assert [result.path.name for result in results[:3]] == ["a.png", "b.png", "b.png"]
    assert [result.error is None for result in results] == [True, True, True, False, False]
    assert "received an address" in str(results[3].error)


@pytest.mark.parametrize("path", ["photo.jpg", Path("photo.jpg")])
def test_one_path_in_place_of_several_is_refused(predictor: Predictor, path: Any) -> None:
    with pytest.raises(InputError, match=r"received one: photo.jpg; put it into a list"):
        predictor.predict_paths(path)


# Videos


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second with the photograph, and then as long a wall alone."""
    frames = [*sliding_photograph(15), *sliding_photograph(15, faces=False)]
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", frames)


def test_every_frame_of_a_video_has_a_result(clip: Path, predictor: Predictor) -> None:
    results = list(predictor.predict_paths([clip], smoothing=0))
    assert [result.frame for result in results] == list(range(30))
    np.testing.assert_allclose([r.time or 0 for r in results], np.arange(30) / 30, atol=1e-5)
    assert [len(result.faces) for result in results] == [1] * 15 + [0] * 15
    assert {face.track for result in results for face in result.faces} == {0}
    lefts = [result.faces[0].box.left for result in results[:15]]
    np.testing.assert_allclose(np.diff(lefts), 1, atol=3)
    for result, frame in zip(results[:15:7], list(inputs.read_frames([clip]))[:15:7], strict=True):
        [found] = detectors.HaarDetector().detect(
            [frame.pixels], smallest=prediction.SMALLEST_IN_VIDEOS
        )
        box = result.faces[0].box
        assert faces.overlap(box, found[0]) > 0.8
        crop = faces.crop_face(frame.pixels, box, 48, channels=1)
        expected = predictor.predict_faces(crop[np.newaxis])
        np.testing.assert_allclose(row(result.faces[0]), expected[0], atol=1e-6)


def test_smoothing_is_on_and_can_be_left_out(clip: Path) -> None:
    whole = Predictor(KerasClassifier(tiny_model()), detector=detectors.WholeDetector())

    def changes(**smoothing: float) -> float:
        results = whole.predict_paths([clip], **smoothing)
        rows = [row(result.faces[0]) for result in results]
        return float(np.abs(np.diff(rows, axis=0)).sum())

    assert changes() == changes(smoothing=prediction.SMOOTHING)
    assert 0 < changes(smoothing=5) < changes() < 0.7 * changes(smoothing=0)


def test_a_video_that_comes_twice_begins_anew(clip: Path, predictor: Predictor) -> None:
    once = list(predictor.predict_paths([clip], smoothing=5))
    twice = list(predictor.predict_paths([clip, clip], smoothing=5))
    for result, expected in zip(twice, once * 2, strict=True):
        assert result.frame == expected.frame
        for face, other in zip(result.faces, expected.faces, strict=True):
            assert (face.box, face.track) == (other.box, other.track)
            np.testing.assert_allclose(row(face), row(other), atol=1e-6)


def test_images_and_videos_share_batches_and_keep_their_order(
    tmp_path: Path, clip: Path, predictor: Predictor
) -> None:
    face, broken = tmp_path / "face.png", tmp_path / "broken.mkv"
    Image.fromarray(random_images(1, 48, 48)[0]).save(face)
    broken.write_text("no video")
    copy = tmp_path / "again.mp4"
    copy.write_bytes(clip.read_bytes())
    results = list(predictor.predict_paths([face, clip, broken, copy, face]))
    assert [result.path for result in results] == [face, *[clip] * 30, broken, *[copy] * 30, face]
    first, second = results[1:31], results[32:62]
    for result, again in zip(first, second, strict=True):  # at other places in their batches
        for one, other in zip(result.faces, again.faces, strict=True):
            assert (one.box, one.track) == (other.box, other.track)
            np.testing.assert_allclose(row(one), row(other), atol=1e-6)
    alone = predictor.predict_image(face)
    for result in (results[0], results[-1]):
        assert (result.frame, result.time) == (None, None)
        assert [face.track for face in result.faces] == [None]
        np.testing.assert_allclose(row(result.faces[0]), row(alone[0]), atol=1e-6)


def test_of_a_damaged_video_the_frames_before_the_damage_have_results(
    tmp_path: Path, clip: Path, predictor: Predictor
) -> None:
    cut = tmp_path / "cut.mkv"
    write_video(cut, sliding_photograph(60, faces=False))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    *frames, last, other = predictor.predict_paths([cut, tmp_path / "missing.png"])
    assert len(frames) > 3  # how many half of the bytes are rests on the encoder's threads
    assert [result.error for result in frames] == [None] * len(frames)
    assert (last.path, last.frame, last.time) == (cut, None, None)
    assert not last.faces
    assert "expected a complete video" in str(last.error)
    assert "nothing there" in str(other.error)


class Counted:
    """Frames that know how many of them are in memory at most."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.alive = self.most_alive = 0
        self._lock = threading.Lock()

    def frames(self) -> Iterator[Frame]:
        for index in range(self.count):
            pixels = _Pixels((1080, 1920, 3), np.uint8)
            pixels.counted = self
            self._add(1)
            yield Frame(source=Path("a.mp4"), pixels=pixels, index=index, time=Fraction(index, 30))

    def _add(self, number: int) -> None:
        with self._lock:
            self.alive += number
            self.most_alive = max(self.alive, self.most_alive)


class _Pixels(np.ndarray):  # type: ignore[type-arg]
    counted: Counted | None = None

    def __del__(self) -> None:
        if self.counted is not None:
            self.counted._add(-1)


def test_however_long_a_video_is_few_frames_are_in_memory() -> None:
    predictor = Predictor(KerasClassifier(tiny_model()), detector=detectors.WholeDetector())
    most_alive = []
    for count in (66, 132):
        counted = Counted(count)
        for number, (_, result) in enumerate(predictor.predict_frames(counted.frames())):
            assert result.frame == number
        assert number == count - 1
        most_alive.append(counted.most_alive)
    assert most_alive[1] <= 80
    assert most_alive[1] <= most_alive[0] + 12


def test_live_frames_are_answered_one_by_one(predictor: Predictor) -> None:
    taken = []

    def frames() -> Iterator[Frame]:
        for index in range(5):
            taken.append(index)
            pixels = np.zeros((48, 48, 3), np.uint8)
            yield Frame(source=Path("camera:0"), pixels=pixels, index=index, time=Fraction(index))

    for frame, result in predictor.predict_frames(frames(), live=True):
        assert taken[-1] == frame.index == result.frame


def test_who_takes_no_more_results_leaves_no_thread(clip: Path, predictor: Predictor) -> None:
    before = threading.active_count()
    predicted = predictor.predict_frames(inputs.read_frames([clip]))
    next(predicted)
    predicted.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_threads_share_a_predictor(predictor: Predictor) -> None:
    photographs = [np.ascontiguousarray(data.astronaut()[:, n:]) for n in (0, 10, 20, 30)]
    alone = [predictor.predict_image(photograph) for photograph in photographs]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(predictor.predict_image, photographs))
    assert [[face.box for face in faces] for faces in together] == [
        [face.box for face in faces] for faces in alone
    ]


def test_a_negative_smoothing_is_refused(clip: Path, predictor: Predictor) -> None:
    with pytest.raises(InputError, match="smoothing: expected seconds of at least 0"):
        next(predictor.predict_paths([clip], smoothing=-1))


def test_a_result_holds_no_pixels() -> None:
    assert not {"pixels", "image"} & {*ImagePrediction.__dataclass_fields__}
