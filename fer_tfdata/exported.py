"""Exports, as `export` writes them: found, checked and loaded, each by its own runtime.

An export is a SavedModel (a directory), a LiteRT file (`.tflite`) or an ONNX file (`.onnx`).  It
says itself what it is: a JSON object stands where its format has room for one, in a SavedModel's
`assets.extra/`, in a ZIP archive that follows a LiteRT file, in an ONNX file's `metadata_props`.

Importing this imports none of the runtimes.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args

import joblib
import numpy as np
import numpy.typing as npt

from fer_tfdata import chatter
from fer_tfdata.classifier import Images, Probabilities, check_images
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS

Format = Literal["saved_model", "litert", "onnx"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

Quantization = Literal["none", "float16", "int8"]
QUANTIZATIONS: Final[tuple[Quantization, ...]] = get_args(Quantization)

INPUT: Final = "images"
OUTPUT: Final = "probabilities"

METADATA: Final = "fer_tfdata.json"
"""The name of the JSON object in every format."""

GRAPH: Final = "saved_model.pb"
EXTRA: Final = "assets.extra"

SIGNATURE: Final = "serving_default"

SUFFIXES: Final[dict[Format, str]] = {"saved_model": "", "litert": ".tflite", "onnx": ".onnx"}
FILE_SUFFIXES: Final = frozenset(suffix for suffix in SUFFIXES.values() if suffix)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metadata:
    """What an export says of itself.

    Attributes:
      version: of fer_tfdata.
      format: one of `FORMATS`.
      quantization: what the weights were made smaller by.
      image_shape: height, width and channels of the images that are not resized.
      expressions: what the probabilities are of, in order.
      model: the name under which the model was given.
      model_sha256: of the file that its weights came from.
      manifest_sha256: of the manifest of the data that it was trained on; None where unknown.
      trained_on: the splits that its weights were trained on; None where unknown.
      content_bytes: how many bytes the export has without this.
      content_sha256: their checksum; a SavedModel's files follow each other by their names.
    """

    version: str
    format: Format
    quantization: Quantization
    image_shape: tuple[int, int, int]
    expressions: tuple[str, ...]
    model: str
    model_sha256: str
    manifest_sha256: str | None
    trained_on: tuple[str, ...] | None = None  # older exports do not say it
    content_bytes: int
    content_sha256: str


def to_json(metadata: Metadata) -> str:
    """Returns the JSON object of an export."""
    return json.dumps(dataclasses.asdict(metadata), indent=2)


def from_json(text: str) -> Metadata:
    """Returns what an export says of itself.

    Raises:
      ValueError, TypeError, KeyError: it is no such object.
    """
    content = json.loads(text)
    for name in ("image_shape", "expressions"):
        content[name] = tuple(content[name])
    if content.get("trained_on") is not None:
        content["trained_on"] = tuple(content["trained_on"])
    metadata = Metadata(**content)
    if metadata.expressions not in (EXPRESSIONS, EIGHT_EXPRESSIONS):
        raise ValueError("its expressions are others")
    return metadata


class Exported:
    """A `Classifier` that is an export."""

    def __init__(
        self, metadata: Metadata, run: Callable[[Images], npt.NDArray[np.float32]]
    ) -> None:
        """Takes what `load` found.

        Args:
          metadata: what the export says of itself.
          run: images, at least one, to what its runtime makes of them.
        """
        self.metadata: Final = metadata
        self._run = run

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """See `Classifier`."""
        return self.metadata.image_shape

    @property
    def expressions(self) -> tuple[str, ...]:
        """See `Classifier`."""
        return self.metadata.expressions

    def probabilities(self, images: Images) -> Probabilities:
        """See `Classifier`."""
        check_images(images, self.image_shape)
        if not len(images):
            return np.zeros((0, len(self.expressions)))
        probabilities = self._run(images).astype(np.float64)
        if not np.isfinite(probabilities).all():
            raise InputError(
                "expected finite probabilities of the export, received NaN or infinity"
            )
        return probabilities / probabilities.sum(axis=1, keepdims=True)


def is_export(path: Path) -> bool:
    """Whether a path is that of an export, by a file's name or a directory's content."""
    return path.suffix in FILE_SUFFIXES or is_saved_model(path)


def is_saved_model(path: Path) -> bool:
    """Whether a path is that of a SavedModel's directory."""
    return (path / GRAPH).is_file()


