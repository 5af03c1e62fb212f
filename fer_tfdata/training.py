"""Trains a model on a data directory into a run directory, and continues what was interrupted."""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata import (
    atomic,
    bookkeeping,
    cluster,
    data_service,
    distribution,
    evaluation,
    figures,
    labelling,
    monitoring,
    optimization,
    pipeline,
    records,
    starting_weights,
    teachers,
    weight_files,
)
from fer_tfdata.callbacks import (
    EpochReport,
    ReduceLROnPlateau,
    SaveCheckpoints,
    SaveLastWeights,
    StopOnNonFiniteLoss,
    StoppedError,
    Validated,
    progress_bar,
)
from fer_tfdata.checkpoints import Checkpoints, delete_all
from fer_tfdata.classifier import KerasClassifier
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import SPLITS
from fer_tfdata.fast_layers import with_fast_layers
from fer_tfdata.named_models import NamedModel
from fer_tfdata.precision import choose_policy, policy_scope
from fer_tfdata.run_directory import RunDirectory
from fer_tfdata.train_config import TrainConfig
from fer_tfdata.training_batches import train_batches
from fer_tfdata.training_model import (
    TrainingModel,
    build_network,
    build_training_model,
    frequency_logits,
)

_EVAL_BATCH: Final = 512
_log = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    verify: bool = False,
    profile_steps: tuple[int, int] | None = None,
    stop_asked: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains, and leaves the run directory complete.

    Seeds the global generators of Python, NumPy and the backend: Keras's layers draw from them.

    Several processes (`cluster.joined`) all call this with the same configuration, but for the
    place of the data; the first one's run directory is the run's, and the others' are neither read
    nor written.

    The weights with the best validation accuracy, or the last ones where validation was trained on,
    become `model.keras`, a plain float32 Keras model, and `metrics.json` holds that file's figures
    on the validation split.

    Args:
      config: what to train.
      run_dir: where the run's files go.
      resume: continues the run that stands there from its newest checkpoint, as if it had never
        been interrupted; starts one where there is none.
      verify: compares the shards' checksums before they are used.
      profile_steps: the first and the last step of this process to profile for TensorBoard,
        counted from 1.
      stop_asked: asked after each step whether to save and stop, as SIGTERM has it stop; of several
        processes SIGTERM alone does.

    Returns:
      The content of `metrics.json`.

    Raises:
      InputError: the data are missing or damaged or have not the labels asked for, the network does
        not take their images, the run directory is in use or was started with another
        configuration, the precision does not suit the device, the backend cannot do what is asked
        for, or the disk is full; or another process has failed.
      NonFiniteLossError: the loss is NaN or infinite.
      StoppedError: the process got SIGTERM, or a stop was asked for, and a checkpoint is saved.
    """
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_stop_asked_by_sigterm(stop_asked))
        with cluster.all_or_none():
            _check_backend(config, profile_steps)
            policy = choose_policy(config.precision, model=config.model)
            data_dir = Path(config.data_dir)
            train_split = records.open_split(data_dir, "train", verify=verify)
            validation_split = records.open_split(data_dir, "validation", verify=verify)
            if config.train_on_validation:
                train_split = records.joined(train_split, validation_split)
            _check_data(config, train_split, validation_split)  # before anything is made
            others = _load_others(config, train_split.schema)
        facts = bookkeeping.common_facts(config, policy, train_split.manifest_sha256)
        cluster.check_alike({**facts, **others.checksums})
        run = RunDirectory(run_dir)

        def enter() -> bool:
            with _errors_explained(run), bookkeeping.errors_named(run):
                stack.enter_context(bookkeeping.locked(run))
                bookkeeping.prepare(run, config, resume=resume)
                bookkeeping.note_environment(
                    run,
                    policy=policy,
                    manifest_sha256=train_split.manifest_sha256,
                    checksums=others.checksums,
                )
            return run.metrics.is_file()

        if cluster.from_first(enter):
            return cluster.from_first(lambda: _finished(run))
        return _run(config, run, policy, train_split, validation_split, others, profile_steps, stop)


def _finished(run: RunDirectory) -> dict[str, Any]:
    _log.warning("%s is complete; nothing is left to train", run.root)
    delete_all(run.checkpoints)  # a kill may have come before
    return bookkeeping.read_json(run.metrics, "accuracy", "accuracy_ci95", "macro_f1", "nll")


def _check_backend(config: TrainConfig, profile_steps: tuple[int, int] | None) -> None:
    """Checks that the backend and its devices can do what is asked for.

    Raises:
      InputError: JAX cannot, and TensorFlow can; or the devices cannot share a batch evenly.
    """
    if keras.backend.backend() == "jax":
        for name, asked_for, expected in (
            ("augment_on", config.augment_on == "device", "input or auto"),
            ("teacher", config.teacher is not None, "none"),
            ("profile_steps", profile_steps is not None, "none"),
        ):
            if asked_for:
                raise InputError(
                    f"{name}: expected {expected} under KERAS_BACKEND=jax; leave that out of the "
                    "environment to train with TensorFlow"
                )
    devices = distribution.device_count()
    # Else one of TensorFlow's devices has fewer images, and each of them weighs more.
    if config.batch_size % devices:
        raise InputError(
            f"batch_size: expected a multiple of {devices}, the number of devices that share every "
            f"batch, received {config.batch_size}; choose another, or let fewer devices be seen "
            "(CUDA_VISIBLE_DEVICES)"
        )


def _check_data(
    config: TrainConfig, train_split: records.Split, validation_split: records.Split
) -> None:
    """Checks that there is what the training and its validation need.

    Raises:
      InputError: the labels are not there, there is not one full batch, the warm-up takes all
        steps, the network does not take the images, or there is no data service.
    """
    if config.data_service is not None:
        data_service.check_reachable(config.data_service)
    steps = pipeline.steps_per_epoch(train_split, config.batch_size, config.labels)
    optimization.learning_rate(config, steps)
    build_network(config, train_split.schema, any_size=config.changes_size)
    num_classes = len(labelling.class_names(train_split.schema, config.labels))
    measured = evaluation.choose_labels(num_classes, validation_split.schema)
    for labels in (config.labels, measured):
        labelling.usable_examples(validation_split, labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OtherModels:
    """The trained models that this training makes use of.

    Attributes:
      start: whose weights it begins with; None for random ones.
      teachers: whose probabilities are learned from too.
    """

    start: NamedModel | None
    teachers: Sequence[NamedModel]

    @property
    def checksums(self) -> dict[str, Any]:
        """The SHA-256 of their files, by what they are used for."""
        return {
            "start_sha256": None if self.start is None else self.start.sha256,
            "teachers_sha256": [teacher.sha256 for teacher in self.teachers],
        }


def _load_others(config: TrainConfig, schema: records.Schema) -> _OtherModels:
    return _OtherModels(
        start=starting_weights.load(config, schema),
        teachers=teachers.load_teachers(config, schema),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Session:
    """What this process trains.

    Attributes:
      config: the run's.
      run: where its files go.
      model: in the state that it goes on from.
      checkpoints: of that model.
      batches: from there on.
      expressions: what the labels are ids of.
      steps: an epoch.
      past: the history's rows of the epochs that are complete.
      to_surpass: the validation accuracy that the weights to keep have to surpass.
    """

    config: TrainConfig
    run: RunDirectory
    model: TrainingModel
    checkpoints: Checkpoints
    batches: tf.data.Dataset
    expressions: Sequence[str]
    steps: int
    past: Sequence[Mapping[str, float]]
    to_surpass: float


def _run(
    config: TrainConfig,
    run: RunDirectory,
    policy: str,
    train_split: records.Split,
    validation_split: records.Split,
    others: _OtherModels,
    profile_steps: tuple[int, int] | None,
    stop_asked: Callable[[int], bool],
) -> dict[str, Any]:
    with _errors_explained(run, train_split, validation_split):
        with distribution.data_parallel():
            session = _begin(config, run, policy, train_split, others)
            _fit(session, validation_split, stop_asked, profile_steps)

        def stop_if_asked() -> None:
            steps = config.epochs * session.steps
            if cluster.process_count() == 1 and stop_asked(steps):
                raise StoppedError(steps)

        metrics = cluster.from_first(
            lambda: _finish(
                config, run, train_split.schema, validation_split, others, stop_if_asked
            )
        )
    if cluster.is_first():
        delete_all(run.checkpoints)
    return metrics


@contextlib.contextmanager
def _errors_explained(run: RunDirectory, *splits: records.Split) -> Iterator[None]:
    """Raises what a person can mend as an InputError that says what it is."""
    try:
        yield
    except records.READ_ERRORS as error:
        if lost := data_service.input_error(error):
            raise lost from error
        for split in splits:
            records.verify_checksums(split)  # names the damaged file
        raise  # the data are what they were: it is something else
    except (OSError, RuntimeError, tf.errors.OpError) as error:
        if (reason := atomic.lack_of_room(error)) is None:
            raise
        raise InputError(
            f"{run.root}: a file could not be written ({reason}); make room and continue with "
            "--resume"
        ) from error


def _begin(
    config: TrainConfig,
    run: RunDirectory,
    policy: str,
    split: records.Split,
    others: _OtherModels,
) -> _Session:
    """Builds what is trained, and brings it to where the run was interrupted."""
    steps = pipeline.steps_per_epoch(split, config.batch_size, config.labels)
    keras.utils.set_random_seed(config.seed)
    with distribution.choose_strategy().scope():
        model = build_training_model(config, policy, split.schema, steps_per_epoch=steps)
    if others.start is not None:
        model.set_weights(others.start.model.get_weights())
    model.targets = teachers.targets(others.teachers, config.teacher_weight)
    if config.logit_adjustment:
        model.added_logits = frequency_logits(split, config.logit_adjustment)
    checkpoints = Checkpoints(run.checkpoints, model)
    start_step = checkpoints.restore()

    def go_on() -> list[dict[str, float]]:
        past = bookkeeping.past_epochs(run, start_step // steps)
        bookkeeping.write_history(run.history, past)
        return past

    past = cluster.from_first(go_on)
    model.steps_done = start_step % steps
    return _Session(
        config=config,
        run=run,
        model=model,
        checkpoints=checkpoints,
        batches=train_batches(config, split, model, start_step=start_step),
        expressions=labelling.class_names(split.schema, config.labels),
        steps=steps,
        past=past,
        to_surpass=cluster.from_first(lambda: _to_surpass(config, run, past)),
    )


def _to_surpass(
    config: TrainConfig, run: RunDirectory, past: Sequence[Mapping[str, float]]
) -> float:
    """Returns the validation accuracy that weights have to surpass to be kept.

    -inf where those kept so far are lost and others can still take their place; where no epochs are
    to come, that is for the end to say.
    """
    best = max((row["val_accuracy"] for row in past), default=-math.inf)
    if not past or len(past) == config.epochs:
        return best
    try:
        kept = weight_files.check(run.best_weights)
    except weight_files.DamagedError as error:
        _log.warning("%s; unless they are put back, the best of those to come are kept", error)
        return -math.inf
    # Less where better ones were lost; more where a kill came before their epoch's checkpoint.
    return best if kept is None else min(kept, best)


def _fit(
    session: _Session,
    validation_split: records.Split,
    stop_asked: Callable[[int], bool],
    profile_steps: tuple[int, int] | None,
) -> None:
    config = session.config
    _warn_of_no_profile(session, profile_steps)
    session.model.fit(
        session.batches,
        epochs=config.epochs,
        initial_epoch=len(session.past),
        steps_per_epoch=session.steps,
        validation_data=_validation(validation_split, config.labels),
        callbacks=_callbacks(session, stop_asked, profile_steps),
        shuffle=False,  # the dataset is, and Keras would warn that it cannot
        verbose=0,
    )


def _validation(split: records.Split, labels: str) -> tf.data.Dataset:
    if keras.backend.backend() != "jax":
        return pipeline.eval_dataset(split, labels=labels, batch_size=_EVAL_BATCH)
    # In batches of one size, since JAX compiles for each anew, which all devices share evenly.
    devices = distribution.device_count()
    return pipeline.padded_eval_dataset(
        split,
        labels=labels,
        batch_size=-(-_EVAL_BATCH // devices) * devices,
        process_index=cluster.process_index(),
        process_count=cluster.process_count(),
    )


def _callbacks(
    session: _Session, stop_asked: Callable[[int], bool], profile_steps: tuple[int, int] | None
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks in the order that a kill between two of them asks for.

    The checkpoint comes last: an epoch counts as done when everything else about it is on the disk.
    What an interrupted epoch wrote before that is written again, and is the same.  Of several
    processes the first one writes; what changes the model or ends the training is in all of them.
    """
    config, run, steps, past = session.config, session.run, session.steps, session.past
    plateau = ReduceLROnPlateau(
        past,
        initial_rate=config.learning_rate,
        monitor="val_loss",
        factor=0.2,
        patience=2,
        min_lr=1e-6,
    )
    return [
        StopOnNonFiniteLoss(steps),
        EpochReport(config.epochs, steps, config.batch_size),  # of the rate before it is reduced
        *([plateau] if config.schedule == "plateau" else []),
        Validated(
            run.best_weights,
            session.to_surpass,
            averaged=config.ema > 0,
            latest=config.train_on_validation,
        ),
        *(_writers(session, profile_steps) if cluster.is_first() else []),
        SaveCheckpoints(
            session.checkpoints,
            every=config.checkpoint_every,
            steps_per_epoch=steps,
            history=run.history,
            stop_asked=stop_asked,
        ),
        *progress_bar(config.epochs, steps, initial_epoch=len(past)),
    ]


