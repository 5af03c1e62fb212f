import csv
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Devices can only be divided in a process that has not used them.  The network normalises nothing
# and drops nothing, so that what two devices learn of a batch is what one does.
PROGRAM = """
import sys
import tensorflow as tf

count, data_dir, run_dir, augment_on = int(sys.argv[1]), *sys.argv[2:]
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
from pathlib import Path
import keras
from fer_tfdata import distribution, models, training
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.train_config import TrainConfig

def build(*, image_size, channels, num_classes):
    inputs = keras.Input((image_size, image_size, channels), dtype="uint8")
    x = keras.layers.Conv2D(4, 5, strides=4)(keras.layers.Rescaling(1 / 255)(inputs))
    logits = keras.layers.Dense(num_classes, name="logits")(keras.layers.Flatten()(x))
    return keras.Model(inputs, logits)

models.BUILDERS["mini_xception"] = build
strategy = distribution.choose_strategy([f"CPU:{number}" for number in range(count)])
assert strategy.num_replicas_in_sync == count
training.distribution.choose_strategy = lambda: strategy
training.train(
    TrainConfig(
        data_dir=data_dir, model="mini_xception", epochs=3, batch_size=28, precision="float32",
        optimizer="sgd", learning_rate=0.05, ema=0.5,
        augmentation=AugmentationConfig(rotation=5, mixup=0.2), augment_on=augment_on,
    ),
    Path(run_dir),
)
"""


def trained(count: int, augment_on: str, data_dir: Path, run_dir: Path) -> tuple[list, list]:
    """Returns the weights that so many devices end with, and the losses of the epochs."""
    command = [sys.executable, "-c", PROGRAM, str(count), str(data_dir), str(run_dir), augment_on]
    subprocess.run(command, cwd=ROOT, check=True)
    weights: list[np.ndarray] = []
    with h5py.File(run_dir / "checkpoints" / "last.weights.h5") as file:
        file["layers"].visititems(
            lambda _, item: weights.append(item[()]) if isinstance(item, h5py.Dataset) else None
        )
    with (run_dir / "history.csv").open(newline="") as file:
        return weights, [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_devices_train_the_weights_that_one_does(demo_data_dir, tmp_path) -> None:
    one, two = (trained(count, "input", demo_data_dir, tmp_path / str(count)) for count in (1, 2))
    np.testing.assert_allclose(one[1], two[1], rtol=1e-4)
    assert len(one[0]) == 4
    for weight, other in zip(one[0], two[0], strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_each_device_draws_changes_of_its_own(demo_data_dir, tmp_path) -> None:
    _, losses = trained(2, "device", demo_data_dir, tmp_path / "run")
    assert losses[-1] < losses[0]
