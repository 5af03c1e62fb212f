"""The model that `fit` trains: a functional one with fast layers, and what a step does beyond."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata import atomic, augmentation, pipeline

Targets = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class TrainingModel(keras.Model):
    """A functional model that augments, trains on soft targets, and saves complete files or none.

    Attributes:
      augment: changes a batch on the device, as the pipeline's `augment` does; training then
        takes `((images, seed, due), labels)`, and leaves images as they are where `due`, a boolean,
        is false.
      targets: what a batch is trained towards, float32 [n, outputs], given its images, as they
        were changed, and its labels; None trains towards the labels.
      soft_labels: the loss takes float32 [n, outputs]; other labels it is tested on are converted.
      steps_done: of the epoch that `fit` begins with, how many it is to count off without doing
        them, since they were done before.
      seconds_waited: for batches, since the model was made: from a step's beginning until its
        batch was there.
      added_logits: float32 [outputs], added to the logits in the training's loss alone.
    """

    jit_compile: bool  # these two are Keras's
    train_function: Any
    augment: pipeline.Augment | None = None
    targets: Targets | None = None
    soft_labels = False
    added_logits: npt.NDArray[np.float32] | None = None
    steps_done = 0
    seconds_waited = 0.0

    def make_train_function(self, force: bool = False) -> None:
        """Makes what Keras makes, with what XLA cannot compile outside of what it compiles.

        Where Keras's jit_compile="auto" says so, as on a GPU, it compiles the whole of
        `train_step`; XLA knows neither the augmentation's warp nor the clock.
        """
        if self.train_function is not None and not force:
            return
        jit_compile = self.jit_compile
        self._compiled_step = super().train_step
        if jit_compile:
            self._compiled_step = tf.function(super().train_step, jit_compile=True)
            self.jit_compile = False
        with tf.device("/cpu:0"):
            self._batch_arrived = tf.Variable(0.0, trainable=False, dtype=tf.float64)
        super().make_train_function(force)
        self.jit_compile = jit_compile
        self.train_function = self._accounted(self.train_function)

    def _accounted(self, train: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Returns what counts off the steps that were done before, and times the others' wait."""

        def train_or_count(iterator: Any) -> Any:
            if self.steps_done:
                self.steps_done -= 1
                return self.get_metrics_result()
            begin = time.time()  # what tf.timestamp counts from
            results = train(iterator)
            self.seconds_waited += max(0.0, float(self._batch_arrived) - begin)
            return results

        return train_or_count

    def train_step(self, data: Any) -> Any:
        """Trains on a batch, augmented first where that is this model's to do."""
        with tf.control_dependencies(tf.nest.flatten(data)):
            self._batch_arrived.assign(tf.timestamp())
        images, labels, *weights = data
        if (augment := self.augment) is not None:
            unchanged, seed, due = images
            images, labels = tf.cond(
                due, lambda: augment(unchanged, labels, seed), lambda: (unchanged, labels)
            )
        if self.targets is not None:
            labels = self.targets(images, labels)
        return self._compiled_step((images, labels, *weights))

    def test_step(self, data: Any) -> Any:
        """Tests on a batch, with its labels in the form that the loss takes."""
        if not self.soft_labels:
            return super().test_step(data)
        images, labels, *weights = data
        soft = augmentation.soft_labels(labels, self.output_shape[-1])
        return super().test_step((images, soft, *weights))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Computes the loss; in training, of the logits with `added_logits`."""
        if training and self.added_logits is not None:
            y_pred = y_pred + self.added_logits
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def save_weights(self, filepath: str | Path, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the weights under another name and renames the file last."""
        with atomic.replacing(Path(filepath)) as temporary:
            super().save_weights(temporary, overwrite=True, **kwargs)
