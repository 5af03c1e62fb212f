import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.runs import history

ROOT = Path(__file__).resolve().parent.parent

# Devices can only be divided in a process that has not used them.
BEGINNING = """
import sys
import tensorflow as tf

count = int(sys.argv[1])
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
import dataclasses
from pathlib import Path
import keras
import numpy as np
import pytest
from fer_tfdata import distribution, models, monitoring, records, training, training_batches
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.errors import InputError
from fer_tfdata.fast_layers import ByteDropout, FusedBatchNormalization
from fer_tfdata.train_config import TrainConfig
from tests.runs import built, check_interruption

strategy = distribution.choose_strategy([f"CPU:{number}" for number in range(count)])
assert strategy.num_replicas_in_sync == count
training.distribution.choose_strategy = lambda: strategy
# Without the pictures, which take longer than the training.
training._draw = monitoring._write_picture = lambda *args: None
data_dir, directory = Path(sys.argv[2]), Path(sys.argv[3])
config = TrainConfig(
    data_dir=str(data_dir), model="mini_xception", epochs=3, batch_size=28, precision="float32",
    optimizer="sgd", learning_rate=0.05, ema=0.5,
    augmentation=AugmentationConfig(rotation=5, mixup=0.2), augment_on="input",
)
"""

# The network normalises nothing and drops nothing, so that what two devices learn of a batch is
# what one does.
PLAIN = """
def build(*, image_size, channels, num_classes):
    inputs = keras.Input((image_size, image_size, channels), dtype="uint8")
    x = keras.layers.Conv2D(4, 5, strides=4)(keras.layers.Rescaling(1 / 255)(inputs))
    logits = keras.layers.Dense(num_classes, name="logits")(keras.layers.Flatten()(x))
    return keras.Model(inputs, logits)

models.BUILDERS["mini_xception"] = build
"""

TAUGHT = """
keras.utils.set_random_seed(1)  # of the weights that it starts from
build(image_size=48, channels=1, num_classes=7).save(start := directory.with_suffix(".keras"))
config = dataclasses.replace(
    config, start_from=str(start), teacher="pretrained", teacher_weight=0.7
)
"""

# Normalised where the kernel can and where it cannot, so that each device has moments of its own.
NORMALISED = """
def build(*, image_size, channels, num_classes):
    inputs = keras.Input((image_size, image_size, channels), dtype="uint8")
    x = keras.layers.Conv2D(4, 5, strides=4)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.5)(x))
    x = keras.layers.Dense(8)(keras.layers.Flatten()(x))
    x = keras.layers.Dropout(0.25)(keras.layers.BatchNormalization(momentum=0.5)(x))
    return keras.Model(inputs, keras.layers.Dense(num_classes, name="logits")(x))

models.BUILDERS["mini_xception"] = build
training._EVAL_BATCH = 17  # the last batch is one image, which one device gets
config = dataclasses.replace(config, augment_on="device", checkpoint_every=3)
check_interruption(config, directory, 8)  # resumes at 6, amid an epoch

with pytest.raises(InputError, match="batch_size: expected a multiple of 2"):
    training.train(dataclasses.replace(config, batch_size=27), directory / "no")
assert not (directory / "no").exists()
"""

MOMENTS = """
rng = np.random.default_rng(0)
for shape in ((6, 5, 4, 3), (16, 3)):
    parts = [rng.normal(part, 1 + part, shape).astype(np.float32) for part in range(count)]
    with strategy.scope():
        layer = FusedBatchNormalization(momentum=0.0)
        layer.build(shape)
    inputs = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
    )
    strategy.run(tf.function(lambda part: layer(part, training=True)), args=(inputs,))
    axes = tuple(range(len(shape) - 1))
    for average, moment in ((layer.moving_mean, np.mean), (layer.moving_variance, np.var)):
        first, second = strategy.experimental_local_results(average.value)
        np.testing.assert_array_equal(first, second)
        expected = np.mean([moment(part, axis=axes) for part in parts], axis=0)
        np.testing.assert_allclose(first, expected, rtol=1e-4)
"""

