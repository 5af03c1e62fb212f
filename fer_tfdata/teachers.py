"""Trained models that another one learns from (Hinton et al. 2015, arXiv:1503.02531)."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from fer_tfdata import labelling, named_models, records
from fer_tfdata.errors import InputError
from fer_tfdata.named_models import NamedModel
from fer_tfdata.tensorflow_step import Targets
from fer_tfdata.train_config import TrainConfig


def load_teachers(config: TrainConfig, schema: records.Schema) -> list[NamedModel]:
    """Returns the models that `config.teacher` names, of images of the sizes that they are to see.

    Raises:
      InputError: one cannot be loaded, or is one of other images or expressions.
    """
    wanted = (schema.image_shape, len(labelling.class_names(schema, config.labels)))
    teachers = []
    for name in config.teacher.split(",") if config.teacher else ():
        teacher = named_models.load_keras(name)
        received = (teacher.form.image_shape, len(teacher.form.expressions))
        if received != wanted:
            raise InputError(
                f"{name}: expected a teacher of images {wanted[0]} and {wanted[1]} expressions, "
                f"received one of {received[0]} and {received[1]}"
            )
        teachers.append(_of_any_size(teacher) if config.augmentation.crop else teacher)
    return teachers


def targets(teachers: Sequence[NamedModel], weight: float) -> Targets | None:
    """Returns targets that are partly what the teachers say of the same changed images.

    Of images that are shrunk for the student's sake, it is what they say of the whole ones: at a
    size that they have not learned, they answer badly.

    Args:
      teachers: as `load_teachers` returns them.
      weight: the share of their averaged probabilities; that of the labels is the rest.

    Returns:
      None without a teacher.
    """
    if not teachers:
        return None

    def taught(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        said = [tf.nn.softmax(teacher.model(images, training=False)) for teacher in teachers]
        return (1 - weight) * labels + weight * tf.add_n(said) / len(said)

    return taught


def _of_any_size(teacher: NamedModel) -> NamedModel:
    inputs = keras.Input((None, None, teacher.form.image_shape[-1]), dtype="uint8")
    try:
        twin = keras.models.clone_model(teacher.model, input_tensors=inputs)
    except ValueError as error:
        raise InputError(
            f"{teacher.name}: expected a teacher of images of any size, for crop, received one "
            "that takes one size only; choose crop=0, or a network that ends with an average"
        ) from error
    twin.set_weights(teacher.model.get_weights())
    return dataclasses.replace(teacher, model=twin)
