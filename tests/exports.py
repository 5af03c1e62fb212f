"""Exports of a small network, which is converted in no time."""

import dataclasses
from pathlib import Path
from typing import Any, Final, Self

import keras
import numpy as np

from fer_tfdata import export, exported, named_models
from fer_tfdata.export import Agreement
from fer_tfdata.exported import Format, Quantization
from fer_tfdata.named_models import NamedModel

VARIANTS: Final[dict[str, tuple[Format, Quantization]]] = {
    "saved_model": ("saved_model", "none"),
    "litert": ("litert", "none"),
    "float16": ("litert", "float16"),
    "int8": ("litert", "int8"),
    "onnx": ("onnx", "none"),
}


def small_model(*, seed: int = 0, outputs: int = 7) -> Any:
    """A network of the usual layers, whose answers differ from face to face."""
    initializer = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    inputs = keras.Input((48, 48, 1), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Conv2D(16, 3, strides=2, use_bias=False, kernel_initializer=initializer)(x)
    x = keras.layers.BatchNormalization(name="normalization")(x)
    x = keras.layers.ReLU()(x)
    weights = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    weights = keras.layers.Conv2D(16, 1, activation="sigmoid", kernel_initializer=initializer)(
        weights
    )
    x = keras.layers.Multiply()([x, weights])
    x = keras.layers.AveragePooling2D(8)(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(outputs, kernel_initializer=initializer, name="logits")(x)
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(seed)
    gamma, beta, mean, variance = (rng.uniform(0.5, 1.5, 16) for _ in range(4))
    model.get_layer("normalization").set_weights([gamma, beta, mean, variance])
    return model


def named(directory: Path, model: Any) -> NamedModel:
    """A model as a file names it."""
    directory.mkdir(exist_ok=True)
    model.save(directory / "model.keras")
    return named_models.load_keras(str(directory / "model.keras"))


def pretending(source: NamedModel, other: NamedModel) -> NamedModel:
    """One model beside another one's answers, as where a conversion goes wrong."""
    pretender = dataclasses.replace(source)
    vars(pretender)["classifier"] = other.classifier  # where a cached property keeps it
    return pretender


def output(directory: Path, name: str) -> Path:
    return directory / f"{name}{exported.SUFFIXES[VARIANTS[name][0]]}"


def write(
    source: NamedModel, directory: Path, data_dir: Path, name: str, **more: Any
) -> tuple[Path, Agreement]:
    """Exports one of `VARIANTS`; returns where it stands, and how well it agrees."""
    form, quantization = VARIANTS[name]
    path = output(directory, name)
    agreement = export.export(
        source, path, format=form, quantization=quantization, data_dir=data_dir, **more
    )
    return path, agreement


@dataclasses.dataclass(frozen=True)
class Exports:
    """A model and its exports, by the names of `VARIANTS`."""

    source: NamedModel
    paths: dict[str, Path]
    agreements: dict[str, Agreement]

    @classmethod
    def write(cls, directory: Path, data_dir: Path) -> Self:
        source = named(directory / "run", small_model())
        written = {name: write(source, directory, data_dir, name) for name in VARIANTS}
        paths, agreements = ({name: pair[i] for name, pair in written.items()} for i in (0, 1))
        return cls(source, paths, agreements)
