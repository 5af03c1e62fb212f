"""Trained models that another one learns from (Hinton et al. 2015, arXiv:1503.02531)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from fer_tfdata import labelling, records
from fer_tfdata.errors import InputError
from fer_tfdata.run_directory import check_model, find_model, load_model
from fer_tfdata.tensorflow_step import Targets
from fer_tfdata.train_config import TrainConfig


def load_teachers(config: TrainConfig, schema: records.Schema) -> list[keras.Model]:
    """Returns the models that `config.teacher` names, of images of the sizes that training has.

    Raises:
      InputError: one cannot be loaded, or is one of other images or expressions.
    """
    wanted = (schema.image_shape, len(labelling.class_names(schema, config.labels)))
    teachers = []
    for path in _paths(config):
        teacher = load_model(path)
        form = check_model(teacher)
        if (form.image_shape, len(form.expressions)) != wanted:
            raise InputError(
                f"{path}: expected a teacher of images {wanted[0]} and {wanted[1]} expressions, "
                f"received one of {form.image_shape} and {len(form.expressions)}"
            )
        teachers.append(_of_any_size(teacher, path) if config.changes_size else teacher)
    return teachers


def checksums(config: TrainConfig) -> list[str]:
    """Returns the SHA-256 of each teacher's file."""
    return [hashlib.sha256(find_model(path).read_bytes()).hexdigest() for path in _paths(config)]


def targets(teachers: Sequence[keras.Model], weight: float) -> Targets | None:
    """Returns targets that are partly what the teachers say of the same changed images.

    Args:
      teachers: as `load_teachers` returns them.
      weight: the share of their averaged probabilities; that of the labels is the rest.

    Returns:
      None without a teacher.
    """
    if not teachers:
        return None

    def taught(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        said = [tf.nn.softmax(teacher(images, training=False)) for teacher in teachers]
        return (1 - weight) * labels + weight * tf.add_n(said) / len(said)

    return taught


def _paths(config: TrainConfig) -> list[Path]:
    return [Path(name) for name in config.teacher.split(",")] if config.teacher else []


def _of_any_size(teacher: keras.Model, path: Path) -> keras.Model:
    inputs = keras.Input((None, None, teacher.inputs[0].shape[-1]), dtype="uint8")
    try:
        twin = keras.models.clone_model(teacher, input_tensors=inputs)
    except ValueError as error:
        raise InputError(
            f"{path}: expected a teacher of images of any size, for crop or shrink, received one "
            "that takes one size only; choose neither, or a network that ends with an average"
        ) from error
    twin.set_weights(teacher.get_weights())
    return twin
