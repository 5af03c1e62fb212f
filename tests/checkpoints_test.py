import errno
import logging
import os
import resource
from pathlib import Path

import keras
import numpy as np
import pytest

from fer_tfdata import models, records
from fer_tfdata.checkpoints import Checkpoints, delete_all
from fer_tfdata.errors import InputError
from fer_tfdata.train_config import TrainConfig
from fer_tfdata.training import build_training_model
from fer_tfdata.training_model import TrainingModel
from tests import tiny_network

pytestmark = pytest.mark.usefixtures("tiny_network")

SCHEMA = records.Schema(image_shape=(16, 16, 1), expressions=("happy", "sad", "neutral"))
CONFIG = TrainConfig(
    data_dir="data",
    model="mini_xception",
    optimizer="adam",
    schedule="cosine",
    weight_decay=0.1,
    ema=0.9,
    label_smoothing=0.1,
)


def model_after(steps: int, policy: str = "float32") -> TrainingModel:
    """Returns a model after so many steps, each of which changes all of its variables."""
    keras.utils.set_random_seed(0)
    model = build_training_model(CONFIG, policy, SCHEMA, steps_per_epoch=10)
    rng = np.random.default_rng(1)
    for _ in range(steps):
        images = rng.integers(0, 256, (8, 16, 16, 1), np.uint8)
        model.train_on_batch(images, rng.dirichlet(np.ones(3), 8).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def model() -> TrainingModel:
    """A model that has made a step; what other tests do with it changes its values alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.BUILDERS, CONFIG.model, tiny_network.build)
        return model_after(1)


def state(model: TrainingModel) -> list[np.ndarray]:
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def assert_same_state(state_of_one: list[np.ndarray], state_of_other: list[np.ndarray]) -> None:
    for value, other in zip(state_of_one, state_of_other, strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_everything_that_a_step_reads_comes_back(tmp_path: Path, policy: str) -> None:
    trained = model_after(3, policy)
    Checkpoints(tmp_path, trained).save(3)
    fresh = model_after(0, policy)
    changed = [not np.array_equal(a, b) for a, b in zip(state(trained), state(fresh), strict=True)]
    # All but a few, such as the learning rate and, on JAX, what a loss scale counts on TensorFlow.
    assert sum(changed) > 0.8 * len(changed)
    checkpoints = Checkpoints(tmp_path, fresh)
    assert checkpoints.restore() == 3
    assert_same_state(state(fresh), state(trained))
    fresh.reset_metrics()  # as `fit` does when an epoch begins
    checkpoints.restore_metrics()
    assert_same_state(state(fresh), state(trained))


def test_without_a_checkpoint_nothing_changes(tmp_path: Path, model: TrainingModel) -> None:
    before = state(model)
    assert Checkpoints(tmp_path / "none", model).restore() == 0
    assert_same_state(state(model), before)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, model_after(0))
    for step in (5, 999, 1000, 12):  # 12: of a run that went back to an older one
        checkpoints.save(step)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000999.npz",
        "step-000001000.npz",
    ]
    delete_all(tmp_path)
    assert not list(tmp_path.iterdir())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_bit_of_the_directory(path: Path) -> None:
    """Makes the first array look encrypted: the flags, 8 bytes into its entry at the end."""
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02")) + 8] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip_a_bit, flip_a_bit_of_the_directory, empty])
def test_a_damaged_newest_one_is_left_for_the_one_before(tmp_path, caplog, model, damage) -> None:
    checkpoints = Checkpoints(tmp_path, model)
    checkpoints.save(1)
    before = state(model)
    model.train_on_batch(np.zeros((8, 16, 16, 1), np.uint8), np.full((8, 3), 1 / 3, np.float32))
    checkpoints.save(2)
    newest = tmp_path / "step-000000002.npz"
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.restore() == 1
    assert f"{newest} is damaged" in caplog.text
    assert_same_state(state(model), before)
    assert not newest.exists()
    checkpoints.save(3)
    assert len(list(tmp_path.iterdir())) == 2
    for path in tmp_path.iterdir():
        damage(path)
    with pytest.raises(InputError, match="received 2 that cannot be read; start a new run"):
        checkpoints.restore()


def test_one_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(tmp_path, model) -> None:
    checkpoints = Checkpoints(tmp_path, model)
    checkpoints.save(1)
    newest = tmp_path / "step-000000002.npz"
    newest.mkdir()  # the system refuses to read it, whoever asks
    with pytest.raises(InputError, match=f"{newest}: could not be read .*delete it to go on"):
        checkpoints.restore()
    newest.rmdir()
    assert checkpoints.restore() == 1


def test_a_checkpoint_of_another_network_is_no_checkpoint_of_this_one(tmp_path: Path) -> None:
    Checkpoints(tmp_path, model_after(0)).save(1)
    other = build_training_model(
        TrainConfig(data_dir="data", model="residual_small"), "float32", SCHEMA, steps_per_epoch=10
    )
    with pytest.raises(InputError, match="that cannot be read"):
        Checkpoints(tmp_path, other).restore()


def test_a_checkpoint_that_the_system_refuses_asks_for_no_room(
    tmp_path: Path, model: TrainingModel, monkeypatch
) -> None:
    def refused(*args, **kwargs) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(np, "savez", refused)
    with pytest.raises(InputError, match=r"denied\); continue with --resume once it can"):
        Checkpoints(tmp_path, model).save(1)


def test_a_disk_that_takes_no_more_leaves_the_checkpoint_before(
    tmp_path: Path, model: TrainingModel
) -> None:
    checkpoints = Checkpoints(tmp_path, model)
    checkpoints.save(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(
            InputError,
            match=r"step-000000002\.npz: could not be written .*; make room and continue",
        ):
            checkpoints.save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.npz"]
    assert checkpoints.restore() == 1
