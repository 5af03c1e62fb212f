"""The batches of a training: the split's, changed, with labels in the form that the loss takes."""

import functools
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from fer_tfdata import augmentation, cluster, pipeline, records
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.train_config import TrainConfig
from fer_tfdata.training_model import TrainingModel


def train_batches(
    config: TrainConfig, split: records.Split, model: TrainingModel, *, start_step: int
) -> tf.data.Dataset:
    """Returns the batches from a step on, and gives the model its part of the augmentation.

    Of several processes, each has its part of every batch.  On the device, the pipeline only hands
    on each batch's seed; the images of the clean epochs are mirrored in the pipeline in any case.
    """
    num_classes = model.output_shape[-1]
    on_device = (
        keras.backend.backend() != "jax"
        and augmentation.choose_placement(config.augment_on, config.augmentation) == "device"
    )

    shrink = functools.partial(augmentation.shrink, share=config.shrink)
    # A teacher is to see whole images: the step shrinks those that the student learns from.
    shrink_in_step = config.shrunk_epochs > 0 and config.teacher is not None
    if shrink_in_step:
        model.shrink = shrink

    def stage(
        changes: AugmentationConfig, *, due_on_device: bool, shrunk: bool = False
    ) -> pipeline.Augment:
        change = functools.partial(augmentation.augment, config=changes, num_classes=num_classes)
        if due_on_device:
            model.augment = change

        def augment(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[Any, Any]:
            if shrunk and not shrink_in_step:
                images = shrink(images)
            if not due_on_device:
                images, labels = change(images, labels, seed)
            if config.soft_labels:
                labels = augmentation.soft_labels(labels, num_classes)
                labels = _smoothed(labels, config.label_smoothing)
            due = {}
            if on_device:
                due["augment_due"] = due_on_device
            if shrink_in_step:
                due["shrink_due"] = shrunk
            return (_for_device(images, seed, due) if due else images), labels

        return augment

    steps = pipeline.steps_per_epoch(split, config.batch_size, config.labels)
    whole_from = config.shrunk_epochs * steps
    stages = {whole_from: stage(config.augmentation, due_on_device=on_device)}
    if config.shrunk_epochs:
        stages[0] = stage(config.augmentation, due_on_device=on_device, shrunk=True)
    if config.clean_epochs:
        clean_from = (config.epochs - config.clean_epochs) * steps
        stages[clean_from] = stage(config.clean_augmentation, due_on_device=False)
    return pipeline.train_dataset(
        split,
        labels=config.labels,
        batch_size=config.batch_size // cluster.process_count(),
        seed=config.seed,
        start_step=start_step,
        process_index=cluster.process_index(),
        process_count=cluster.process_count(),
        augment=stages,
        data_service_address=config.data_service,
    )


def _for_device(
    images: tf.Tensor, seed: tf.Tensor, due: Mapping[str, bool]
) -> dict[str, tf.Tensor]:
    """Returns images with a row each of what the device needs, so that devices can share them.

    Each takes the first row of its part: another seed, and of the whole batch the pipeline's own.
    """
    count = tf.shape(images)[0]
    flags = {name: tf.fill([count], value) for name, value in due.items()}
    rows = {"images": images, **flags}
    if "augment_due" in due:
        rows["seeds"] = augmentation.row_seeds(seed, count)
    return rows


def _smoothed(labels: tf.Tensor, smoothing: float) -> tf.Tensor:
    """Spreads a share of each label evenly (Szegedy et al. 2015, arXiv:1512.00567, section 7)."""
    return labels * (1 - smoothing) + smoothing / labels.shape[-1]
