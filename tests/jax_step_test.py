"""Trains under KERAS_BACKEND=jax, which is another process's: this one's backend is TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_tfdata import evaluation, records
from fer_tfdata.classifier import KerasClassifier
from fer_tfdata.run_directory import RunDirectory, load_model
from tests.runs import assert_same_history, history

ROOT = Path(__file__).resolve().parent.parent

# Without the pictures, which take longer than the training.
PROGRAM = """
import dataclasses, sys
from pathlib import Path
import numpy as np
import pytest
from fer_tfdata import command_line
command_line.import_tensorflow_quietly()
import keras
from fer_tfdata import evaluation, models, monitoring, records, training
from fer_tfdata.classifier import KerasClassifier
from fer_tfdata.errors import InputError
from fer_tfdata.train_config import TrainConfig
from tests import tiny_network
from tests.runs import check_interruption

assert keras.backend.backend() == "jax"
models.BUILDERS["mini_xception"] = tiny_network.build
training._draw = monitoring._write_picture = lambda *args: None
data_dir, directory = Path(sys.argv[1]), Path(sys.argv[2])
config = TrainConfig(
    data_dir=str(data_dir), model="mini_xception", epochs=2, batch_size=28, precision="float32",
    schedule="cosine", weight_decay=0.05, label_smoothing=0.1, ema=0.9, checkpoint_every=3,
)
metrics = check_interruption(config, directory, 8)  # resumes at 6, amid an epoch

start = directory / "whole" / "model.keras"
further = dataclasses.replace(config, start_from=str(start), epochs=1, learning_rate=1e-12, ema=0)
training.train(further, directory / "further")
given, trained = (
    [weight.numpy() for weight in keras.models.load_model(path).trainable_weights]
    for path in (start, directory / "further" / "model.keras")
)
for before, after in zip(given, trained, strict=True):
    np.testing.assert_allclose(after, before, atol=1e-6)

model = keras.models.load_model(start)
validation = records.open_split(data_dir, "validation")
evaluated = evaluation.evaluate(KerasClassifier(model), validation, model_name="", batch_size=13)
assert evaluated["accuracy"] == metrics["accuracy"]
images = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 1), np.uint8)
np.save(directory / "probabilities.npy", KerasClassifier(model).probabilities(images))

for change, profile_steps, message in (
    ({"augment_on": "device"}, None, "augment_on: expected input or auto under KERAS_BACKEND=jax"),
    ({"teacher": "runs/a"}, None, "teacher: expected none under KERAS_BACKEND=jax"),
    ({}, (1, 2), "profile_steps: expected none under KERAS_BACKEND=jax"),
):
    with pytest.raises(InputError, match=message):
        training.train(
            dataclasses.replace(config, **change), directory / "no", profile_steps=profile_steps
        )
assert not (directory / "no").exists()
"""


def run_on_jax(code: str, *arguments: object, devices: int = 1) -> None:
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # which take longer than these steps
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


@pytest.fixture(scope="module")
def directory(demo_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `PROGRAM` leaves: a run that went through, one that was interrupted, and answers."""
    directory = tmp_path_factory.mktemp("jax")
    run_on_jax(PROGRAM, demo_data_dir, directory)
    return directory


def test_an_interrupted_run_ends_as_one_that_went_through(directory: Path) -> None:
    assert_same_history(directory / "whole", directory / "parts")
    assert len(history(directory / "whole")) == 2
    assert not list((directory / "parts" / "checkpoints").glob("step-*"))


def test_the_model_answers_the_same_on_tensorflow(directory: Path, demo_data_dir: Path) -> None:
    classifier = KerasClassifier(load_model(directory / "whole"))
    images = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 1), np.uint8)
    np.testing.assert_allclose(
        classifier.probabilities(images), np.load(directory / "probabilities.npy"), atol=1e-6
    )
    split = records.open_split(demo_data_dir, "validation")
    metrics = evaluation.evaluate(classifier, split, model_name="")
    (*_, best) = sorted(history(directory / "whole"), key=lambda row: float(row["val_accuracy"]))
    assert metrics["accuracy"] == pytest.approx(float(best["val_accuracy"]))


def test_the_run_says_what_it_was_trained_by(directory: Path) -> None:
    written = RunDirectory(directory / "whole").environment.read_text()
    assert '"backend": "jax"' in written
    assert '"jax": "' in written


def test_a_compiled_sum_is_what_it_is_uncompiled() -> None:
    # JAX 0.10.2 gives the last rows the sums of others on CPUs: github.com/jax-ml/jax/issues/39103
    code = """
import jax
import jax.numpy as jnp

ones = jnp.eye(3)
squared = jax.vmap(lambda row: jnp.sum((ones @ row) ** 2))
rows = jnp.arange(32_769.0)[:, None] * jnp.array([1.0, 0.0, 0.0])
assert jax.jit(squared)(rows)[-1] == squared(rows)[-1] == 32_768**2
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_two_devices_of_one_process_train_the_same(demo_data_dir: Path, tmp_path: Path) -> None:
    run_on_jax(PROGRAM, demo_data_dir, tmp_path, devices=2)