def _writers(
    session: _Session, profile_steps: tuple[int, int] | None
) -> list[keras.callbacks.Callback]:
    run = session.run
    return [
        SaveLastWeights(run.last_weights),
        monitoring.Monitor(
            run.tensorboard,
            hparams=bookkeeping.hyperparameters(session.config),
            expressions=session.expressions,
            confusion=lambda: session.model.confusion,
            first_batch=lambda: _as_seen(session.batches, session.model),
            profile_steps=_counted(profile_steps, session.model.steps_done),
        ),
        keras.callbacks.CSVLogger(run.history, append=True),
    ]


def _warn_of_no_profile(session: _Session, profile_steps: tuple[int, int] | None) -> None:
    left = (session.config.epochs - len(session.past)) * session.steps - session.model.steps_done
    if profile_steps is not None and profile_steps[0] > left:
        _log.warning(
            "profile_steps: nothing will be profiled, since %d steps are left; choose earlier ones",
            left,
        )


def _counted(steps: tuple[int, int] | None, done_before: int) -> tuple[int, int] | None:
    """Returns steps of this process as `fit` counts them, with those of the epoch done before."""
    return None if steps is None else (steps[0] + done_before, steps[1] + done_before)


def _as_seen(
    batches: tf.data.Dataset, model: TrainingModel
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """Returns the first batch as the network sees it: images and labels."""
    images, labels = model.as_seen(next(iter(batches)))
    return images.numpy(), labels.numpy()


@contextlib.contextmanager
def _stop_asked_by_sigterm(
    otherwise_asked: Callable[[], bool],
) -> Iterator[Callable[[int], bool]]:
    """Yields whether SIGTERM came before a step, or a stop was asked for otherwise.

    A second SIGTERM ends the process as it always would.  Where no step follows, what asks when all
    steps are done gets the answer too.

    Several processes stop after the same step when one of them gets it.
    """
    asked = False
    if cluster.process_count() > 1:
        yield cluster.stop_agreed_on
        return
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield lambda step: otherwise_asked()
        return

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        signal.signal(signal.SIGTERM, before)
        if otherwise_asked():  # by one that came before this training listened, so this is a second
            os.kill(os.getpid(), number)
            return
        asked = True
        if callable(before):  # what this training is a part of is to hear of it too
            before(number, frame)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda step: asked or otherwise_asked()
    finally:
        if not asked:  # else that is done, and what was there before may have changed it since
            signal.signal(signal.SIGTERM, before)


def _finish(
    config: TrainConfig,
    run: RunDirectory,
    schema: records.Schema,
    validation_split: records.Split,
    others: _OtherModels,
    stop_if_asked: Callable[[], None],
) -> dict[str, Any]:
    """Writes the model and what there is to say of it; returns its figures.

    All of it is done again where it was interrupted.
    """
    stop_if_asked()
    chosen = _export(config, schema, run)
    stop_if_asked()
    answers = evaluation.predict_split(
        KerasClassifier(chosen), validation_split, model_name=str(run.model)
    )
    metrics = evaluation.metrics_of(answers, validation_split, model_name=str(run.model))
    metrics["trained_on"] = _learned_from(config, others)
    stop_if_asked()
    _draw(config, run, chosen, metrics, answers, validation_split)
    bookkeeping.write_json(run.metrics, metrics)
    return metrics


def _learned_from(config: TrainConfig, others: _OtherModels) -> list[str] | None:
    """Returns the splits that the weights come from, also by way of other models.

    None where one of those does not say what it was trained on, and none of the others is known to
    have seen more than `train`.
    """
    models = [*([others.start] if others.start else []), *others.teachers]
    splits = {"train", *(["validation"] if config.train_on_validation else [])}
    splits.update(*(model.trained_on or () for model in models))
    if splits == {"train"} and any(model.trained_on is None for model in models):
        return None
    return [split for split in SPLITS if split in splits]


def _export(config: TrainConfig, schema: records.Schema, run: RunDirectory) -> keras.Model:
    """Writes the best weights as a model of stock layers in float32; returns what was written."""
    with policy_scope("float32"):
        plain = build_network(config, schema)
        fast = with_fast_layers(plain)  # as they were trained
    try:
        weight_files.load(fast, run.best_weights)
    except weight_files.DamagedError as error:
        raise InputError(
            f"{error}; put them back, or a copy of last.weights.h5 in their place (with --ema it "
            "has no averages), and continue with --resume"
        ) from error
    plain.set_weights(fast.get_weights())
    with atomic.replacing(run.model) as temporary:
        plain.save(temporary)
    return keras.models.load_model(run.model, compile=False)


def _draw(
    config: TrainConfig,
    run: RunDirectory,
    model: keras.Model,
    metrics: Mapping[str, Any],
    answers: evaluation.SplitPredictions,
    split: records.Split,
) -> None:
    """Draws what can be drawn: a picture is not worth losing a training for."""

    def write_results(log_dir: Path) -> None:
        monitoring.write_results(
            log_dir,
            answers.predictions,
            functools.partial(_images_at, split, answers.labels),
            functools.partial(monitoring.embeddings, model),
            answers.expressions,
            trained_on=config.train_on_validation,
        )

    pictures: Mapping[Path, Callable[[Path], None]] = {
        run.figures / "learning_curves.png": lambda path: figures.learning_curves(
            run.history, path
        ),
        run.figures / "confusion_matrix.png": lambda path: figures.confusion_matrix(metrics, path),
        run.figures / "model.png": lambda path: figures.model_diagram(model, path),
        run.tensorboard: write_results,
    }
    for path, draw in pictures.items():
        try:
            draw(path)
        except Exception as error:  # whatever a library raises: the model is there
            _log.warning("%s could not be drawn: %s", path, error)


def _images_at(
    split: records.Split, labels: str, places: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Returns some of a split's usable images, by their places; the others are read and let go."""
    batches = pipeline.eval_dataset(split, labels=labels, batch_size=_EVAL_BATCH, fields=("image",))
    kept: dict[int, npt.NDArray[np.uint8]] = {}
    start = 0
    for (images,) in batches:
        within = places[(places >= start) & (places < start + len(images))]
        kept.update((place, images[place - start].numpy()) for place in within.tolist())
        start += len(images)
    return np.stack([kept[place] for place in places.tolist()])
