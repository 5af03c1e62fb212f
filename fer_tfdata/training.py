"""Trains a model on a data directory into a run directory, and continues what was interrupted."""

import contextlib
import csv
import dataclasses
import fcntl
import functools
import io
import json
import logging
import platform
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

import fer_tfdata
from fer_tfdata import (
    atomic,
    augmentation,
    data_service,
    evaluation,
    figures,
    labelling,
    pipeline,
    records,
)
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.callbacks import (
    EpochReport,
    ReduceLROnPlateau,
    SaveCheckpoints,
    StopOnNonFiniteLoss,
    Validated,
    progress_bar,
)
from fer_tfdata.checkpoints import Checkpoints
from fer_tfdata.errors import InputError
from fer_tfdata.fast_layers import with_fast_layers
from fer_tfdata.models import BUILDERS
from fer_tfdata.optimization import build_optimizer
from fer_tfdata.precision import choose_policy, policy_scope
from fer_tfdata.run_directory import RunDirectory, check_model, load_model
from fer_tfdata.train_config import TrainConfig
from fer_tfdata.training_model import TrainingModel

_EVAL_BATCH: Final = 512
_log = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    verify: bool = False,
    profile_steps: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Trains, and leaves the run directory complete.

    The weights with the best validation accuracy become `model.keras`, a plain float32 Keras
    model, and `metrics.json` holds that file's figures on the validation split.

    Args:
      config: what to train.
      run_dir: where the run's files go.
      resume: continues the run that stands there from its newest checkpoint, as if it had never
        been interrupted; starts one where there is none.
      verify: compares the shards' checksums before they are used.
      profile_steps: the first and the last step of this process to profile for TensorBoard,
        counted from 1.

    Returns:
      The content of `metrics.json`.

    Raises:
      InputError: the data are missing or damaged or have not the labels asked for, the run
        directory is in use or was started with another configuration, the precision does not suit
        the device, the loss is not finite, or the disk is full.
      StoppedError: the process got SIGTERM, and has saved a checkpoint.
    """
    policy = choose_policy(config.precision)
    data_dir = Path(config.data_dir)
    train_split = records.open_split(data_dir, "train", verify=verify)
    validation_split = records.open_split(data_dir, "validation", verify=verify)
    _check_data(config, train_split, validation_split)  # before anything is made
    run = RunDirectory(run_dir)
    _prepare(run, config, resume=resume)
    with _locked(run):
        _note_environment(run, _environment(policy, train_split.manifest_sha256))
        if run.metrics.is_file():
            _log.warning("%s is complete; nothing is left to train", run.root)
            finished: dict[str, Any] = json.loads(run.metrics.read_text(encoding="utf-8"))
            return finished
        return _run(config, run, policy, train_split, validation_split, profile_steps)


def _check_data(
    config: TrainConfig, train_split: records.Split, validation_split: records.Split
) -> None:
    """Checks that there is what the training and its validation need.

    Raises:
      InputError: the labels are not there, there is not one full batch, or no data service.
    """
    if config.data_service is not None:
        data_service.check_reachable(config.data_service)
    pipeline.steps_per_epoch(train_split, config.batch_size, config.labels)
    _build(config, train_split.schema, any_size=config.augmentation.crop > 0)
    num_classes = len(labelling.class_names(train_split.schema, config.labels))
    measured = evaluation.choose_labels(num_classes, validation_split.schema)
    for labels in (config.labels, measured):
        labelling.usable_examples(validation_split, labels)


def _run(
    config: TrainConfig,
    run: RunDirectory,
    policy: str,
    train_split: records.Split,
    validation_split: records.Split,
    profile_steps: tuple[int, int] | None,
) -> dict[str, Any]:
    steps = pipeline.steps_per_epoch(train_split, config.batch_size, config.labels)

    keras.utils.set_random_seed(config.seed)
    model = build_training_model(config, policy, train_split.schema, steps_per_epoch=steps)
    _learn_from_teachers(config, model, train_split.schema)
    if config.logit_adjustment:
        model.added_logits = _added_logits(train_split, config.logit_adjustment)
    checkpoints = Checkpoints(run.checkpoints, model)
    start_step = checkpoints.restore()
    past = _past_epochs(run, start_step // steps)
    _write_history(run.history, past)
    model.steps_done = start_step % steps
    dataset = train_batches(config, train_split, model, start_step=start_step)
    try:
        with _stop_asked_by_sigterm() as stop_asked:
            saving = SaveCheckpoints(
                checkpoints,
                every=config.checkpoint_every,
                steps_per_epoch=steps,
                stop_asked=stop_asked,
            )
            model.fit(
                dataset,
                epochs=config.epochs,
                initial_epoch=len(past),
                steps_per_epoch=steps,
                validation_data=pipeline.eval_dataset(
                    validation_split, labels=config.labels, batch_size=_EVAL_BATCH
                ),
                callbacks=_callbacks(run, config, saving, past, steps, profile_steps),
                shuffle=False,  # the dataset is, and Keras would warn that it cannot
                verbose=0,
            )
    except records.READ_ERRORS as error:
        if lost := data_service.input_error(error):
            raise lost from error
        records.verify_checksums(train_split)  # names the damaged file
        records.verify_checksums(validation_split)
        raise InputError(
            f"{config.data_dir}: a record could not be read: {error.message}"
        ) from error

    chosen = _export(model, config, train_split.schema, run)
    metrics = evaluation.evaluate(chosen, validation_split, model_name=str(run.model))
    _draw_figures(run, chosen, metrics)
    _write_json(run.metrics, metrics)
    checkpoints.delete()
    return metrics


@contextlib.contextmanager
def _stop_asked_by_sigterm() -> Iterator[Callable[[], bool]]:
    """Yields whether SIGTERM came; a second one ends the process as it always would."""
    asked = False
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield lambda: False
        return

    def note(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGTERM, before)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)


def build_training_model(
    config: TrainConfig, policy: str, schema: records.Schema, *, steps_per_epoch: int
) -> TrainingModel:
    """Builds and compiles the model that `fit` trains: fast layers under a dtype policy.

    Its `accuracy` is against the label, or against the expression with the largest share.

    Args:
      config: what to train.
      policy: the dtype policy.
      schema: of the images.
      steps_per_epoch: for the schedule of the rate.
    """
    if config.soft_labels:
        loss, accuracy = keras.losses.CategoricalCrossentropy, keras.metrics.CategoricalAccuracy
    else:
        loss = keras.losses.SparseCategoricalCrossentropy
        accuracy = keras.metrics.SparseCategoricalAccuracy
    with policy_scope(policy):
        # Without a size of its own where images come in two, cropped and whole.
        plain = _build(config, schema, any_size=config.augmentation.crop > 0)
        fast = with_fast_layers(plain)
        model = TrainingModel(fast.inputs, fast.outputs, name=plain.name)
        model.compile(
            optimizer=build_optimizer(config, steps_per_epoch),
            loss=loss(from_logits=True),
            metrics=[accuracy("accuracy")],
        )
    model.soft_labels = config.soft_labels
    # Built now, so that a checkpoint finds all variables.
    model.optimizer.build(model.trainable_variables)
    logits = np.zeros((1, model.output_shape[-1]), np.float32)
    model.compute_metrics(None, logits if config.soft_labels else np.zeros(1, np.int64), logits)
    model.reset_metrics()
    return model


def train_batches(
    config: TrainConfig, split: records.Split, model: TrainingModel, *, start_step: int
) -> tf.data.Dataset:
    """Returns the batches from a step on, and gives the model its part of the augmentation.

    On the device, the pipeline only hands on each batch's seed; the images of the clean epochs are
    mirrored in the pipeline in any case.
    """
    num_classes = model.output_shape[-1]
    on_device = augmentation.choose_placement(config.augment_on, config.augmentation) == "device"

    def batches(first: int, changes: AugmentationConfig, *, changed_later: bool) -> tf.data.Dataset:
        change = functools.partial(augmentation.augment, config=changes, num_classes=num_classes)
        if changed_later:
            model.augment = change

        def augment(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Any]:
            if not changed_later:
                images, labels = change(images, labels, seed)
            if config.soft_labels:
                labels = augmentation.soft_labels(labels, num_classes)
                labels = _smoothed(labels, config.label_smoothing)
            return ((images, seed, changed_later) if on_device else images), labels

        return pipeline.train_dataset(
            split,
            labels=config.labels,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=first,
            augment=augment,
            data_service_address=config.data_service,
        )

    changed = batches(start_step, config.augmentation, changed_later=on_device)
    if not config.clean_epochs:
        return changed
    steps = pipeline.steps_per_epoch(split, config.batch_size, config.labels)
    clean_from = (config.epochs - config.clean_epochs) * steps
    clean = batches(max(start_step, clean_from), config.clean_augmentation, changed_later=False)
    # Also where nothing is left of the first part: cropped and whole images together have no size
    # that TensorFlow knows beforehand, and a step that knows one rounds otherwise.
    return changed.take(max(clean_from - start_step, 0)).concatenate(clean)


def _smoothed(labels: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Spreads a share of each label evenly (Szegedy et al. 2015, arXiv:1512.00567, section 7)."""
    return labels * (1 - smoothing) + smoothing / labels.shape[-1]


