"""A Keras model to a file that predicts without Keras and without this package.

Nothing is kept that was not loaded again, by the runtime it is for, and held against Keras on the
whole validation split.
"""

import contextlib
import dataclasses
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf

import fer_tfdata
from fer_tfdata import atomic, chatter, evaluation, exported, records
from fer_tfdata.classifier import Images
from fer_tfdata.errors import InputError
from fer_tfdata.evaluation import Predictions
from fer_tfdata.exported import EXTRA, INPUT, METADATA, Format, Metadata, Quantization
from fer_tfdata.named_models import NamedModel
from fer_tfdata.servable import RESIZING, Servable

CALIBRATION_IMAGES: Final = 300

MOST_DIFFERENCE: Final[dict[Quantization, float]] = {"none": 1e-3, "float16": 1e-2, "int8": 1.0}
"""How far a probability may be from Keras's.

float32 differs by the order of additions alone, by about 1e-6.  float16 keeps 11 bits of a
weight: a probability moves by about a thousandth, and by a hundredth it would show as per cents.
int8 is held to its accuracy instead.
"""

MOST_LOST_ACCURACY: Final = 0.005

_MODULES: Final[dict[Format, tuple[str, ...]]] = {
    "saved_model": (),
    "litert": ("ai_edge_litert.interpreter",),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
}

