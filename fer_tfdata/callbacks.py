"""What Keras's callbacks leave to be wished for in runs that are killed, continued and watched."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from tqdm import tqdm
from tqdm.keras import TqdmCallback

from fer_tfdata import atomic, cluster
from fer_tfdata.checkpoints import Checkpoints
from fer_tfdata.errors import InputError
from fer_tfdata.optimization import current_rate, inner_optimizer


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops the training when the loss is NaN or infinite, and says at which step that began.

    The loss in a step's logs is the epoch's mean so far, which stays non-finite once it is.

    Args:
      steps_per_epoch: to count the steps of the whole run.

    Raises:
      NonFiniteLossError: from within `fit`.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        super().__init__()
        self._steps_per_epoch = steps_per_epoch
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Looks at this step's loss, which Keras has fetched from the device for its own use."""
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            step = self._epoch * self._steps_per_epoch + batch + 1
            raise NonFiniteLossError(loss, step=step, epoch=self._epoch + 1)


class NonFiniteLossError(InputError):
    """A training's loss is NaN or infinite, and would be again if it were continued.

    Attributes:
      step: the first of which that is so, counted from 1.
    """

    def __init__(self, loss: float, *, step: int, epoch: int) -> None:
        super().__init__(
            f"the loss is {loss} from step {step} on (epoch {epoch}); expected a finite one. Start "
            "again in a new --run_dir with a smaller --learning_rate or --precision=float32"
        )
        self.step = step


