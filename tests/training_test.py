import dataclasses
import functools
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fer_tfdata import (
    augmentation,
    bookkeeping,
    conversion,
    data_service,
    ferplus,
    figures,
    models,
    monitoring,
    pipeline,
    processor,
    records,
    teachers,
    training,
    training_batches,
    training_model,
)
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.callbacks import NonFiniteLossError, StoppedError
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS, NO_LABEL
from fer_tfdata.run_directory import RunDirectory, load_model
from fer_tfdata.train_config import TrainConfig
from fer_tfdata.training_model import TrainingModel
from tests import tiny_network
from tests.batch_source import BatchSource, random_batch
from tests.runs import (
    assert_same_weights,
    built,
    history,
    interrupted,
    saved_weights,
    schema_of,
)

ROOT = Path(__file__).resolve().parent.parent
DRAW = training._draw
WRITE_PICTURE = monitoring._write_picture


@pytest.fixture(autouse=True)
def flat_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a network in seed_cnn's place that is trained in no time, but for the slow proofs."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setitem(models.BUILDERS, "seed_cnn", tiny_network.build_flat)


@pytest.fixture(scope="module")
def trained_run(demo_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two epochs of `flat_network` on the drawn faces; for reading only."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(data_dir=str(demo_data_dir), epochs=2, batch_size=35, precision="float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.BUILDERS, "seed_cnn", tiny_network.build_flat)
        training.train(config, run_dir)
    return run_dir


@pytest.fixture
def config(demo_data_dir: Path, tiny_network: None, undrawn: None) -> TrainConfig:
    return TrainConfig(
        data_dir=str(demo_data_dir),
        model="mini_xception",
        epochs=2,
        batch_size=70,
        precision="float32",
    )


def test_the_defaults_are_those_of_seed_cnn() -> None:
    config = TrainConfig(data_dir="data")
    assert (config.model, config.epochs, config.batch_size) == ("seed_cnn", 15, 64)
    assert (config.learning_rate, config.precision) == (5e-4, "auto")
    assert config.labels == "fer2013"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet"}, "model: expected one of seed_cnn, .*, received 'resnet'"),
        ({"precision": "int8"}, "precision: expected one of auto"),
        ({"labels": "ferplus"}, "labels: expected one of fer2013, ferplus_majority, ferplus_dis"),
        ({"epochs": 0}, "epochs: expected more than 0, received 0"),
        ({"batch_size": -1}, "batch_size: expected more than 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected more than 0"),
        ({"seed": -1}, "seed: expected 0 to 2147483647"),
        ({"optimizer": "lion"}, "optimizer: expected one of adam, sgd, received 'lion'"),
        ({"schedule": "step"}, "schedule: expected one of plateau, cosine, received 'step'"),
        ({"weight_decay": -1.0}, "weight_decay: expected 0 or more, received -1.0"),
        ({"ema": 1.0}, "ema: expected 0 or more and less than 1, received 1.0"),
        ({"label_smoothing": 1.5}, "label_smoothing: expected 0 or more and less than 1"),
        ({"teacher_weight": 0.0}, "teacher_weight: expected more than 0 and at most 1"),
        ({"checkpoint_every": 0}, "checkpoint_every: expected more than 0, received 0"),
        ({"clean_epochs": 16}, "clean_epochs: expected at most epochs=15, received 16"),
        ({"shrink": 0.6}, "shrink: expected 0 to 0.5, received 0.6"),
        ({"shrink": 0.5}, "shrink: expected more than 0 together with shrunk_epochs, or neither"),
        (
            {"shrink": 0.5, "shrunk_epochs": 12, "clean_epochs": 4},
            "shrunk_epochs: expected at most 11, what clean_epochs=4 leaves of epochs=15, rec",
        ),
        (
            {"shrink": 0.5, "shrunk_epochs": 1, "augmentation": AugmentationConfig(crop=0.25)},
            "shrink: expected either it or crop",
        ),
        ({"shrink": 0.5, "shrunk_epochs": 1}, "schedule: expected cosine with shrink"),
        ({"warmup_epochs": 1.0}, "warmup_epochs: expected 0, or schedule=cosine"),
        (
            {"warmup_epochs": 15.0, "schedule": "cosine"},
            "warmup_epochs: expected less than epochs=15, received 15.0",
        ),
        ({"teacher_weight": 0.25}, "teacher: expected one for teacher_weight=0.25, received none"),
        ({"train_on_validation": True}, "schedule: expected cosine with train_on_validation"),
        (
            {"logit_adjustment": 1.0, "labels": "ferplus_majority"},
            "logit_adjustment: expected 0, or labels=fer2013",
        ),
    ],
)
def test_a_value_out_of_range_is_refused(change, message) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(data_dir="data", **change)


def test_a_run_leaves_what_the_contract_names(trained_run: Path, demo_data_dir: Path) -> None:
    run = RunDirectory(trained_run)
    assert {path.name for path in trained_run.iterdir()} == {
        "checkpoints",
        "config.json",
        "environment.json",
        "figures",
        "history.csv",
        "metrics.json",
        "model.keras",
        "tensorboard",
    }
    written = json.loads(run.config.read_text())
    assert (written["epochs"], written["labels"]) == (2, "fer2013")
    environment = json.loads(run.environment.read_text())
    manifest_sha256 = records.open_split(demo_data_dir, "train").manifest_sha256
    assert environment["manifest_sha256"] == manifest_sha256
    assert environment["versions"]["keras"] == keras.__version__
    assert {path.name for path in run.checkpoints.iterdir()} == {
        "best.weights.h5",
        "last.weights.h5",
    }
    assert [row["epoch"] for row in history(trained_run)] == ["0", "1"]
    for name in ("learning_curves.png", "confusion_matrix.png", "model.png"):
        with Image.open(run.figures / name) as picture:
            assert min(picture.size) > 300
    assert list(run.tensorboard.glob("train/events.out.tfevents.*"))
    assert list(run.tensorboard.glob("validation/events.out.tfevents.*"))


def test_the_metrics_are_those_of_the_best_epoch_s_model(trained_run: Path) -> None:
    metrics = json.loads(RunDirectory(trained_run).metrics.read_text())
    best = max(float(row["val_accuracy"]) for row in history(trained_run))
    assert metrics["split"] == "validation"
    assert metrics["accuracy"] == pytest.approx(best)


def test_the_model_is_plain_keras_in_float32(trained_run: Path) -> None:
    path = trained_run / "model.keras"
    model = keras.models.load_model(path)
    assert {layer.compute_dtype for layer in model.layers[1:]} == {"float32"}
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    with zipfile.ZipFile(path) as archive:
        assert b"fer_tfdata" not in archive.read("config.json")  # no class of this package