def load(path: Path) -> Exported:
    """Loads an export with its own runtime: TensorFlow, LiteRT or ONNX Runtime.

    Raises:
      InputError: there is none, it is damaged or was not written by `export`, or its runtime is not
        installed.
    """
    if not path.exists():
        raise InputError(f"{path}: expected an export, received nothing there")
    if path.is_dir():
        return _load_saved_model(path)
    return _load_litert(path) if path.suffix == SUFFIXES["litert"] else _load_onnx(path)


def read_metadata(path: Path) -> Metadata:
    """Returns what an export says of itself; its content is not looked at.

    Raises:
      InputError: there is none, or it cannot be read; ONNX Runtime, where it is needed, is not
        installed.
    """
    if not path.exists():
        raise InputError(f"{path}: expected an export, received nothing there")
    if path.suffix == SUFFIXES["onnx"] and not path.is_dir():
        runtime = import_runtime("onnxruntime")
        with _reading(path):
            return _onnx_metadata(_onnx_session(runtime, path.read_bytes()))
    with _reading(path):
        if path.is_dir():
            return _saved_model_metadata(path)
        return _litert_metadata(path.read_bytes())


def import_runtime(module: str) -> Any:
    """Returns a module of the extra `export`.

    Raises:
      InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"expected {module.partition('.')[0]} for this format, which is not installed: "
            "pip install 'fer-tfdata[export]'"
        ) from error


def checksum(contents: Iterable[bytes]) -> tuple[int, str]:
    """Returns how many bytes some contents have together, and their SHA-256."""
    num_bytes, digest = 0, hashlib.sha256()
    for content in contents:
        num_bytes += len(content)
        digest.update(content)
    return num_bytes, digest.hexdigest()


def contents(path: Path) -> Iterator[bytes]:
    """Yields what an export consists of, without what stands beside it for its users.

    Args:
      path: a file, or a SavedModel, whose files come by their names.
    """
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and path / EXTRA not in file.parents:
            yield file.read_bytes()


def _load_saved_model(path: Path) -> Exported:
    import tensorflow as tf

    with _reading(path):
        metadata = _saved_model_metadata(path)
        _check(metadata, contents(path))
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures[SIGNATURE]

    def run(images: Images, loaded: Any = loaded) -> npt.NDArray[np.float32]:
        # The signature alone would not keep its variables.
        del loaded
        return signature(**{INPUT: tf.constant(images)})[OUTPUT].numpy()

    return Exported(metadata, run)


def _load_litert(path: Path) -> Exported:
    runtime = import_runtime("ai_edge_litert.interpreter")
    with _reading(path), chatter.kept_back():
        content = path.read_bytes()
        metadata = _litert_metadata(content)
        _check(metadata, [content[: metadata.content_bytes]])
        threads = joblib.cpu_count()
        interpreter = runtime.Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()  # reports on stderr what it makes use of, once
        signature = interpreter.get_signature_runner()
    lock = threading.Lock()  # an interpreter has one place for its images

    def run(images: Images) -> npt.NDArray[np.float32]:
        with lock:
            return signature(**{INPUT: images})[OUTPUT]

    return Exported(metadata, run)


def _load_onnx(path: Path) -> Exported:
    runtime = import_runtime("onnxruntime")
    with _reading(path):
        content = path.read_bytes()
        session = _onnx_session(runtime, content)
        metadata = _onnx_metadata(session)
        _check(metadata, [content[: metadata.content_bytes]])
    return Exported(metadata, lambda images: session.run([OUTPUT], {INPUT: images})[0])


def _saved_model_metadata(path: Path) -> Metadata:
    return from_json((path / EXTRA / METADATA).read_text(encoding="utf-8"))


def _litert_metadata(content: bytes) -> Metadata:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return from_json(archive.read(METADATA).decode())


def _onnx_session(runtime: Any, content: bytes) -> Any:
    return runtime.InferenceSession(content, providers=["CPUExecutionProvider"])


def _onnx_metadata(session: Any) -> Metadata:
    return from_json(session.get_modelmeta().custom_metadata_map[METADATA])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Makes an `InputError` of what goes wrong inside."""
    try:
        yield
    except Exception as error:  # a damaged file makes a runtime raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: expected an export as tools/export_model writes it, received a damaged one "
            f"or another file ({reason}); export the model again"
        ) from error


def _check(metadata: Metadata, contents: Iterable[bytes]) -> None:
    expected = (metadata.content_bytes, metadata.content_sha256)
    if checksum(contents) != expected:
        raise InputError("its content has another SHA-256 than it says")
