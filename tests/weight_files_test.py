import errno
import os
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from fer_tfdata import weight_files
from fer_tfdata.errors import InputError
from tests import tiny_network


def network(seed: int) -> keras.Model:
    """A network whose numbers are all different."""
    model = tiny_network.build(image_size=48, channels=1, num_classes=7)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The sealed weights of `network(0)`."""
    path = tmp_path / "best.weights.h5"
    network(0).save_weights(path)
    weight_files.seal(path)
    return path


def test_what_was_sealed_is_loaded(path: Path) -> None:
    other = network(1)
    weight_files.load(other, path)
    for weight, expected in zip(other.get_weights(), network(0).get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_changed_number_is_noticed_wherever_it_stands(path: Path) -> None:
    whole = path.read_bytes()
    for weight in network(0).get_weights():
        start = whole.index(weight.tobytes())
        changed = bytearray(whole)
        changed[start + weight.nbytes // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"received numbers that are not what its checksum"):
            weight_files.check(path)
    path.write_bytes(whole)
    weight_files.check(path)


def test_what_weights_are_kept_for_is_told(path: Path) -> None:
    assert weight_files.check(path) is None
    weight_files.seal(path, val_accuracy=2 / 3)
    assert weight_files.check(path) == 2 / 3


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_what_is_cut_off_is_one_line(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"best\.weights\.h5: expected the weights .*") as error:
        weight_files.load(network(1), path)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_missing_is_one_line(path: Path) -> None:
    path.unlink()
    with pytest.raises(InputError, match=r"received no file there$"):
        weight_files.load(network(1), path)


def test_a_file_from_before_there_was_a_checksum_is_loaded(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs.clear()
    weight_files.load(network(1), path)


def test_weights_of_another_network_are_one_line(path: Path) -> None:
    other = tiny_network.build_flat(image_size=48, channels=1, num_classes=7)
    with pytest.raises(InputError, match=r"expected the weights that were written there") as error:
        weight_files.load(other, path)
    assert len(str(error.value).splitlines()) == 1


def test_what_the_system_does_not_let_read_is_not_called_damaged(path: Path, monkeypatch) -> None:
    def refuse(*args, **kwargs) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(InputError, match=r"could not be read \(Permission denied\)") as error:
        weight_files.check(path)
    assert not isinstance(error.value, weight_files.DamagedError)


def test_the_optimizer_s_state_does_not_count(path: Path) -> None:
    model = network(0)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(path)
    weight_files.seal(path)
    with h5py.File(path, "r+") as file:
        file["optimizer/vars/3"][...] += 1
    weight_files.check(path)