@pytest.mark.slow
def test_the_model_loads_where_this_package_is_not_imported(trained_run: Path) -> None:
    code = (
        "import sys, keras; model = keras.models.load_model(sys.argv[1]);"
        "assert not any(name.startswith('fer_tfdata') for name in sys.modules);"
        "print(model.name)"
    )
    command = [sys.executable, "-c", code, str(trained_run / "model.keras")]
    output = subprocess.check_output(command, text=True, cwd=trained_run)
    assert output.strip() == "tiny_flat"


@pytest.mark.slow
def test_training_learns_the_drawn_faces(demo_data_dir: Path, tmp_path: Path) -> None:
    # 24 steps: enough for the loss to fall, not for much more.
    config = TrainConfig(data_dir=str(demo_data_dir), epochs=6, batch_size=35, precision="float32")
    training.train(config, tmp_path / "run")
    losses = [float(row["loss"]) for row in history(tmp_path / "run")]
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_directory_in_use_is_refused(config, trained_run, tmp_path) -> None:
    with pytest.raises(InputError, match="holds a run already; continue it with --resume"):
        training.train(config, trained_run)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="expected an empty or no directory"):
        training.train(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_is_continued_with_the_flags_it_was_started_with(trained_run, demo_data_dir) -> None:
    config = TrainConfig(
        data_dir=str(demo_data_dir), epochs=2, batch_size=35, precision="float32", seed=1
    )
    with pytest.raises(InputError, match=r"started with seed 0 \(now 1\)"):
        training.train(config, trained_run, resume=True)


def test_a_complete_run_is_left_as_it_is(trained_run, demo_data_dir) -> None:
    config = TrainConfig(data_dir=str(demo_data_dir), epochs=2, batch_size=35, precision="float32")
    before = (trained_run / "model.keras").stat().st_mtime_ns
    metrics = training.train(config, trained_run, resume=True)
    assert metrics == json.loads((trained_run / "metrics.json").read_text())
    assert (trained_run / "model.keras").stat().st_mtime_ns == before


def test_a_run_is_not_continued_on_other_data(config, tmp_path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(config.data_dir, data_dir)
    config = dataclasses.replace(config, data_dir=str(data_dir), epochs=1)
    training.train(config, tmp_path / "run")
    manifest = data_dir / "fer2013" / "1.0.0" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(InputError, match="started on other data"):
        training.train(config, tmp_path / "run", resume=True)


def test_a_damaged_shard_is_named(config, tmp_path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(config.data_dir, data_dir)
    (shard,) = (data_dir / "fer2013" / "1.0.0").glob("fer2013-validation.tfrecord-*")
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    config = dataclasses.replace(config, data_dir=str(data_dir))
    with pytest.raises(InputError, match=shard.name):
        training.train(config, tmp_path / "verified", verify=True)
    assert not (tmp_path / "verified").exists()
    with pytest.raises(InputError, match=shard.name):
        training.train(config, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_with_its_step(config, tmp_path) -> None:
    config = dataclasses.replace(config, learning_rate=1e30)
    said = r"the loss is (nan|inf) from step 2 on \(epoch 1\)"
    with pytest.raises(NonFiniteLossError, match=said):
        training.train(config, tmp_path / "run")


def test_a_kill_while_a_run_starts_leaves_nothing_in_the_way(config, tmp_path, monkeypatch) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / ".abcd1234.config.json").write_text('{"ep')
    config = dataclasses.replace(config, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_run", _fail)
        with pytest.raises(RuntimeError):
            training.train(config, run_dir)
    shutil.rmtree(run_dir / "checkpoints")  # as if killed before it was made
    assert training.train(config, run_dir, resume=True)["examples"] == 35
    assert not (run_dir / ".abcd1234.config.json").exists()


def _fail(*args, **kwargs) -> None:
    raise RuntimeError


def test_a_second_process_is_kept_out_from_the_first_moment(config, tmp_path) -> None:
    run_dir = tmp_path / "run"
    with (
        bookkeeping.locked(RunDirectory(run_dir)),  # and not begun
        pytest.raises(InputError, match="another process is training it"),
    ):
        training.train(config, run_dir)
    assert not list(run_dir.iterdir())


def test_what_is_no_directory_is_no_run_directory(config, tmp_path) -> None:
    (tmp_path / "file").touch()
    for run_dir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(
            InputError, match=r"expected an empty or no directory; it, or .* is a file"
        ):
            training.train(config, run_dir)


def test_a_run_directory_that_cannot_be_made_is_one_line(config) -> None:
    with pytest.raises(InputError, match=r"^/proc/run: expected to be able to read and write it"):
        training.train(config, Path("/proc/run"))


@pytest.mark.parametrize(
    ("name", "content", "received"),
    [
        ("config.json", '{"epochs": 2,}', "Expecting property name"),
        ("environment.json", "{}", "nothing called manifest_sha256 and dtype_policy"),
        ("metrics.json", "[]", "list"),
        ("metrics.json", "{}", "nothing called accuracy and "),
        ("config.json", "\xff", "codec can't decode"),
        ("history.csv", "epoch,val_accuracy\n0,\xff\n", "other rows"),
    ],
)
def test_what_a_run_wrote_about_itself_and_is_damaged_is_named(
    trained_run, demo_data_dir, tmp_path, name, content, received
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(trained_run, run_dir)
    if name != "metrics.json":
        (run_dir / "metrics.json").unlink()
    (run_dir / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=rf"{name}: expected .*{received}.* start a new"):
        training.train(trained_config(demo_data_dir), run_dir, resume=True)


def trained_config(demo_data_dir: Path) -> TrainConfig:
    """Returns what `trained_run` was started with."""
    return TrainConfig(data_dir=str(demo_data_dir), epochs=2, batch_size=35, precision="float32")


def copy_started_with(
    name: str, value: Any, trained_run: Path, tmp_path: Path
) -> tuple[RunDirectory, dict[str, Any]]:
    """Returns a copy of a run that says it was started with another value, and what was true."""
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(trained_run, run.root)
    environment = json.loads(run.environment.read_text())
    run.environment.write_text(json.dumps({**environment, name: value}))
    return run, environment


def test_a_kill_at_the_very_end_leaves_no_checkpoint_for_good(
    trained_run, demo_data_dir, tmp_path
) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(trained_run, run.root)
    (run.checkpoints / "step-000000008.npz").touch()
    training.train(trained_config(demo_data_dir), run.root, resume=True)
    assert {path.name for path in run.checkpoints.iterdir()} == {
        "best.weights.h5",
        "last.weights.h5",
    }


def damage(path: Path) -> None:
    """Turns the signs of a layer's weights, as HDF5 reads without a complaint."""
    with h5py.File(path, "r+") as file:
        file["layers/dense/vars/0"][...] *= -1


def test_lost_best_weights_make_way_for_the_best_of_the_epochs_to_come(
    config, tmp_path, monkeypatch, warnings_so_far
) -> None:
    config = dataclasses.replace(config, checkpoint_every=1, learning_rate=1e-9)
    run = RunDirectory(tmp_path / "run")
    interrupted(config, run.root, 3, monkeypatch)  # in the second epoch, which learns nothing
    damage(run.best_weights)
    training.train(config, run.root, resume=True)
    assert any("best.weights.h5: expected the weights that" in text for text in warnings_so_far())
    kept, last = (
        saved_weights(run.root, config, f"{name}.weights.h5") for name in ("best", "last")
    )
    for weight, other in zip(kept, last, strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [(0.6, 0.6), (0.8, 0.7), (None, 0.7)],
    ids=["better ones were lost", "a kill came before the checkpoint", "not stated"],
)
def test_what_is_to_be_surpassed_is_what_is_kept(config, tmp_path, kept, expected) -> None:
    run = RunDirectory(tmp_path / "run")
    built(config).save_weights(run.best_weights, val_accuracy=kept)
    config = dataclasses.replace(config, epochs=3)
    past = [{"val_accuracy": 0.7}, {"val_accuracy": 0.6}]
    assert training._to_surpass(config, run, past) == expected


def test_a_run_directory_may_have_any_name(config, tmp_path) -> None:
    run = RunDirectory(tmp_path / "lr{1e-3}%s")
    training.train(dataclasses.replace(config, epochs=1), run.root)
    assert run.last_weights.exists()


def test_best_weights_that_are_lost_at_the_end_can_be_replaced(
    config, tmp_path, monkeypatch
) -> None:
    run, export = RunDirectory(tmp_path / "run"), training._export

    def damaged(*args) -> keras.Model:
        damage(run.best_weights)
        return export(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_export", damaged)
        with pytest.raises(InputError, match=r"best\.weights\.h5: .* not what its checksum says"):
            training.train(config, run.root)
    with pytest.raises(InputError, match=r"put them back, or a copy of last\.weights\.h5 in their"):
        training.train(config, run.root, resume=True)
    assert not run.model.exists()
    shutil.copyfile(run.last_weights, run.best_weights)
    metrics = training.train(config, run.root, resume=True)
    assert metrics["accuracy"] == pytest.approx(float(history(run.root)[-1]["val_accuracy"]))


def test_sigterm_before_the_first_step_is_heard(config, tmp_path, monkeypatch) -> None:
    load = training._load_others

    def terminated(*args) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return load(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_load_others", terminated)
        with pytest.raises(StoppedError, match="stopped after step 1"):
            training.train(config, tmp_path / "run")
    assert training.train(config, tmp_path / "run", resume=True)["examples"] == 35


def test_a_second_sigterm_ends_at_once_wherever_the_first_was_heard(tmp_path, config) -> None:
    code = f"""
import os, signal
from fer_tfdata import command_line, training
from fer_tfdata.train_config import TrainConfig
stop_asked = command_line.sigterm_noted()
os.kill(os.getpid(), signal.SIGTERM)
training._load_others = lambda *args: os.kill(os.getpid(), signal.SIGTERM)
training.train(TrainConfig(data_dir={config.data_dir!r}), {str(tmp_path / "run")!r},
    stop_asked=stop_asked)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGTERM


def test_sigterm_after_the_last_step_is_heard(config, tmp_path, monkeypatch) -> None:
    run_dir = tmp_path / "run"
    config = dataclasses.replace(config, epochs=1)
    export = training._export

    def terminated(*args) -> keras.Model:
        os.kill(os.getpid(), signal.SIGTERM)
        return export(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_export", terminated)
        with pytest.raises(StoppedError, match="stopped after step 2"):
            training.train(config, run_dir)
    assert not (run_dir / "metrics.json").exists()
    assert training.train(config, run_dir, resume=True)["examples"] == 35


def test_a_kill_during_an_epoch_s_validation_costs_no_run(config, tmp_path, monkeypatch) -> None:
    config = dataclasses.replace(config, checkpoint_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModel, "evaluate", _fail)  # as `fit` validates
        with pytest.raises(RuntimeError):
            training.train(config, tmp_path / "parts")
    training.train(config, tmp_path / "parts", resume=True)
    training.train(config, tmp_path / "whole")
    assert_same_weights(config, tmp_path / "whole", tmp_path / "parts")


def test_sigterm_at_an_epoch_s_last_step_is_heeded_when_the_epoch_is_complete(
    config, tmp_path, monkeypatch
) -> None:
    class Terminate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None) -> None:
            if batch == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    made = training._callbacks
    with monkeypatch.context() as patch:
        patch.setattr(training, "_callbacks", lambda *args: [Terminate(), *made(*args)])
        with pytest.raises(StoppedError, match="stopped after step 2"):
            training.train(config, tmp_path / "run")
    assert len(history(tmp_path / "run")) == 1
    training.train(config, tmp_path / "run", resume=True)
    assert len(history(tmp_path / "run")) == 2


def test_a_full_disk_ends_with_what_to_do_and_the_run_goes_on(
    config, tmp_path, monkeypatch
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setattr(monitoring, "_write_picture", WRITE_PICTURE)
    config = dataclasses.replace(config, epochs=5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A picture an epoch goes into TensorBoard's file, which is the largest.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InputError, match=r"run: a file could not be written \(File too large"):
            training.train(config, run_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert training.train(config, run_dir, resume=True)["examples"] == 35


def test_a_stop_may_be_asked_for(config, tmp_path) -> None:
    with pytest.raises(StoppedError, match="stopped after step 1"):
        training.train(config, tmp_path / "run", stop_asked=lambda: True)
    assert training.train(config, tmp_path / "run", resume=True)["examples"] == 35


@pytest.mark.parametrize(
    ("name", "started"),
    [
        ("threads", 99),
        ("fer_tfdata", "0.0.1"),
        ("devices", ["CPU of another kind"]),
        ("onednn", not processor.takes_onednn()),
    ],
)
def test_what_the_last_bits_rest_on_is_warned_of(
    trained_run, demo_data_dir, tmp_path, warnings_so_far, name, started
) -> None:
    run, environment = copy_started_with(name, started, trained_run, tmp_path)
    training.train(trained_config(demo_data_dir), run.root, resume=True)
    (warning,) = (text for text in warnings_so_far() if "bit for bit" in text)
    assert f"started with {name} {started!r} (now {environment[name]!r})" in warning


def test_a_run_from_before_onednn_was_asked_for_is_warned_of(
    trained_run, demo_data_dir, tmp_path, warnings_so_far, monkeypatch
) -> None:
    run, environment = copy_started_with("onednn", None, trained_run, tmp_path)
    del environment["onednn"]
    run.environment.write_text(json.dumps(environment))
    monkeypatch.setattr(processor, "takes_onednn_by_itself", lambda: False)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    training.train(trained_config(demo_data_dir), run.root, resume=True)
    (warning,) = (text for text in warnings_so_far() if "bit for bit" in text)
    assert "started with onednn False (now True)" in warning


def test_a_picture_that_cannot_be_drawn_loses_no_training(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "_draw", DRAW)
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    config = dataclasses.replace(config, epochs=1)
    assert training.train(config, tmp_path / "run")["examples"] == 35
    assert not (tmp_path / "run" / "figures" / "model.png").exists()
    assert (tmp_path / "run" / "figures" / "learning_curves.png").exists()


def test_nor_does_one_that_tensorboard_was_to_show(
    config, tmp_path, monkeypatch, warnings_so_far
) -> None:
    monkeypatch.setattr(monitoring, "_write_picture", WRITE_PICTURE)
    monkeypatch.setattr(figures, "captioned_images", _fail)
    training.train(dataclasses.replace(config, epochs=1), tmp_path / "run")
    assert any("the picture batch could not be drawn" in text for text in warnings_so_far())


def test_a_run_whose_history_was_lost_is_not_continued(config, tmp_path, monkeypatch) -> None:
    interrupted(config, tmp_path / "run", 3, monkeypatch)
    (tmp_path / "run" / "history.csv").unlink()
    with pytest.raises(InputError, match="expected the 1 epochs that the checkpoint holds"):
        training.train(config, tmp_path / "run", resume=True)


@pytest.mark.parametrize("row", ["1", "1,0.5,0.5", "1,high"])
def test_a_history_of_other_columns_is_refused(tmp_path, row) -> None:
    (tmp_path / "history.csv").write_text(f"epoch,loss\n0,0.5\n{row}\n")
    with pytest.raises(InputError, match="expected in each row a number for each column"):
        bookkeeping.read_history(tmp_path / "history.csv")


def test_a_run_goes_on_in_the_precision_it_was_started_in(config, tmp_path, monkeypatch) -> None:
    interrupted(config, tmp_path / "run", 3, monkeypatch)
    monkeypatch.setattr(training, "choose_policy", lambda precision, *, model: "mixed_bfloat16")
    with pytest.raises(InputError, match="was started in float32"):
        training.train(config, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("name", "started", "now"), [("backend", "jax", "tensorflow"), ("num_processes", 2, 1)]
)
def test_a_run_goes_on_by_what_it_was_started_by(
    trained_run, demo_data_dir, tmp_path, name, started, now
) -> None:
    run, environment = copy_started_with(name, started, trained_run, tmp_path)
    assert environment[name] == now
    config = trained_config(demo_data_dir)
    with pytest.raises(InputError, match=rf"started with {name} {started!r} \(now {now!r}\)"):
        training.train(config, run.root, resume=True)
    del environment[name]  # as runs from before there was a choice
    run.environment.write_text(json.dumps(environment))
    assert training.train(config, run.root, resume=True)["examples"] == 35


@pytest.mark.parametrize(
    "labels",
    ["ferplus_distribution", pytest.param("ferplus_majority", marks=pytest.mark.slow)],
)
def test_a_run_with_ferplus_learns_eight_expressions(
    voted_data_dir, tmp_path, undrawn, labels
) -> None:
    run_dir = tmp_path / "run"
    config = TrainConfig(
        data_dir=str(voted_data_dir), labels=labels, epochs=1, batch_size=35, precision="float32"
    )
    metrics = training.train(config, run_dir)
    validation = records.open_split(voted_data_dir, "validation")
    assert metrics["labels"] == "ferplus_majority"
    assert metrics["examples"] == validation.ferplus_examples["ferplus_majority"]
    assert list(metrics["per_expression"]) == list(EIGHT_EXPRESSIONS)
    assert load_model(run_dir).outputs[0].shape == (None, 8)
    assert json.loads((run_dir / "config.json").read_text())["labels"] == labels
    (row,) = history(run_dir)
    # Each kind has a validation set of its own.
    right = float(row["val_accuracy"]) * validation.ferplus_examples[labels]
    assert right == pytest.approx(round(right), abs=1e-3)
    if labels == "ferplus_majority":
        assert metrics["accuracy"] == pytest.approx(float(row["val_accuracy"]))
    other = dataclasses.replace(config, labels="fer2013")
    with pytest.raises(InputError, match=rf"started with labels '{labels}' \(now 'fer2013'\)"):
        training.train(other, run_dir, resume=True)


@pytest.mark.parametrize("labels", ferplus.KINDS)
def test_loss_and_accuracy_are_those_of_the_votes(voted_data_dir, labels) -> None:
    config = TrainConfig(data_dir=str(voted_data_dir), labels=labels)
    model = built(config)
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48, 1), np.uint8)
    shares = np.random.default_rng(1).dirichlet(np.ones(8), 6).astype(np.float32)
    targets = shares
    if labels == "ferplus_majority":
        targets = shares.argmax(axis=1)
        shares = np.eye(8)[targets]
    logits = model.predict_on_batch(images).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss, accuracy = model.test_on_batch(images, targets)
    assert loss == pytest.approx(-(shares * logs).sum(axis=1).mean(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(axis=1) == shares.argmax(axis=1)).mean())
    assert set(model.get_metrics_result()) == {"loss", "accuracy"}


def test_a_run_from_before_the_choice_of_labels_had_the_own_ones(
    trained_run, demo_data_dir, tmp_path
) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(trained_run, run.root)
    written = json.loads(run.config.read_text())
    del written["labels"]
    run.config.write_text(json.dumps(written))
    config = TrainConfig(data_dir=str(demo_data_dir), epochs=2, batch_size=35, precision="float32")
    metrics = training.train(config, run.root, resume=True)
    assert metrics == json.loads((trained_run / "metrics.json").read_text())


def test_ferplus_without_votes_is_refused_before_anything_is_made(config, tmp_path) -> None:
    config = dataclasses.replace(config, labels="ferplus_majority")
    with pytest.raises(InputError, match="convert again with --ferplus_csv"):
        training.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def rgb_source(expressions: tuple[str, ...], shape: tuple[int, int, int]) -> BatchSource:
    splits = ["train"] * 16 + ["validation"] * 8
    batch = random_batch(splits, image_shape=shape)
    batch.labels[:] = np.arange(len(splits)) % len(expressions)
    return BatchSource([batch], image_shape=shape, expressions=expressions)


@pytest.mark.slow
def test_colour_images_of_another_size_and_eight_expressions_are_trained_on(tmp_path) -> None:
    conversion.convert(rgb_source(EIGHT_EXPRESSIONS, (64, 64, 3)), tmp_path / "data")
    config = TrainConfig(
        data_dir=str(tmp_path / "data"), epochs=1, batch_size=8, precision="float32"
    )
    metrics = training.train(config, tmp_path / "run")
    assert (metrics["labels"], metrics["examples"]) == ("fer2013", 8)
    assert list(metrics["per_expression"]) == list(EIGHT_EXPRESSIONS)
    model = load_model(tmp_path / "run")
    assert model.inputs[0].shape == (None, 64, 64, 3)
    assert model.outputs[0].shape == (None, 8)


def test_images_that_the_network_cannot_take_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(models.BUILDERS, "seed_cnn", models.seed_cnn)
    conversion.convert(rgb_source(EXPRESSIONS, (8, 8, 3)), tmp_path / "data")
    config = TrainConfig(data_dir=str(tmp_path / "data"), batch_size=8, precision="float32")
    with pytest.raises(InputError, match=r"seed_cnn can take, received images of 8x8 pixels"):
        training.train(config, tmp_path / "run")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_images_without_labels_are_refused_before_anything_is_made(tmp_path, split) -> None:
    batch = random_batch(["train"] * 4 + ["validation"] * 2)
    batch.labels[[name == split for name in batch.splits]] = NO_LABEL
    conversion.convert(BatchSource([batch]), tmp_path / "data")
    config = TrainConfig(data_dir=str(tmp_path / "data"), batch_size=2, precision="float32")
    with pytest.raises(InputError, match=rf"split '{split}': expected a label for every image"):
        training.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


AUGMENTATION = AugmentationConfig(
    shift=0.1,
    rotation=15,
    zoom=0.1,
    brightness=0.1,
    contrast=0.1,
    erasing=0.25,
    mixup=0.2,
    cutmix=1,
)


@pytest.fixture
def augmented_config(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, batch_size=28, augmentation=AUGMENTATION)


def fitted(config: TrainConfig, *, jit_compile: bool = False) -> TrainingModel:
    """Returns the model of a configuration after three steps."""
    split = records.open_split(Path(config.data_dir), "train")
    keras.utils.set_random_seed(config.seed)
    model = built(config)
    model.jit_compile = jit_compile
    dataset = training_batches.train_batches(config, split, model, start_step=0)
    model.fit(dataset, steps_per_epoch=3, shuffle=False, verbose=0)
    assert model.jit_compile == jit_compile
    return model


@pytest.mark.parametrize(
    "augmentation",
    [
        pytest.param(AugmentationConfig(), id="flip", marks=pytest.mark.slow),
        pytest.param(dataclasses.replace(AUGMENTATION, mixup=0, cutmix=0), id="own_labels"),
        pytest.param(AUGMENTATION, id="all"),
    ],
)
def test_augmenting_in_the_input_or_on_the_device_trains_the_same_weights(
    augmented_config, augmentation
) -> None:
    config = dataclasses.replace(augmented_config, augmentation=augmentation)
    models = [fitted(dataclasses.replace(config, augment_on=on)) for on in ("input", "device")]
    assert [model.augment is None for model in models] == [True, False]
    for weight, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(weight, other)
    plain = fitted(dataclasses.replace(config, augmentation=AugmentationConfig(flip=False)))
    assert (plain.get_weights()[0] != models[0].get_weights()[0]).any()


def test_no_two_rows_of_any_steps_have_the_same_seed_on_the_device(augmented_config) -> None:
    config = dataclasses.replace(augmented_config, augment_on="device")
    split = records.open_split(Path(config.data_dir), "train")
    dataset = training_batches.train_batches(config, split, built(config), start_step=0)
    seeds = [tuple(seed) for rows, _ in dataset.take(40) for seed in rows["seeds"].numpy()]
    assert len(set(seeds)) == len(seeds) == 40 * config.batch_size


@pytest.mark.slow
def test_the_device_augments_also_where_xla_compiles_the_step(augmented_config) -> None:
    check_xla_trains_the_same(dataclasses.replace(augmented_config, augment_on="device"))


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [None, "any"])  # whole images go to the device with one
def test_xla_compiles_the_step_for_each_size_of_images(config, teacher) -> None:
    shrunk: dict[str, Any] = {"schedule": "cosine", "shrink": 0.5, "shrunk_epochs": 1}
    check_xla_trains_the_same(
        dataclasses.replace(config, augment_on="device", teacher=teacher, **shrunk)
    )


def check_xla_trains_the_same(config: TrainConfig) -> None:
    # As it does on a GPU without being asked.
    models = [fitted(config, jit_compile=jit_compile) for jit_compile in (False, True)]
    for weight, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-5)
    split = records.open_split(Path(config.data_dir), "validation")
    batches = pipeline.eval_dataset(split, labels=config.labels, batch_size=16)
    losses, counts = zip(
        *((model.evaluate(batches, verbose=0)[0], model.confusion) for model in models),
        strict=True,
    )
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert counts[0].sum() == counts[1].sum() == 35


def test_mixed_labels_are_validated_against_the_plain_ones(augmented_config, tmp_path) -> None:
    metrics = training.train(augmented_config, tmp_path / "run")
    best = max(history(tmp_path / "run"), key=lambda row: float(row["val_accuracy"]))
    assert metrics["accuracy"] == pytest.approx(float(best["val_accuracy"]))
    assert metrics["nll"] == pytest.approx(float(best["val_loss"]), rel=1e-3)


def test_loss_and_accuracy_of_mixed_labels_and_of_plain_ones(augmented_config) -> None:
    model = built(augmented_config)
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48, 1), np.uint8)
    shares = np.random.default_rng(1).dirichlet(np.ones(7), 6).astype(np.float32)
    plain = shares.argmax(axis=1)
    logits = model.predict_on_batch(images).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for labels, expected in ((shares, shares), (plain, np.eye(7)[plain])):
        model.reset_metrics()
        loss, accuracy = model.test_on_batch(images, labels)
        assert loss == pytest.approx(-(expected * logs).sum(axis=1).mean(), rel=1e-4)
        assert accuracy == pytest.approx((logits.argmax(axis=1) == plain).mean())


CHANGES = [field for field in dataclasses.fields(AugmentationConfig) if field.name != "crop"]


@pytest.mark.parametrize("field", CHANGES, ids=lambda f: f.name)  # seed_cnn takes no cropped images
def test_a_change_of_the_augmentation_is_refused_by_its_name(
    trained_run, demo_data_dir, field
) -> None:
    config = TrainConfig(data_dir=str(demo_data_dir), epochs=2, batch_size=35, precision="float32")
    value = not field.default if field.type is bool else 0.5
    change = dataclasses.replace(config.augmentation, **{field.name: value})
    config = dataclasses.replace(config, augmentation=change)
    message = rf"the run was started with {field.name} {field.default} \(now {value}\); "
    with pytest.raises(InputError, match=message):
        training.train(config, trained_run, resume=True)


def test_another_place_of_the_augmentation_is_refused_by_its_name(
    trained_run, demo_data_dir
) -> None:
    config = TrainConfig(
        data_dir=str(demo_data_dir),
        epochs=2,
        batch_size=35,
        precision="float32",
        augment_on="device",
    )
    with pytest.raises(InputError, match=r"started with augment_on 'auto' \(now 'device'\)"):
        training.train(config, trained_run, resume=True)


def test_a_run_from_before_there_was_a_choice_is_continued(config, tmp_path, monkeypatch) -> None:
    interrupted(config, tmp_path / "run", 3, monkeypatch)
    path = tmp_path / "run" / "config.json"
    written = json.loads(path.read_text())
    assert written.pop("augmentation") == dataclasses.asdict(AugmentationConfig())
    assert (written.pop("augment_on"), written.pop("data_service")) == ("auto", None)
    path.write_text(json.dumps(written))
    rows = [
        {name: value for name, value in row.items() if name != "input_wait"}
        for row in bookkeeping.read_history(tmp_path / "run" / "history.csv")
    ]
    bookkeeping.write_history(tmp_path / "run" / "history.csv", rows)
    mixing = dataclasses.replace(config, augmentation=AugmentationConfig(mixup=0.5))
    with pytest.raises(InputError, match=r"started with mixup 0\.0 \(now 0\.5\); "):
        training.train(mixing, tmp_path / "run", resume=True)
    assert training.train(config, tmp_path / "run", resume=True)["examples"] == 35
    first, second = history(tmp_path / "run")
    assert first["input_wait"] == "nan"
    assert 0 <= float(second["input_wait"]) < 1
    assert first.keys() == second.keys()
    assert 0 <= float(second["val_accuracy"]) <= 1


def test_a_data_service_that_is_not_there_is_refused_before_anything_is_made(
    config, tmp_path
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"grpc://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(InputError, match=f"{address}: expected a tf.data service dispatcher"):
        training.train(dataclasses.replace(config, data_service=address), tmp_path / "run")
    with pytest.raises(InputError, match="data service: expected an address like grpc://host:5050"):
        training.train(dataclasses.replace(config, data_service="host:1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def service() -> tuple[str, list]:
    """Starts a dispatcher and two workers; returns the address, and what keeps them alive."""
    dispatcher, port = data_service.start_dispatcher(port=0)
    address = f"grpc://127.0.0.1:{port}"
    workers = [
        data_service.start_worker(dispatcher=address, host="127.0.0.1", port=0)[0] for _ in range(2)
    ]
    return address, [dispatcher, *workers]


@pytest.mark.slow
def test_a_data_service_trains_the_weights_of_what_is_streamed_here(
    augmented_config, monkeypatch, tmp_path
) -> None:
    config = augmented_config
    address, servers = service()
    served = dataclasses.replace(config, data_service=address)
    interrupted(served, tmp_path / "served", 6, monkeypatch)

    # A run goes on with the service at another address, but not without.
    with pytest.raises(InputError, match=rf"started with data_service '{address}' \(now None\)"):
        training.train(config, tmp_path / "served", resume=True)
    other_address, other_servers = service()
    moved = dataclasses.replace(config, data_service=other_address)
    training.train(moved, tmp_path / "served", resume=True)
    assert len(servers) == len(other_servers)

    streamed = functools.partial(pipeline.train_dataset, memory_budget_bytes=0)
    monkeypatch.setattr(pipeline, "train_dataset", streamed)
    training.train(config, tmp_path / "streamed")
    assert_same_weights(config, tmp_path / "served", tmp_path / "streamed")


def first_batches(config: TrainConfig, start_step: int, count: int) -> list[tuple]:
    split = records.open_split(Path(config.data_dir), "train")
    dataset = training_batches.train_batches(config, split, built(config), start_step=start_step)
    return list(dataset.take(count).as_numpy_iterator())


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_the_last_epochs_see_clean_images(demo_data_dir, tiny_network, mixup) -> None:
    config = TrainConfig(
        data_dir=str(demo_data_dir),
        model="mini_xception",
        epochs=3,
        clean_epochs=1,
        batch_size=70,  # two steps an epoch
        augmentation=AugmentationConfig(flip=False, erasing=1.0, mixup=mixup),
    )
    plain = dataclasses.replace(config, clean_epochs=0, augmentation=AugmentationConfig(flip=False))
    batches, plain_batches = first_batches(config, 0, 6), first_batches(plain, 0, 6)
    for step, ((images, labels), (expected, ids)) in enumerate(
        zip(batches, plain_batches, strict=True)
    ):
        assert np.array_equal(images, expected) == (step >= 4)
        if mixup:
            assert labels.shape == (70, 7)
            assert np.array_equal(labels, np.eye(7, dtype=np.float32)[ids]) == (step >= 4)
    for start in (3, 4, 5):
        for resumed, whole in zip(first_batches(config, start, 1), batches[start:], strict=False):
            for values, others in zip(resumed, whole, strict=True):
                np.testing.assert_array_equal(values, others)


@pytest.mark.parametrize("augment_on", ["input", "device"])
def test_the_first_epochs_see_shrunk_images(demo_data_dir, tiny_network, augment_on) -> None:
    config = TrainConfig(
        data_dir=str(demo_data_dir),
        model="mini_xception",
        epochs=3,
        schedule="cosine",
        shrink=0.25,
        shrunk_epochs=1,
        clean_epochs=1,
        batch_size=70,  # two steps an epoch
        augmentation=AugmentationConfig(flip=False),
        augment_on=augment_on,
    )
    plain = dataclasses.replace(config, shrink=0.0, shrunk_epochs=0)
    batches, plain_batches = first_batches(config, 0, 6), first_batches(plain, 0, 6)
    pairs = [
        (images, whole) if augment_on == "input" else (images["images"], whole["images"])
        for (images, _), (whole, _) in zip(batches, plain_batches, strict=True)
    ]
    for step, (images, whole) in enumerate(pairs):
        expected = augmentation.shrink(whole, 0.25) if step < 2 else whole
        np.testing.assert_array_equal(images, expected)
    assert pairs[0][0].shape == (70, 36, 36, 1)
    (resumed, _), *_ = first_batches(config, 1, 1)
    resumed = resumed if augment_on == "input" else resumed["images"]
    np.testing.assert_array_equal(resumed, pairs[1][0])


def test_smoothed_labels_are_learned_and_plain_ones_validated(config) -> None:
    config = dataclasses.replace(config, label_smoothing=0.14)
    (_, labels), *_ = first_batches(config, 0, 1)
    np.testing.assert_allclose(np.unique(labels), [0.02, 0.88], rtol=1e-5)
    model = built(config)
    images, ids = np.zeros((6, 48, 48, 1), np.uint8), np.arange(6)
    logits = model.predict_on_batch(images).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss, _ = model.test_on_batch(images, ids)
    assert loss == pytest.approx(-logs[np.arange(6), ids].mean(), rel=1e-4)


def test_teachers_answers_are_averaged_and_mixed_with_the_labels(trained_run, config) -> None:
    config = dataclasses.replace(
        config, teacher=f"{trained_run},{trained_run / 'model.keras'}", teacher_weight=0.25
    )
    targets = teachers.targets(teachers.load_teachers(config, schema_of(config)), 0.25)
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48, 1), np.uint8)
    logits = load_model(trained_run)(images, training=False).numpy()
    said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.eye(7, dtype=np.float32)[:6]
    np.testing.assert_allclose(targets(images, labels), 0.75 * labels + 0.25 * said, atol=1e-5)
    eight = dataclasses.replace(schema_of(config), expressions=EIGHT_EXPRESSIONS)
    with pytest.raises(InputError, match=r"expected a teacher of images .* and 8 expressions, rec"):
        teachers.load_teachers(config, eight)


def test_a_student_is_trained(trained_run, config, tmp_path) -> None:
    config = dataclasses.replace(
        config,
        epochs=1,
        schedule="cosine",
        shrink=0.25,  # to a size that the teacher cannot take
        shrunk_epochs=1,
        teacher=str(trained_run),
    )
    assert training.train(config, tmp_path / "run")["examples"] == 35
    missing = dataclasses.replace(config, teacher=str(tmp_path / "none"))
    with pytest.raises(InputError, match="none: expected a run directory"):
        training.train(missing, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_teacher_sees_what_the_crop_leaves(trained_run, config, tmp_path) -> None:
    config = dataclasses.replace(config, epochs=1)
    training.train(config, tmp_path / "teacher")
    crop = AugmentationConfig(crop=0.25)
    student = dataclasses.replace(
        config, teacher=str(tmp_path / "teacher"), augmentation=crop, epochs=2, clean_epochs=1
    )
    assert training.train(student, tmp_path / "student")["examples"] == 35
    flat = dataclasses.replace(student, teacher=str(trained_run))
    with pytest.raises(InputError, match="expected a teacher of images of any size, for crop"):
        training.train(flat, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("start_step", [0, 1])
def test_a_teacher_sees_whole_images_of_which_the_student_s_are_shrunk(config, start_step) -> None:
    shrunk: dict[str, Any] = {"schedule": "cosine", "shrink": 0.5, "shrunk_epochs": 1}
    config = dataclasses.replace(config, teacher="any", **shrunk)
    split = records.open_split(Path(config.data_dir), "train")
    model = built(config)
    batches = training_batches.train_batches(config, split, model, start_step=start_step)
    taught, learned = [], []
    call = model.call

    def targets(images: Any, labels: Any) -> Any:
        taught.append(images.shape[1:3])
        return labels

    def spied_call(images: Any, **options: Any) -> Any:
        learned.append(images.shape[1:3])
        return call(images, **options)

    model.targets, model.call, model.run_eagerly = targets, spied_call, True
    model.fit(batches, steps_per_epoch=4 - start_step, shuffle=False, verbose=0)
    assert taught == [(48, 48)] * (4 - start_step)
    assert learned == [(24, 24)] * (2 - start_step) + [(48, 48)] * 2
    seen, _ = model.as_seen(next(iter(batches)))
    assert seen.shape == (70, 24, 24, 1)


def test_a_run_is_not_continued_with_another_teacher(
    trained_run, config, tmp_path, monkeypatch
) -> None:
    teacher = tmp_path / "teacher.keras"
    shutil.copyfile(trained_run / "model.keras", teacher)
    config = dataclasses.replace(config, teacher=str(teacher))
    interrupted(config, tmp_path / "run", 1, monkeypatch)
    load_model(teacher).save(teacher)  # whose bytes name the time
    teacher.write_bytes(teacher.read_bytes() + b" ")
    with pytest.raises(InputError, match="was started with other teachers"):
        training.train(config, tmp_path / "run", resume=True)


@pytest.fixture
def start(config: TrainConfig, tmp_path: Path) -> Path:
    """A model of the network that `config` trains, with weights of its own."""
    path = tmp_path / "start.keras"
    training_model.build_network(config, schema_of(config)).save(path)
    return path


def test_training_begins_with_given_weights(start, config, tmp_path) -> None:
    config = dataclasses.replace(config, epochs=1, start_from=str(start), learning_rate=1e-12)
    training.train(config, tmp_path / "run")
    given, trained = (
        [weights.numpy() for weights in load_model(path).trainable_weights]
        for path in (start, tmp_path / "run")
    )
    for before, after in zip(given, trained, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["start_sha256"] == hashlib.sha256(start.read_bytes()).hexdigest()


def test_what_was_learned_from_validation_by_way_of_another_model_is_told(
    trained_run, config, tmp_path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained_run, other)
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps(metrics | {"trained_on": ["validation"]}))
    config = dataclasses.replace(config, model="seed_cnn")
    alone = tmp_path / "alone.keras"
    shutil.copyfile(trained_run / "model.keras", alone)

    def learned_from(**others: Any) -> list[str] | None:
        taught = dataclasses.replace(config, **others)
        return training._learned_from(taught, training._load_others(taught, schema_of(taught)))

    assert learned_from() == ["train"]
    assert learned_from(start_from=str(other)) == ["train", "validation"]
    assert learned_from(teacher=str(other)) == ["train", "validation"]
    assert learned_from(teacher=f"{other},{alone}") == ["train", "validation"]
    assert learned_from(start_from=str(alone)) is None
    both = {"train_on_validation": True, "schedule": "cosine"}
    assert learned_from(start_from=str(alone), **both) == ["train", "validation"]


def test_weights_of_another_network_are_refused(config, tmp_path) -> None:
    for name, message in (
        ("pretrained", "expected weights of mini_xception .* those of residual_attention"),
        (str(tmp_path / "none"), "none: expected a run directory"),
    ):
        other = dataclasses.replace(config, start_from=name)
        with pytest.raises(InputError, match=message):
            training.train(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_continued_from_other_weights(start, config, tmp_path, monkeypatch) -> None:
    config = dataclasses.replace(config, start_from=str(start))
    interrupted(config, tmp_path / "run", 1, monkeypatch)
    start.write_bytes(start.read_bytes() + b" ")
    with pytest.raises(InputError, match="was started from other weights"):
        training.train(config, tmp_path / "run", resume=True)


def test_adjusted_logits_count_in_training_and_not_in_validation(config) -> None:
    split = records.open_split(Path(config.data_dir), "train")
    added = training_model.frequency_logits(split, 2.0)
    counts = np.array([split.per_expression[name] for name in EXPRESSIONS])
    np.testing.assert_allclose(added, 2 * np.log(counts / counts.sum()), rtol=1e-5)
    model = built(config)
    model.added_logits = np.array([5, 0, 0, 0, 0, 0, 0], np.float32)
    logits, labels = np.zeros((2, 7), np.float32), np.array([0, 1])
    plain, favoured = np.log(7), np.log(np.exp(5) + 6)
    losses = {
        training: float(model.compute_loss(None, labels, logits, training=training))
        for training in (True, False)
    }
    assert losses[False] == pytest.approx(plain, rel=1e-4)
    assert losses[True] == pytest.approx((2 * favoured - 5) / 2, rel=1e-4)


def test_logits_are_adjusted_where_that_is_asked_for(config, tmp_path, monkeypatch) -> None:
    config = dataclasses.replace(config, logit_adjustment=0.5)
    split = records.open_split(Path(config.data_dir), "train")
    seen = []

    def look(session, *args) -> None:
        seen.append(session.model.added_logits)
        raise StoppedError(0)

    monkeypatch.setattr(training, "_fit", look)
    with pytest.raises(StoppedError):
        training.train(config, tmp_path / "run")
    np.testing.assert_array_equal(seen, [training.frequency_logits(split, 0.5)])


def test_the_average_of_the_weights_is_what_is_validated_and_kept(config, tmp_path) -> None:
    config = dataclasses.replace(config, epochs=2, ema=0.5)
    metrics = training.train(config, tmp_path / "run")
    best = max(float(row["val_accuracy"]) for row in history(tmp_path / "run"))
    assert metrics["accuracy"] == pytest.approx(best)
    kept = saved_weights(tmp_path / "run", config, "best.weights.h5")
    trained = saved_weights(tmp_path / "run", config, "last.weights.h5")
    assert not all(np.array_equal(a, b) for a, b in zip(kept, trained, strict=True))


def test_with_validation_trained_on_the_last_weights_are_kept(
    config, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(training, "_draw", DRAW)
    config = dataclasses.replace(config, schedule="cosine", train_on_validation=True)
    metrics = training.train(config, tmp_path / "run")
    assert metrics["trained_on"] == ["train", "validation"]
    tags = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "chosen")).Reload().Tags()
    assert "val_accuracy" not in tags["tensors"]
    kept = saved_weights(tmp_path / "run", config, "best.weights.h5")
    for weight, other in zip(kept, saved_weights(tmp_path / "run", config), strict=True):
        np.testing.assert_array_equal(weight, other)


def test_what_is_trained_on_is_what_fills_a_batch(config, tmp_path) -> None:
    alone = dataclasses.replace(config, schedule="cosine", batch_size=150, epochs=1)
    with pytest.raises(InputError, match="140"):
        training.train(alone, tmp_path / "run")
    both = dataclasses.replace(alone, train_on_validation=True)
    assert training.train(both, tmp_path / "run")["trained_on"] == ["train", "validation"]


def test_a_profile_of_steps_that_do_not_come_is_warned_of(
    config, tmp_path, warnings_so_far
) -> None:
    config = dataclasses.replace(config, epochs=1)
    training.train(config, tmp_path / "run", profile_steps=(20, 30))
    assert any("nothing will be profiled" in warning for warning in warnings_so_far())


def test_a_step_on_a_cpu_is_not_compiled(config) -> None:
    assert tf.config.list_physical_devices("GPU") or not built(config).jit_compile


def test_the_confusion_is_that_of_the_latest_validation(config) -> None:
    model = built(config)
    images = np.random.default_rng(0).integers(0, 256, (70, 48, 48, 1), np.uint8)
    labels = np.arange(70) % 7
    answers = model.predict_on_batch(images).argmax(axis=1)
    for _ in range(2):  # the second replaces the first
        model.evaluate(images, labels, batch_size=16, verbose=0)
    expected = np.zeros((7, 7), np.int64)
    np.add.at(expected, (labels, answers), 1)
    np.testing.assert_array_equal(model.confusion, expected)


def test_a_network_of_one_size_is_not_fed_images_of_two(config, tmp_path) -> None:
    config = dataclasses.replace(config, model="seed_cnn")
    cropped = dataclasses.replace(config, augmentation=AugmentationConfig(crop=0.2))
    with pytest.raises(InputError, match=r"crop: expected 0, since seed_cnn .* received 0\.2"):
        training.train(cropped, tmp_path / "run")
    shrunk = dataclasses.replace(config, schedule="cosine", shrink=0.3, shrunk_epochs=1)
    with pytest.raises(InputError, match=r"shrink: expected 0, since seed_cnn .* received 0\.3"):
        training.train(shrunk, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("size", "share", "message"),
    [
        (12, 0.1, "expected images that vgg can take, received images of 12x12 pixels"),
        (
            24,
            0.4,
            r"crop: expected a share .* that vgg can take, .* 0\.4, which leaves 14x14 pixels",
        ),
    ],
)
def test_images_that_are_too_small_for_a_network_are_refused(config, size, share, message) -> None:
    crop = AugmentationConfig(crop=share)
    config = dataclasses.replace(config, model="vgg", augmentation=crop)
    schema = dataclasses.replace(schema_of(config), image_shape=(size, size, 1))
    with pytest.raises(InputError, match=message):
        training_model.build_network(config, schema, any_size=True)
    schema = dataclasses.replace(schema, image_shape=(32, 32, 1))
    assert training_model.build_network(config, schema, any_size=True).input_shape[1] is None