# Each device gets the same images.
CHANGES = """
config = dataclasses.replace(
    config, augmentation=AugmentationConfig(rotation=15), augment_on="device"
)
with strategy.scope():
    model = built(config)
    seen = tf.Variable(tf.zeros((14, 48, 48, 1), tf.uint8), trainable=False)  # one a device

def note(images, labels):
    seen.assign(images)
    return labels

model.targets = note
split = records.open_split(data_dir, "train")
batches = training_batches.train_batches(config, split, model, start_step=0).map(
    lambda rows, labels: (
        {**rows, "images": tf.tile(rows["images"][:14], (2, 1, 1, 1))}, labels
    )
)
model.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0)
first, second = (part.numpy() for part in strategy.experimental_local_results(seen))
assert (first != second).any(axis=(1, 2, 3)).all()

model.targets = None
pictured, _ = model.as_seen(next(iter(batches)))
np.testing.assert_array_equal(pictured, np.concatenate([first, second]))
"""

# Of the same numbers each device drops others, and what it drops changes from step to step.
DROPPED = """
with strategy.scope():
    layer = ByteDropout(0.5, seed=3)
drop = tf.function(lambda: strategy.run(lambda: layer(tf.ones((4, 100)), training=True)))
steps = [[part.numpy() for part in strategy.experimental_local_results(drop())] for _ in range(2)]
masks = [part.tobytes() for parts in steps for part in parts]
assert len(set(masks)) == len(masks) == 2 * count
for mask in np.concatenate(steps):
    assert 0.4 < (mask > 0).mean() < 0.6
"""


def run_on_devices(count: int, code: str, data_dir: Path, directory: Path) -> None:
    command = [sys.executable, "-c", BEGINNING + code, str(count), str(data_dir), str(directory)]
    subprocess.run(command, cwd=ROOT, check=True)


def trained(count: int, data_dir: Path, run_dir: Path, code: str) -> tuple[list, list]:
    """Returns the weights that so many devices end with, and the losses of the epochs."""
    run_on_devices(count, PLAIN + code + "training.train(config, directory)", data_dir, run_dir)
    weights: list[np.ndarray] = []
    with h5py.File(run_dir / "checkpoints" / "last.weights.h5") as file:
        file["layers"].visititems(
            lambda _, item: weights.append(item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return weights, [float(row["loss"]) for row in history(run_dir)]


@pytest.mark.slow
@pytest.mark.parametrize("code", ["", TAUGHT], ids=["alone", "taught"])
def test_two_devices_train_the_weights_that_one_does(demo_data_dir, tmp_path, code) -> None:
    one, two = (trained(count, demo_data_dir, tmp_path / str(count), code) for count in (1, 2))
    np.testing.assert_allclose(one[1], two[1], rtol=1e-4)
    assert len(one[0]) == 4
    for weight, other in zip(one[0], two[0], strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_devices_validate_what_they_export_and_go_on_where_they_were_interrupted(
    demo_data_dir, tmp_path
) -> None:
    run_on_devices(2, NORMALISED, demo_data_dir, tmp_path)
    for row, other in zip(history(tmp_path / "whole"), history(tmp_path / "parts"), strict=True):
        for key in ("accuracy", "learning_rate", "val_accuracy", "val_loss"):
            assert row[key] == other[key]
        # A restored sum is spread over the devices evenly, and so is rounded in another order.
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=1e-6)
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    best = max(history(tmp_path / "whole"), key=lambda row: float(row["val_accuracy"]))
    assert metrics["accuracy"] == pytest.approx(float(best["val_accuracy"]))
    assert metrics["nll"] == pytest.approx(float(best["val_loss"]), rel=1e-5)


@pytest.mark.slow
def test_two_devices_keep_the_mean_of_their_moments(demo_data_dir, tmp_path) -> None:
    run_on_devices(2, MOMENTS, demo_data_dir, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_each_device_drops_units_of_its_own(count, demo_data_dir, tmp_path) -> None:
    run_on_devices(count, DROPPED, demo_data_dir, tmp_path)


@pytest.mark.slow
def test_each_device_draws_changes_of_its_own(demo_data_dir, tmp_path) -> None:
    run_on_devices(2, CHANGES, demo_data_dir, tmp_path)
