import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Devices can only be divided in a process that has not used them.
PROGRAM = """
import sys
import tensorflow as tf

count, data_dir, run_dir, augment_on = int(sys.argv[1]), *sys.argv[2:]
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
from pathlib import Path
from fer_tfdata import distribution, training
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.train_config import TrainConfig

strategy = distribution.choose_strategy([f"CPU:{number}" for number in range(count)])
assert strategy.num_replicas_in_sync == count
training.distribution.choose_strategy = lambda: strategy
training.train(
    TrainConfig(
        data_dir=data_dir, model="mini_xception", epochs=4, batch_size=28, precision="float32",
        ema=0.5, augmentation=AugmentationConfig(rotation=5, mixup=0.2), augment_on=augment_on,
    ),
    Path(run_dir),
)
"""


@pytest.mark.slow
@pytest.mark.parametrize("augment_on", ["input", "device"])
def test_two_devices_train_as_one_does(demo_data_dir, tmp_path, augment_on) -> None:
    losses = {}
    for count in (1, 2):
        run_dir = tmp_path / str(count)
        command = [sys.executable, "-c", PROGRAM, str(count), str(demo_data_dir), str(run_dir)]
        subprocess.run([*command, augment_on], cwd=ROOT, check=True)
        with (run_dir / "history.csv").open(newline="") as file:
            losses[count] = [float(row["loss"]) for row in csv.DictReader(file)]
    # Each device normalises its half of a batch, so that losses are near and not the same.
    np.testing.assert_allclose(losses[1], losses[2], rtol=0.15)
    assert losses[2][-1] < losses[2][0]
