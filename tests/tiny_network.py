"""A network that is traced and trained in no time, with the layers that training has to mind."""

import keras
from keras import layers


def build(*, image_size: int | None, channels: int, num_classes: int) -> keras.Model:
    inputs = keras.Input((image_size, image_size, channels), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.25)(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="tiny")


def build_flat(*, image_size: int | None, channels: int, num_classes: int) -> keras.Model:
    """As `build`, but like `seed_cnn` for one size of images, and for none below 9 pixels."""
    inputs = keras.Input((image_size, image_size, channels), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(8, 9, strides=4, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D(padding="same")(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.25)(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="tiny_flat")
