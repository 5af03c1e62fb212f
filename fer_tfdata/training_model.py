"""The model that `fit` trains: a functional one with fast layers, and what a step does beyond."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata import atomic, augmentation, labelling, pipeline, records
from fer_tfdata.errors import InputError
from fer_tfdata.fast_layers import with_fast_layers
from fer_tfdata.models import BUILDERS
from fer_tfdata.optimization import build_optimizer
from fer_tfdata.precision import policy_scope
from fer_tfdata.train_config import TrainConfig

Targets = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


class TrainingModel(keras.Model):
    """A functional model that augments, trains on soft targets, and saves complete files or none.

    Attributes:
      augment: changes a batch on the device, as the pipeline's `augment` does; training then
        takes `((images, seeds, due), labels)`, seeds int64 [n, 2] and due bool [n], of which the
        first rows count, and leaves the images as they are where nothing is due.
      targets: what a batch is trained towards, float32 [n, outputs], given its images, as they
        were changed, and its labels; None trains towards the labels.
      soft_labels: the loss takes float32 [n, outputs]; other labels it is tested on are converted.
      steps_done: of the epoch that `fit` begins with, how many it is to count off without doing
        them, since they were done before.
      seconds_waited: for batches, since the model was made: from a step's beginning until its
        batch was there; the first step, which is traced, left out.
      added_logits: float32 [outputs], added to the logits in the training's loss alone.
    """

    jit_compile: bool  # these are Keras's
    train_function: Any
    test_function: Any
    augment: pipeline.Augment | None = None
    targets: Targets | None = None
    soft_labels = False
    added_logits: npt.NDArray[np.float32] | None = None
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
        with tf.control_dependencies(tf.nest.flatten(data[:2])):
            self._batch_arrived.assign(tf.timestamp())
        images, labels, *weights = data
        if (augment := self.augment) is not None:
            unchanged, seeds, due = images
            images, labels = tf.cond(
                due[0], lambda: augment(unchanged, labels, seeds[0]), lambda: (unchanged, labels)
            )
        if self.targets is not None:
            labels = self.targets(images, labels)
        return self._compiled_step((images, labels, *weights))

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
        plain = build_network(config, schema, any_size=config.augmentation.crop > 0)
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


def build_network(
    config: TrainConfig, schema: records.Schema, *, any_size: bool = False
) -> keras.Model:
    """Builds the network for the images and the labels of a data set, or for such of any size.

    Raises:
      InputError: the network cannot take such images.
    """
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


def frequency_logits(split: records.Split, strength: float) -> npt.NDArray[np.float32]:
    """Returns so many times the logarithms of the expressions' frequencies.

    One that the split does not hold counts as one image.
    """
    counts = np.array([split.per_expression[name] for name in split.schema.expressions])
    frequencies = np.maximum(counts, 1) / counts.sum()
    return (strength * np.log(frequencies)).astype(np.float32)
