"""The model that `fit` trains: a functional one with fast layers and the backend's step."""

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np
import numpy.typing as npt

from fer_tfdata import atomic, labelling, records, weight_files
from fer_tfdata.augmentation_config import side_left
from fer_tfdata.errors import InputError
from fer_tfdata.fast_layers import with_fast_layers
from fer_tfdata.models import BUILDERS
from fer_tfdata.optimization import build_optimizer
from fer_tfdata.precision import policy_scope
from fer_tfdata.train_config import TrainConfig

# As Keras does it itself: a model's step belongs to the backend.
if TYPE_CHECKING or keras.backend.backend() == "tensorflow":
    from fer_tfdata.tensorflow_step import TensorFlowStep as Step
else:
    from fer_tfdata.jax_step import JaxStep as Step


_LEAST_ROOM: Final = 1_000_000  # bytes


class TrainingModel(Step):
    """A functional model with the backend's step, which saves complete files or none.

    Attributes:
      added_logits: float32 [outputs], added to the logits in the training's loss alone.
    """

    added_logits: npt.NDArray[np.float32] | None = None

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

    def save_weights(
        self,
        filepath: str | Path,
        overwrite: bool = True,
        *,
        val_accuracy: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves the weights, with a checksum, under another name and renames the file last.

        Args:
          filepath: where they go.
          overwrite: as Keras's; a file that is there is replaced in either case.
          val_accuracy: what they are kept for, which is written with them.
          **kwargs: Keras's.

        Raises:
          OSError: there is no room for them.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Keras saves the optimizer as well; that many bytes again are more than HDF5 adds.
        variables = [*self.variables, *self.optimizer.variables]
        values = sum(math.prod(v.shape) * np.dtype(np.float32).itemsize for v in variables)
        atomic.check_room(path.parent, 2 * values + _LEAST_ROOM)
        with atomic.replacing(path) as temporary:
            super().save_weights(temporary, overwrite=True, **kwargs)
            weight_files.seal(temporary, val_accuracy=val_accuracy)


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
        # Without a size of its own where images come in two, whole and cropped or shrunk.
        plain = build_network(config, schema, any_size=config.changes_size)
        fast = with_fast_layers(plain)
        model = TrainingModel(fast.inputs, fast.outputs, name=plain.name)
        model.compile(
            optimizer=build_optimizer(config, steps_per_epoch),
            loss=loss(from_logits=True),
            weighted_metrics=[accuracy("accuracy")],  # others would count padding
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
    except ValueError as error:
        raise InputError(
            f"{config.data_dir}: expected images that {config.model} can take, received images of "
            f"{size}x{size} pixels; convert again with a larger --image_size"
        ) from error
    if not any_size:
        return model
    name, share = ("shrink", config.shrink) if config.shrink else ("crop", config.augmentation.crop)
    smaller = side_left(size, share)
    try:
        build(image_size=smaller)
    except ValueError as error:
        raise InputError(
            f"{name}: expected a share that leaves images that {config.model} can take, received "
            f"{share}, which leaves {smaller}x{smaller} pixels"
        ) from error
    try:
        return build(image_size=None)
    except ValueError as error:
        raise InputError(
            f"{name}: expected 0, since {config.model} takes images of one size only, or "
            f"another model; received {share}"
        ) from error


def frequency_logits(split: records.Split, strength: float) -> npt.NDArray[np.float32]:
    """Returns so many times the logarithms of the expressions' frequencies.

    One that the split does not hold counts as one image.
    """
    counts = np.array([split.per_expression[name] for name in split.schema.expressions])
    frequencies = np.maximum(counts, 1) / counts.sum()
    return (strength * np.log(frequencies)).astype(np.float32)
