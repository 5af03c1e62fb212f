import json
import shutil
import zipfile

import keras
import pytest

from fer_tfdata import named_models
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from fer_tfdata.run_directory import ModelForm, check_model, find_model, load_model, trained_on
from tests.prediction_test import tiny_model


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """What a run leaves, as far as it is read here."""
    root = tmp_path_factory.mktemp("run")
    tiny_model().save(root / "model.keras")
    (root / "metrics.json").write_text('{"trained_on": ["train"]}')
    return root


def test_a_run_and_its_file_are_the_same_model(run_dir) -> None:
    file = run_dir / "model.keras"
    assert find_model(run_dir) == find_model(file) == file
    assert isinstance(load_model(run_dir), keras.Model)


def test_a_run_says_what_it_was_trained_on_and_a_lone_file_does_not(run_dir, tmp_path) -> None:
    assert trained_on(run_dir) == trained_on(run_dir / "model.keras") == ["train"]
    assert named_models.trained_on(str(run_dir)) == ["train"]
    assert named_models.trained_on("pretrained") == ["train"]
    shutil.copy(run_dir / "model.keras", tmp_path)
    assert trained_on(tmp_path) is None
    for content, expected in (
        ("[]", None),
        ("damaged", None),
        (json.dumps({"accuracy": 1}), None),
        (json.dumps({"trained_on": ["train", "validation"]}), ["train", "validation"]),
    ):
        (tmp_path / "metrics.json").write_text(content)
        assert trained_on(tmp_path) == expected
    with pytest.raises(InputError, match="received nothing there"):
        trained_on(tmp_path / "absent")


def test_what_is_no_model_is_said(tmp_path) -> None:
    with pytest.raises(InputError, match="received nothing there"):
        find_model(tmp_path / "absent")
    with pytest.raises(InputError, match=r"a directory without model\.keras"):
        find_model(tmp_path)
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(InputError, match="received a file of another kind"):
        find_model(tmp_path / "notes.txt")
    (tmp_path / "broken.keras").write_text("no model")
    with pytest.raises(InputError, match=r"broken\.keras: expected a Keras model file"):
        load_model(tmp_path / "broken.keras")


def test_a_damaged_model_is_said_to_be_damaged(tmp_path) -> None:
    file = tmp_path / "damaged.keras"
    tiny_model().save(file)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        weights = archive.getinfo("model.weights.h5")
    middle = weights.header_offset + weights.compress_size // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.keras: .*model\.weights\.h5"):
        load_model(file)


def test_the_number_of_logits_says_which_expressions_they_are() -> None:
    assert check_model(tiny_model()) == ModelForm((48, 48, 1), EXPRESSIONS)
    eight = tiny_model(shape=(64, 64, 3), outputs=8)
    assert check_model(eight) == ModelForm((64, 64, 3), EIGHT_EXPRESSIONS)
    with pytest.raises(InputError, match=r"logits \[N, 7 or 8\], received .* \[None, 9\]"):
        check_model(tiny_model(outputs=9))
