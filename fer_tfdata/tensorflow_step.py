"""What a step of a training does beyond Keras's, on TensorFlow."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata import augmentation, pipeline

Targets = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class TensorFlowStep(keras.Model):
    """A functional model that augments, trains on soft targets, and counts its answers.

    Where the device has a part in changing a batch, training takes `(rows, labels)`, rows a
    dictionary of `images` and, with `augment`, `seeds`, int64 [n, 2], and `augment_due`, bool [n];
    with `shrink`, `shrink_due`, bool [n].  Of these the first row of a device's part counts.

    Attributes:
      augment: changes a batch on the device, as the pipeline's `augment` does, where it is due.
      targets: what a batch is trained towards, float32 [n, outputs], given its images, as they
        were changed, and its labels; None trains towards the labels.
      shrink: scales a batch down where that is due, after `targets` has seen it.
      soft_labels: the loss takes float32 [n, outputs]; other labels it is tested on are converted.
      steps_done: of the epoch that `fit` begins with, how many it is to count off without doing
        them, since they were done before.
      seconds_waited: for batches, since the model was made: from a step's beginning until its
        batch was there; the first step, which is traced, left out.
    """

    jit_compile: bool  # these are Keras's
    train_function: Any
    test_function: Any
    augment: pipeline.Augment | None = None
    targets: Targets | None = None
    shrink: Callable[[tf.Tensor], tf.Tensor] | None = None
    soft_labels = False
    steps_done = 0
    seconds_waited = 0.0
    _counting = False

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
        traced = False

        def train_or_count(iterator: Any) -> Any:
            nonlocal traced
            if self.steps_done:
                self.steps_done -= 1
                return self.get_metrics_result()
            begin = time.time()  # what tf.timestamp counts from
            results = train(iterator)
            if traced:  # else it was the graph, and not the input, that was waited for
                self.seconds_waited += max(0.0, float(self._batch_arrived) - begin)
            traced = True
            return results

        return train_or_count

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds nothing, since `build_training_model` has.

        Keras, for several devices, would first add up their parts of a batch, which works for
        numbers in parts of one size alone.
        """

    def train_step(self, data: Any) -> Any:
        """Trains on a batch, augmented first where that is this model's to do."""
        rows, labels, *weights = data
        with tf.control_dependencies(tf.nest.flatten((rows, labels))):
            read = self._batch_arrived.assign(tf.timestamp(), read_value=False)
        with tf.control_dependencies([read]):  # else a single thread may read the clock last
            rows, labels = tf.nest.map_structure(tf.identity, (rows, labels))
        return self._compiled_step((*self._changed(rows, labels, self.targets), *weights))

    def _changed(
        self, rows: Any, labels: tf.Tensor, targets: Targets | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the images that a device trains on, of its part of a batch, and their targets."""
        rows = rows if isinstance(rows, dict) else {"images": rows}
        images = rows["images"]
        if (augment := self.augment) is not None:
            unchanged, given, seed = images, labels, rows["seeds"][0]
            images, labels = tf.cond(
                rows["augment_due"][0],
                lambda: augment(unchanged, given, seed),
                lambda: (unchanged, given),
            )
        if targets is not None:
            labels = targets(images, labels)
        if (shrink := self.shrink) is not None:
            whole = images
            images = tf.cond(rows["shrink_due"][0], lambda: shrink(whole), lambda: whole)
        return images, labels

    def as_seen(self, batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the images of a batch as this model trains on them, and their labels.

        Args:
          batch: of the dataset that `fit` takes.
        """
        devices = self.distribute_strategy.num_replicas_in_sync
        parts = np.array_split(np.arange(len(batch[1])), devices)
        changed = []
        for part in filter(len, parts):
            rows, labels = tf.nest.map_structure(lambda of, part=part: tf.gather(of, part), batch)
            changed.append(self._changed(rows, labels, None))
        images, labels = zip(*changed, strict=True)
        return tf.concat(images, axis=0), tf.concat(labels, axis=0)

    def make_test_function(self, force: bool = False) -> None:
        """Makes what Keras makes, and what counts the answers."""
        if self.test_function is None or force:
            # float32, which every device adds up, and exactly up to 16 million.
            outputs = self.output_shape[-1]
            self._answers = tf.Variable(tf.zeros((outputs, outputs)), trainable=False)
        super().make_test_function(force)

    def reset_metrics(self) -> None:
        """Sets all sums to zero, as Keras does before each epoch and each validation."""
        super().reset_metrics()
        if self.test_function is not None:
            self._answers.assign(tf.zeros_like(self._answers))

    def test_step(self, data: Any) -> Any:
        """Tests on a batch, with its labels in the form that the loss takes."""
        images, labels, *weights = data
        if self.soft_labels:
            labels = augmentation.soft_labels(labels, self.output_shape[-1])
        self._counting = True  # while the step is traced
        try:
            return super().test_step((images, labels, *weights))
        finally:
            self._counting = False

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Computes the metrics; in validation, also counts the answers."""
        if self._counting:
            truth = tf.argmax(y, axis=1) if self.soft_labels else y
            answers = tf.argmax(y_pred, axis=1)
            outputs = y_pred.shape[-1]
            self._answers.assign_add(
                tf.math.confusion_matrix(truth, answers, outputs, dtype=tf.float32)
            )
        return super().compute_metrics(x, y, y_pred, sample_weight)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """How often each expression, by row, was answered by each in the latest validation."""
        counts: npt.NDArray[np.int64] = self._answers.numpy().astype(np.int64)
        return counts