_OPSET: Final = 18  # of 2022: what has been updated since reads it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far an export and Keras agree on a split.

    Attributes:
      examples: how many images there are.
      largest_difference: between two probabilities.
      same_answers: the share of the images on which both choose the same expression.
      accuracy: of the export.
      keras_accuracy: of the model.
    """

    examples: int
    largest_difference: float
    same_answers: float
    accuracy: float
    keras_accuracy: float


def export(
    source: NamedModel,
    output: Path,
    *,
    format: Format,  # noqa: A002
    quantization: Quantization = "none",
    data_dir: Path,
    seed: int = 0,
    on_batch: Callable[[int], object] = lambda count: None,
) -> Agreement:
    """Writes a model in another format, and checks it against Keras; it is complete or absent.

    An export takes uint8 images of any one size, gray or RGB as the model takes them, and resizes
    them as `servable.fit` does.

    Args:
      source: as `named_models.load_keras` returns it.
      output: a file with the format's suffix, or the directory of a SavedModel.  An export that is
        there already is replaced.
      format: one of `exported.FORMATS`.
      quantization: of LiteRT alone.  float16 stores the weights in half the bytes; int8 computes
        the network in integers, whose ranges come from images of the train split.
      data_dir: the data directory; the export is checked on its validation split.
      seed: chooses the images that the ranges come from.
      on_batch: is told the number of images of every batch that was classified, by Keras and by
        the export.

    Raises:
      InputError: the quantization does not go with the format, something else stands at the
        output, a library is not installed, the data are of other images or labels than the
        model, it cannot be converted, or the export disagrees with Keras.
    """
    _check_arguments(output, format, quantization)
    _check_precision(source)
    with chatter.kept_back():
        for module in _MODULES[format]:
            exported.import_runtime(module)
    validation = records.open_split(data_dir, "validation")
    expected = evaluation.predict_split(
        source.classifier, validation, model_name=source.name, on_batch=on_batch
    ).predictions
    with _replacing(output, format) as temporary:
        _write(source, temporary, format, quantization, data_dir, seed)
        received = _answers(temporary, output, validation, on_batch)
        agreement = compare(expected, received)
        check(agreement, quantization, output)
    return agreement


def compare(expected: Predictions, received: Predictions) -> Agreement:
    """Returns how far an export agrees with Keras.

    Args:
      expected: what Keras says of a split.
      received: what the export says of it.
    """
    answers, labels = received.probabilities.argmax(axis=1), expected.labels
    keras_answers = expected.probabilities.argmax(axis=1)
    return Agreement(
        examples=len(labels),
        largest_difference=float(np.abs(received.probabilities - expected.probabilities).max()),
        same_answers=float((answers == keras_answers).mean()),
        accuracy=float((answers == labels).mean()),
        keras_accuracy=float((keras_answers == labels).mean()),
    )


def check(agreement: Agreement, quantization: Quantization, output: Path) -> None:
    """Checks that an export agrees with Keras.

    Args:
      agreement: of the two.
      quantization: how much may be different.
      output: what the error calls the export.

    Raises:
      InputError: it does not.
    """
    most = MOST_DIFFERENCE[quantization]
    if not agreement.largest_difference <= most:
        raise InputError(
            f"{output}: expected probabilities within {most:g} of Keras's, received a difference "
            f"of {agreement.largest_difference:.4f}; nothing was written"
        )
    lost = agreement.keras_accuracy - agreement.accuracy
    if not lost <= MOST_LOST_ACCURACY:
        raise InputError(
            f"{output}: expected at most {100 * MOST_LOST_ACCURACY:g} points less accuracy than "
            f"Keras, received {100 * lost:.2f} less; nothing was written"
        )


def calibration_images(data_dir: Path, *, seed: int, count: int = CALIBRATION_IMAGES) -> Images:
    """Returns images of the train split that a seed chooses, so many or all that there are."""
    images = records.load_split(records.open_split(data_dir, "train"), ["image"])["image"]
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    return images[chosen]


def _answers(
    path: Path, output: Path, validation: records.Split, on_batch: Callable[[int], object]
) -> Predictions:
    """Returns what an export says of the validation split."""
    try:
        return evaluation.predict_split(
            exported.load(path), validation, model_name=str(output), on_batch=on_batch
        ).predictions
    except Exception as error:  # a runtime raises anything where it does not know an operation
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(
            f"{output}: expected an export that works, received: {reason}; nothing was written"
        ) from error


# Writing.


def _check_arguments(output: Path, format: Format, quantization: Quantization) -> None:  # noqa: A002
    if quantization != "none" and format != "litert":
        raise InputError(f"quantize: expected none for {format}, received {quantization}")
    suffix = exported.SUFFIXES[format]
    if format == "saved_model":
        replaceable = not output.exists() or exported.is_saved_model(output)
        if not replaceable or output.suffix in exported.FILE_SUFFIXES:
            raise InputError(
                f"{output}: expected a new directory, or an exported SavedModel to replace, "
                "received something else; choose another output"
            )
    elif output.suffix != suffix or output.is_dir():
        raise InputError(f"{output}: expected a file that ends in {suffix}; choose another output")


def _check_precision(source: NamedModel) -> None:
    for layer in source.model.layers:
        if layer.compute_dtype != "float32":
            raise InputError(
                f"{source.name}: expected a model that computes in float32, received one of "
                f"{layer.compute_dtype}; build it again with float32 layers and the same weights"
            )


@contextlib.contextmanager
def _replacing(output: Path, format: Format) -> Iterator[Path]:  # noqa: A002
    if format == "saved_model":
        with atomic.replacing_directory(output) as work:
            yield work
        return
    with atomic.removing_empty_parents(output), atomic.replacing(output) as temporary:
        yield temporary


def _write(
    source: NamedModel,
    path: Path,
    format: Format,  # noqa: A002
    quantization: Quantization,
    data_dir: Path,
    seed: int,
) -> None:
    servable = Servable(source.model)
    try:
        with chatter.kept_back():
            if format == "saved_model":
                _save(servable, path)
            elif format == "onnx":
                path.write_bytes(_onnx(servable))
            elif quantization == "int8":
                path.write_bytes(_litert_int8(servable, calibration_images(data_dir, seed=seed)))
            else:
                path.write_bytes(_litert(servable, quantization))
    except InputError:
        raise
    except Exception as error:  # which ones a converter raises, nobody says
        if (lack := atomic.lack_of_room(error)) is not None:
            raise InputError(
                f"{source.name}: its export could not be written ({lack}); make room"
            ) from error
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"{source.name}: expected a model that can be converted to {format}, received one that "
            f"cannot: {reason}"
        ) from error
    content_bytes, content_sha256 = exported.checksum(exported.contents(path))
    metadata = Metadata(
        version=fer_tfdata.__version__,
        format=format,
        quantization=quantization,
        image_shape=source.form.image_shape,
        expressions=source.form.expressions,
        model=source.name,
        model_sha256=source.sha256,
        manifest_sha256=source.manifest_sha256,
        trained_on=source.trained_on,
        content_bytes=content_bytes,
        content_sha256=content_sha256,
    )
    _attach(path, exported.to_json(metadata), format)


def _save(servable: Servable, directory: Path) -> None:
    signatures = {exported.SIGNATURE: servable.serve}
    tf.saved_model.save(servable, str(directory), signatures=signatures)


@contextlib.contextmanager
def _converter(servable: Servable) -> Iterator[Any]:
    """Yields a new converter to LiteRT.

    By way of a SavedModel, since only so does the file keep the names of its input and output.
    """
    with tempfile.TemporaryDirectory() as directory:
        _save(servable, Path(directory))
        yield tf.lite.TFLiteConverter.from_saved_model(directory)


def _litert(servable: Servable, quantization: Quantization) -> bytes:
    with _converter(servable) as converter:
        if quantization == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


def _litert_int8(servable: Servable, images: Images) -> bytes:
    """Returns a network in integers, with the resizing before it and the softmax after it in float.

    In int8, the resizing would round the positions of pixels to 255 steps, and the softmax the
    probabilities.

    Args:
      servable: what is converted.
      images: what the ranges of its values are measured on.
    """
    kept = [name for name in _tensor_names(_litert(servable, "none")) if RESIZING in name]
    options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_nodes=kept, denylisted_ops=["SOFTMAX"]
    )

    def calibration() -> Iterator[dict[str, Images]]:
        for image in images:
            yield {INPUT: image[np.newaxis]}

    with _converter(servable) as converter:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = calibration
        # The one way to leave operations out, whatever its name says.
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=calibration, debug_options=options
        )
        return debugger.get_nondebug_quantized_model()


def _tensor_names(content: bytes) -> list[str]:
    runtime = exported.import_runtime("ai_edge_litert.interpreter")
    interpreter = runtime.Interpreter(model_content=content)
    return [tensor["name"] for tensor in interpreter.get_tensor_details()]


def _onnx(servable: Servable) -> bytes:
    tf2onnx = exported.import_runtime("tf2onnx")
    model, _ = tf2onnx.convert.from_function(
        servable.serve, input_signature=servable.serve.input_signature, opset=_OPSET
    )
    for value, names in ((model.graph.input[0], "nhw"), (model.graph.output[0], "n")):
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            dimension.dim_param = name
    # The converter passes operations on that ONNX does not know.
    exported.import_runtime("onnx").checker.check_model(model)
    return model.SerializeToString()


def _attach(path: Path, metadata: str, format: Format) -> None:  # noqa: A002
    """Adds the metadata where the format has room for it, behind the content."""
    if format == "saved_model":
        (path / EXTRA).mkdir()
        (path / EXTRA / METADATA).write_text(metadata, encoding="utf-8")
    elif format == "litert":
        with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
            archive.writestr(METADATA, metadata)
    else:
        onnx = exported.import_runtime("onnx")
        entry = onnx.StringStringEntryProto(key=METADATA, value=metadata)
        with path.open("ab") as file:  # messages of protobuf that follow each other are one
            file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())
