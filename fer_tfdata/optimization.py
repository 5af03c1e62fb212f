"""A configuration to an optimizer: its rule, its rate over the steps, decay, averaged weights."""

from typing import Any

import keras

from fer_tfdata.errors import InputError
from fer_tfdata.train_config import TrainConfig

# What weight decay leaves alone: it is to bound a layer's gain, which these do not make.
_NOT_DECAYED = ("bias", "gamma", "beta")

_SGD_MOMENTUM = 0.9


def build_optimizer(config: TrainConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a training.

    Weight decay is decoupled from the gradients (Loshchilov and Hutter 2017, arXiv:1711.05101) and
    leaves biases and normalisation alone.

    Args:
      config: what to train.
      steps_per_epoch: what the schedule is stretched over.

    Raises:
      InputError: as `learning_rate`.
    """
    options: dict[str, Any] = {
        "learning_rate": learning_rate(config, steps_per_epoch),
        "weight_decay": config.weight_decay or None,
        "use_ema": config.ema > 0,
        "ema_momentum": config.ema,
    }
    optimizer: keras.optimizers.Optimizer
    if config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=_SGD_MOMENTUM, nesterov=True, **options)
    else:
        optimizer = keras.optimizers.Adam(**options)
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=_NOT_DECAYED)
    return optimizer


def learning_rate(config: TrainConfig, steps_per_epoch: int) -> Any:
    """Returns the rate, or its schedule: a linear warm-up, then half a cosine down to zero.

    Raises:
      InputError: the warm-up takes all steps.
    """
    if config.schedule == "plateau":
        return config.learning_rate
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    decay_steps = config.epochs * steps_per_epoch - warmup_steps
    if decay_steps < 1:
        raise InputError(
            "warmup_epochs: expected fewer steps than the training has, received "
            f"{config.warmup_epochs:g} epochs of {steps_per_epoch} steps, which are all of them; "
            "warm up for less"
        )
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else config.learning_rate,
        decay_steps=decay_steps,
        warmup_target=config.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def current_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Returns the learning rate of the next step, also where several devices hold it."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer itself, out of what scales the loss under mixed_float16."""
    return getattr(optimizer, "inner_optimizer", optimizer)
