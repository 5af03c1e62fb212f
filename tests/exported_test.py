import dataclasses
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fer_tfdata import evaluation, exported, records
from fer_tfdata.errors import InputError
from fer_tfdata.exported import Exported, Metadata
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from fer_tfdata.prediction import Predictor

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("saved_model", "litert", "onnx")


@pytest.fixture(scope="module")
def written(small_exports) -> dict[str, Path]:
    return {name: small_exports.paths[name] for name in NAMES}


def faces(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 48, 48, 1), dtype=np.uint8)


def metadata(**changes) -> Metadata:
    return dataclasses.replace(
        Metadata(
            version="0",
            format="onnx",
            quantization="none",
            image_shape=(48, 48, 1),
            expressions=EXPRESSIONS,
            model="pretrained",
            model_sha256="00",
            manifest_sha256=None,
            content_bytes=7,
            content_sha256="11",
        ),
        **changes,
    )


def test_metadata_survive_the_round_trip() -> None:
    for some in (
        metadata(),
        metadata(manifest_sha256="22", expressions=EIGHT_EXPRESSIONS),
        metadata(trained_on=("train", "validation")),
    ):
        assert exported.from_json(exported.to_json(some)) == some


def test_an_older_export_does_not_say_what_it_was_trained_on() -> None:
    content = json.loads(exported.to_json(metadata()))
    del content["trained_on"]
    assert exported.from_json(json.dumps(content)).trained_on is None


@pytest.mark.parametrize("name", NAMES)
def test_an_export_says_of_itself_what_it_says_when_it_is_loaded(written, name, tmp_path) -> None:
    assert exported.read_metadata(written[name]) == exported.load(written[name]).metadata
    absent = tmp_path / written[name].name
    with pytest.raises(InputError, match="expected an export, received nothing there"):
        exported.read_metadata(absent)
    if written[name].is_dir():
        absent.mkdir()
    else:
        absent.write_bytes(b"none")
    with pytest.raises(InputError, match="received a damaged one"):
        exported.read_metadata(absent)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_is_a_classifier(small_exports, demo_data_dir, name) -> None:
    classifier = exported.load(small_exports.paths[name])
    for n in (5, 1, 3, 0):
        probabilities = classifier.probabilities(faces(n))
        assert probabilities.dtype == np.float64
        assert probabilities.shape == (n, 7)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    for wrong in (faces(2)[:, :40], faces(2).astype(np.float32), faces(2)[..., 0]):
        with pytest.raises(InputError, match=r"expected images as uint8 \['n', 48, 48, 1\]"):
            classifier.probabilities(wrong)
    split = records.open_split(demo_data_dir, "validation")
    metrics, expected = (
        evaluation.evaluate(one, split, model_name="m", tta="flip")
        for one in (classifier, small_exports.source.classifier)
    )
    assert metrics["accuracy"] == expected["accuracy"]
    assert metrics["nll"] == pytest.approx(expected["nll"])


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", '{"expressions": 1, "image_shape": []}'),
        exported.to_json(metadata()).replace("disgust", "disgusp"),
        exported.to_json(metadata()).replace("content_bytes", "contents"),
    ],
)
def test_other_metadata_are_refused(text) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        exported.from_json(text)


def test_what_is_not_finite_is_said() -> None:
    broken = Exported(metadata(), lambda images: np.full((len(images), 7), np.nan, np.float32))
    with pytest.raises(InputError, match="received NaN or infinity"):
        broken.probabilities(faces(1))


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_at_the_end(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 3] ^= 1
    return bytes(changed)


def emptied(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut_short, cut_at_the_end, flipped, emptied])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("saved_model", "saved_model.pb"),
        ("saved_model", "variables/variables.data-00000-of-00001"),
        ("litert", ""),
        ("onnx", ""),
    ],
)
def test_a_damaged_export_is_one_clear_error(written, tmp_path, damage, name, file) -> None:
    path = copied(written[name], tmp_path)
    damaged = path / file if file else path
    damaged.write_bytes(damage(damaged.read_bytes()))
    with pytest.raises(InputError, match="received a damaged one or another file") as error:
        exported.load(path)
    assert str(error.value).startswith(f"{path}: expected an export")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("damage", [cut_short, cut_at_the_end, emptied])
def test_damaged_metadata_are_one_clear_error(written, tmp_path, damage) -> None:
    path = copied(written["saved_model"], tmp_path)
    damaged = path / "assets.extra" / "fer_tfdata.json"
    damaged.write_bytes(damage(damaged.read_bytes()))
    with pytest.raises(InputError, match="received a damaged one or another file"):
        exported.load(path)


def copied(path: Path, directory: Path) -> Path:
    copy = directory / path.name
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            target = copy / file.relative_to(path) if path.is_dir() else copy
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return copy


def test_what_others_wrote_is_refused(written, tmp_path) -> None:
    other = copied(written["saved_model"], tmp_path)
    (other / "assets.extra" / "fer_tfdata.json").unlink()
    bare = [other]
    for name in ("litert", "onnx"):
        content_bytes = exported.load(written[name]).metadata.content_bytes
        bare.append(tmp_path / f"other{written[name].suffix}")
        bare[-1].write_bytes(written[name].read_bytes()[:content_bytes])
    for path in bare:
        assert exported.is_export(path)
        with pytest.raises(InputError, match="expected an export as tools/export_model writes it"):
            exported.load(path)


def test_what_is_an_export_and_what_is_not(written, tmp_path) -> None:
    assert all(exported.is_export(path) for path in written.values())
    assert exported.is_export(tmp_path / "absent.onnx")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "model.keras"):
        assert not exported.is_export(path)
    with pytest.raises(InputError, match=r"absent\.onnx: expected an export, received nothing"):
        exported.load(tmp_path / "absent.onnx")


@pytest.mark.parametrize("module", ["ai_edge_litert.interpreter", "onnxruntime"])
def test_a_missing_runtime_is_named_with_its_extra(written, monkeypatch, module) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    path = written["onnx" if module == "onnxruntime" else "litert"]
    with pytest.raises(InputError, match=r"not installed: pip install 'fer-tfdata\[export\]'"):
        exported.load(path)


def test_threads_do_not_mix_their_images_up(written) -> None:
    classifier = exported.load(written["litert"])
    images = faces(8)
    expected = [classifier.probabilities(images[i : i + 1]) for i in range(8)]
    wrong = []

    def classify(place: int) -> None:
        for _ in range(50):
            received = classifier.probabilities(images[place : place + 1])
            if not np.allclose(received, expected[place], atol=1e-6):
                wrong.append(place)

    threads = [threading.Thread(target=classify, args=[place]) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_predictions_with_an_export_need_no_tensorflow(written, name) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None;"
        "import numpy as np; from fer_tfdata.prediction import Predictor;"
        f"predictor = Predictor.from_path({str(written[name])!r});"
        "faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8);"
        "print(*predictor.predict_faces(faces).ravel().tolist())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = Predictor.from_path(written[name]).predict_faces(faces(3))
    received = np.array([float(word) for word in done.stdout.split()]).reshape(3, 7)
    np.testing.assert_allclose(received, expected, atol=1e-6)
    assert done.stderr == ""