def _learn_from_teachers(config: TrainConfig, model: TrainingModel, schema: records.Schema) -> None:
    """Gives the model targets that are partly what the teachers say of the same changed images.

    Raises:
      InputError: a teacher cannot be loaded, or is one of other images or expressions.
    """
    if config.teacher is None:
        return
    names = config.teacher.split(",")
    teachers = [load_model(Path(name)) for name in names]
    wanted = (schema.image_shape, model.output_shape[-1])
    for name, teacher in zip(names, teachers, strict=True):
        form = check_model(teacher)
        if (form.image_shape, len(form.expressions)) != wanted:
            raise InputError(
                f"{name}: expected a teacher of images {wanted[0]} and {wanted[1]} expressions, "
                f"received one of {form.image_shape} and {len(form.expressions)}"
            )

    def targets(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        said = [tf.nn.softmax(teacher(images, training=False)) for teacher in teachers]
        taught = tf.add_n(said) / len(said)
        return (1 - config.teacher_weight) * labels + config.teacher_weight * taught

    model.targets = targets


def _added_logits(split: records.Split, strength: float) -> npt.NDArray[np.float32]:
    """Returns so many times the logarithms of the expressions' frequencies.

    One that the split does not hold counts as one image.
    """
    counts = np.array([split.per_expression[name] for name in split.schema.expressions])
    frequencies = np.maximum(counts, 1) / counts.sum()
    return (strength * np.log(frequencies)).astype(np.float32)


def _build(config: TrainConfig, schema: records.Schema, *, any_size: bool = False) -> keras.Model:
    """Builds the network for the images and the labels of a data set, or for such of any size."""
    size, _, channels = schema.image_shape
    num_classes = len(labelling.class_names(schema, config.labels))
    build = functools.partial(BUILDERS[config.model], channels=channels, num_classes=num_classes)
    try:
        model = build(image_size=size)
        return build(image_size=None) if any_size else model
    except ValueError as error:
        if any_size:
            raise InputError(
                f"crop: expected 0, since {config.model} takes images of one size only, or another "
                f"model; received {config.augmentation.crop}"
            ) from error
        raise InputError(
            f"{config.data_dir}: expected images that {config.model} can take, received images of "
            f"{size}x{size} pixels; convert again with a larger --image_size"
        ) from error


def _callbacks(
    run: RunDirectory,
    config: TrainConfig,
    saving: SaveCheckpoints,
    past: Sequence[Mapping[str, float]],
    steps: int,
    profile_steps: tuple[int, int] | None,
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks in the order that a kill between two of them asks for.

    The checkpoint comes last: an epoch counts as done when everything else about it is on the disk.
    What an interrupted epoch wrote before that is written again, and is the same.
    """
    plateau = ReduceLROnPlateau(past, monitor="val_loss", factor=0.2, patience=2, min_lr=1e-6)
    return [
        StopOnNonFiniteLoss(steps),
        *([plateau] if config.schedule == "plateau" else []),
        EpochReport(config.epochs, steps, config.batch_size),
        Validated(
            run.checkpoints / "best.weights.h5",
            past,
            averaged=config.ema > 0,
            latest=config.train_on_validation,
        ),
        keras.callbacks.ModelCheckpoint(
            run.checkpoints / "last.weights.h5", save_weights_only=True
        ),
        keras.callbacks.TensorBoard(run.tensorboard, profile_batch=profile_steps or 0),
        keras.callbacks.CSVLogger(run.history, append=True),
        saving,
        *progress_bar(config.epochs, steps, initial_epoch=len(past)),
    ]


def _prepare(run: RunDirectory, config: TrainConfig, *, resume: bool) -> None:
    """Makes the run directory, or checks that the one there may be continued."""
    if run.config.is_file():
        if not resume:
            raise InputError(
                f"{run.root}: holds a run already; continue it with --resume, or choose another "
                "--run_dir"
            )
        started = _choices(json.loads(run.config.read_text(encoding="utf-8")))
        changed = [
            f"{name} {started.get(name)!r} (now {value!r})"
            for name, value in _choices(dataclasses.asdict(config)).items()
            if not _may_become(name, started.get(name), value)
        ]
        if changed:
            raise InputError(
                f"{run.config}: the run was started with {', '.join(changed)}; a run is continued "
                "with the flags it was started with"
            )
        return
    # A hidden file is what a kill amid the writing of the configuration leaves.
    if run.root.exists() and (
        not run.root.is_dir() or any(not path.name.startswith(".") for path in run.root.iterdir())
    ):
        raise InputError(f"{run.root}: expected an empty or no directory, received one in use")
    _write_json(run.config, dataclasses.asdict(config))


def _may_become(name: str, started: Any, value: Any) -> bool:
    """Returns whether a run that started with one value may be continued with another."""
    if name in ("data_dir", "checkpoint_every"):  # which data these are, their checksum says
        return True
    if name == "data_service":  # of another address, but what is streamed has its own order
        return (started is None) == (value is None)
    return bool(started == value)


def _choices(written: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration as its flags: with what older runs do not name, and flat."""
    defaults = {
        field.name: field.default
        for kind in (TrainConfig, AugmentationConfig)
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }
    flat = {name: value for name, value in written.items() if name != "augmentation"}
    return {**defaults, **flat, **written.get("augmentation", {})}


@contextlib.contextmanager
def _locked(run: RunDirectory) -> Iterator[None]:
    """Keeps other processes out of the run, however this one ends, and clears what a kill left."""
    with run.config.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{run.root}: another process is training it") from None
        for path in run.root.rglob(".*"):
            if path.is_file():
                path.unlink()
        run.checkpoints.mkdir(exist_ok=True)
        yield


def _note_environment(run: RunDirectory, environment: Mapping[str, Any]) -> None:
    """Writes what the run starts in, or checks that it goes on with the data it started with."""
    if run.environment.is_file():
        started = json.loads(run.environment.read_text(encoding="utf-8"))
        if started["manifest_sha256"] != environment["manifest_sha256"]:
            raise InputError(
                f"{run.root}: the run was started on other data than those given now; choose "
                "another --run_dir"
            )
        if started["dtype_policy"] != environment["dtype_policy"]:
            raise InputError(
                f"{run.root}: the run was started in {started['dtype_policy']}, and --precision "
                f"means {environment['dtype_policy']} on this machine; continue it on one like the "
                "first, or choose another --run_dir"
            )
        return
    _write_json(run.environment, environment)


def _past_epochs(run: RunDirectory, completed: int) -> list[dict[str, float]]:
    """Returns the history of the completed epochs."""
    past = _read_history(run.history)[:completed]
    if len(past) != completed:
        raise InputError(
            f"{run.history}: expected the {completed} epochs that the checkpoint holds, received "
            f"{len(past)}; the run cannot be continued, start a new one"
        )
    return past


def _draw_figures(run: RunDirectory, model: keras.Model, metrics: Mapping[str, Any]) -> None:
    """Draws what can be drawn: a picture is not worth losing a training for."""
    pictures: Mapping[str, Callable[[Path], None]] = {
        "learning_curves.png": lambda path: figures.learning_curves(run.history, path),
        "confusion_matrix.png": lambda path: figures.confusion_matrix(metrics, path),
        "model.png": lambda path: figures.model_diagram(model, path),
    }
    for name, draw in pictures.items():
        try:
            draw(run.figures / name)
        except (OSError, InputError) as error:
            _log.warning("%s could not be drawn: %s", run.figures / name, error)


def _export(
    model: keras.Model, config: TrainConfig, schema: records.Schema, run: RunDirectory
) -> keras.Model:
    """Writes the best weights as a model of stock layers in float32; returns what was written."""
    model.load_weights(run.checkpoints / "best.weights.h5")
    with policy_scope("float32"):
        plain = _build(config, schema)
    plain.set_weights(model.get_weights())
    with atomic.replacing(run.model) as temporary:
        plain.save(temporary)
    return keras.models.load_model(run.model, compile=False)


def _read_history(path: Path) -> list[dict[str, float]]:
    """Returns the complete rows: a kill may have cut the last one."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole_lines = text[: text.rfind("\n") + 1].splitlines()
    return [
        {name: float(value) for name, value in row.items()} for row in csv.DictReader(whole_lines)
    ]


def _write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    if not rows:
        path.unlink(missing_ok=True)
        return
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\r\n")  # as CSVLogger's
    writer.writeheader()
    writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)
    atomic.write_text(path, buffer.getvalue())


def _environment(policy: str, manifest_sha256: str) -> dict[str, Any]:
    packages = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "tensorboard")
    return {
        "fer_tfdata": fer_tfdata.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "devices": [_device_name(device) for device in tf.config.list_physical_devices()],
        "dtype_policy": policy,
        "manifest_sha256": manifest_sha256,
    }


def _device_name(device: Any) -> str:
    if device.device_type == "GPU":
        details = tf.config.experimental.get_device_details(device)
        return f"GPU {details.get('device_name', '')}".strip()
    return f"{device.device_type} {_cpu_name()}" if device.device_type == "CPU" else device.name


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def _git_commit() -> str | None:
    """Returns the commit of the checkout that this package runs from, None where it is none."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    atomic.write_text(path, json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