class ReduceLROnPlateau(keras.callbacks.ReduceLROnPlateau):
    """Keras's, with its counters as they stood after the epochs of an earlier part of the run.

    Args:
      past: the history's rows so far.
      initial_rate: what the run started with.
      **kwargs: Keras's.
    """

    def __init__(
        self, past: Sequence[Mapping[str, float]], *, initial_rate: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._past = past
        self._initial_rate = initial_rate

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Replays the past epochs; the rate itself is the checkpoint's."""
        super().on_train_begin(logs)
        rate = current_rate(self.model.optimizer)
        self.model.optimizer.learning_rate.assign(self._initial_rate)
        for epoch, row in enumerate(self._past):
            self.on_epoch_end(epoch, dict(row))
        self.model.optimizer.learning_rate.assign(rate)


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves a checkpoint every so many steps, at the end of each epoch, and when asked to stop.

    After an epoch's last step that is when its validation and all else about it are done: a
    checkpoint there says that the epoch is complete.

    Args:
      checkpoints: the run's.
      every: steps.
      steps_per_epoch: to count the steps of the whole run.
      history: the file that has the epochs' rows, which is not to be behind a checkpoint.
      stop_asked: whether the training is to stop after a step of the run; asked after each.

    Raises:
      StoppedError: from within `fit`, when it was asked to stop, with the checkpoint saved.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        every: int,
        steps_per_epoch: int,
        history: Path,
        stop_asked: Callable[[int], bool],
    ) -> None:
        super().__init__()
        self._checkpoints = checkpoints
        self._history = history
        self._every = every
        self._steps_per_epoch = steps_per_epoch
        self._stop_asked = stop_asked
        self._stop = False
        self._epoch = 0
        self._done_before = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Brings back the sums of an epoch that was interrupted."""
        self._epoch = epoch
        self._done_before = self.model.steps_done
        if self._done_before:
            self._checkpoints.restore_metrics()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves, if it is time."""
        if batch < self._done_before:  # this one was not done here
            return
        step = self._epoch * self._steps_per_epoch + batch + 1
        self._stop = self._stop_asked(step)
        if step % self._steps_per_epoch and (self._stop or step % self._every == 0):
            self._save(step)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves what the next epoch begins with."""
        if cluster.is_first():
            atomic.sync(self._history)
        self._save((epoch + 1) * self._steps_per_epoch)

    def _save(self, step: int) -> None:
        self._checkpoints.save(step)
        if self._stop:
            raise StoppedError(step)


class StoppedError(Exception):
    """A training was asked to stop, and has saved a checkpoint.

    Attributes:
      step: how many steps were done.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class Validated(keras.callbacks.Callback):
    """Keeps the weights that did best in validation; validates their moving average where asked.

    Of several processes, the first one writes them.

    Args:
      path: where the kept weights go, complete or not at all.
      to_surpass: the validation accuracy of what is kept so far; -inf where nothing is.
      averaged: validates and keeps the optimizer's moving average of the weights.
      latest: keeps the last ones instead of the best.
    """

    def __init__(self, path: Path, to_surpass: float, *, averaged: bool, latest: bool) -> None:
        super().__init__()
        self._path = path
        self._best = to_surpass
        self._averaged = averaged
        self._latest = latest

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Puts the average in the weights' place."""
        self._exchange()

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Keeps the weights if they are to be kept, and puts those that are trained back."""
        accuracy = float((logs or {})["accuracy"])
        if self._latest or accuracy > self._best:
            self._best = accuracy
            if cluster.is_first():
                self.model.save_weights(self._path, val_accuracy=accuracy)
        self._exchange()

    def _exchange(self) -> None:
        if not self._averaged:
            return
        optimizer = inner_optimizer(self.model.optimizer)
        averages = optimizer._model_variables_moving_average  # as keras.callbacks.SwapEMAWeights
        for variable, average in zip(self.model.trainable_variables, averages, strict=True):
            value = keras.ops.copy(variable.value)
            variable.assign(average)
            average.assign(value)


class SaveLastWeights(keras.callbacks.Callback):
    """Saves the weights after each epoch.

    Keras's ModelCheckpoint would take braces in the path for names to fill in.

    Args:
      path: where they go, complete or not at all.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Saves them."""
        self.model.save_weights(self._path)


class EpochReport(keras.callbacks.Callback):
    """Adds rate, speed and wait to each epoch's logs, and prints the epoch as one line on stderr.

    `input_wait` is the share of the training's time in which steps waited for their batches.  Of
    neither does this process's first step count, which is traced and compiled, unless no other
    follows in its epoch.

    Args:
      epochs: of the whole run.
      steps_per_epoch: of which those that were done before do not count for the speed.
      batch_size: images a step.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, batch_size: int) -> None:
        super().__init__()
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._batch_size = batch_size
        self._steps = 0
        self._is_first_step = True
        self._start = 0.0
        self._waited_before = 0.0
        self._images_per_second = 0.0
        self._input_wait = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._waited_before = self.model.seconds_waited
        self._steps = self._steps_per_epoch - self.model.steps_done
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts the clock again after this process's first step."""
        if not self._is_first_step or batch < self._steps_per_epoch - self._steps:
            return
        self._is_first_step = False
        if self._steps > 1:
            self._steps -= 1
            self._waited_before = self.model.seconds_waited
            self._start = time.perf_counter()

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Stops the clock: what follows is validation."""
        seconds = time.perf_counter() - self._start
        self._images_per_second = self._steps * self._batch_size / seconds
        self._input_wait = (self.model.seconds_waited - self._waited_before) / seconds

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Completes the logs and prints the line."""
        logs = logs if logs is not None else {}
        logs["learning_rate"] = current_rate(self.model.optimizer)
        logs["images_per_second"] = self._images_per_second
        logs["input_wait"] = self._input_wait
        tqdm.write(
            f"epoch {epoch + 1}/{self._epochs}: loss {logs['loss']:.4f}, "
            f"accuracy {logs['accuracy']:.4f}, val_loss {logs['val_loss']:.4f}, "
            f"val_accuracy {logs['val_accuracy']:.4f}, {self._images_per_second:.0f} images/s",
            file=sys.stderr,
        )


def progress_bar(
    epochs: int, steps_per_epoch: int, *, initial_epoch: int
) -> list[keras.callbacks.Callback]:
    """Returns the progress bar of a training, none where stderr is no terminal."""
    if not sys.stderr.isatty():
        return []
    return [
        TqdmCallback(
            epochs=epochs, data_size=steps_per_epoch, batch_size=1, verbose=1, initial=initial_epoch
        )
    ]
