import json
from pathlib import Path

import numpy as np
import pytest

from fer_tfdata import named_models, pretrained, records
from fer_tfdata.classifier import KerasClassifier
from fer_tfdata.errors import InputError
from fer_tfdata.exported import Exported
from tests import exports

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model():
    return exports.small_model()


@pytest.fixture
def run_dir(model, tmp_path):
    exports.named(tmp_path / "run", model)
    environment = {"manifest_sha256": "ab" * 32}
    (tmp_path / "run" / "environment.json").write_text(json.dumps(environment))
    return tmp_path / "run"


def test_a_run_and_its_file_are_the_same_model(run_dir, model) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), dtype=np.uint8)
    expected = KerasClassifier(model).probabilities(faces)
    for name in (str(run_dir), str(run_dir / "model.keras")):
        loaded = named_models.load(name)
        assert isinstance(loaded, KerasClassifier)
        np.testing.assert_allclose(loaded.probabilities(faces), expected, atol=1e-6)


@pytest.mark.parametrize("name", exports.VARIANTS)
def test_an_export_is_loaded_by_its_own_runtime(small_exports, name) -> None:
    path = small_exports.paths[name]
    assert isinstance(named_models.load(str(path)), Exported)
    with pytest.raises(InputError, match=r"a run directory or a \.keras file, received an export"):
        named_models.load_keras(str(path))


def test_a_keras_model_knows_where_it_came_from(run_dir) -> None:
    file = run_dir / "model.keras"
    of_run, of_file = (named_models.load_keras(str(path)) for path in (run_dir, file))
    assert of_run.sha256 == of_file.sha256 == records.sha256_of(file)
    assert of_run.manifest_sha256 == of_file.manifest_sha256 == "ab" * 32
    other = file.rename(run_dir / "other.keras")  # which may have come from anywhere
    assert named_models.load_keras(str(other)).manifest_sha256 is None
    assert named_models.trained_on(str(other)) is None
    shipped = named_models.load_keras("pretrained")
    description = pretrained.read_description()
    assert shipped.sha256 == description["sha256"]
    published = ROOT / "benchmarks" / "results" / "residual_attention_long.json"
    environment = json.loads(published.read_text())["environment"]
    assert shipped.manifest_sha256 == environment["manifest_sha256"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"{}", b'{"manifest_sha256": 1}'])
def test_a_damaged_run_does_not_say_what_data_it_had(run_dir, content) -> None:
    (run_dir / "environment.json").write_bytes(content)
    assert named_models.load_keras(str(run_dir)).manifest_sha256 is None


def test_an_export_says_what_its_model_was_trained_on(
    run_dir, small_exports, demo_data_dir, tmp_path
) -> None:
    (run_dir / "metrics.json").write_text('{"trained_on": ["train", "validation"]}')
    source = named_models.load_keras(str(run_dir))
    assert source.trained_on == ("train", "validation")
    path, _ = exports.write(source, tmp_path, demo_data_dir, "litert")
    assert named_models.trained_on(str(path)) == ["train", "validation"]
    assert named_models.trained_on(str(small_exports.paths["litert"])) is None


@pytest.mark.parametrize("load", [named_models.load, named_models.load_keras])
def test_what_is_no_model_is_said_by_its_name(load, tmp_path) -> None:
    with pytest.raises(InputError, match=r"absent: expected a run directory or a \.keras file"):
        load(str(tmp_path / "absent"))
    with pytest.raises(InputError, match=r"absent\.tflite: expected"):
        load(str(tmp_path / "absent.tflite"))
    file = tmp_path / "nine.keras"
    exports.small_model(outputs=9).save(file)
    with pytest.raises(InputError, match=r"nine\.keras: expected a model that returns logits"):
        load(str(file))
