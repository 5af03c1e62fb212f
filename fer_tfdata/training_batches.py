"""The batches of a training: the split's, changed, with labels in the form that the loss takes."""

import functools
from typing import Any

import tensorflow as tf

from fer_tfdata import augmentation, pipeline, records
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.train_config import TrainConfig
from fer_tfdata.training_model import TrainingModel


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
            return (_for_device(images, seed, changed_later) if on_device else images), labels

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


def _for_device(
    images: tf.Tensor, seed: tf.Tensor, changed_later: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns images with a row each of what the device needs, so that devices can share them.

    Each takes the first row of its part: another seed, and of the whole batch the pipeline's own.
    """
    count = tf.shape(images)[0]
    rows = tf.range(tf.cast(count, tf.int64))
    seeds = seed + tf.stack([tf.zeros_like(rows), rows], axis=1)
    return images, seeds, tf.fill([count], changed_later)


def _smoothed(labels: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Spreads a share of each label evenly (Szegedy et al. 2015, arXiv:1512.00567, section 7)."""
    return labels * (1 - smoothing) + smoothing / labels.shape[-1]
