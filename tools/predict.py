"""Predicts the expressions of the faces in images, videos and a camera's pictures.

    python -m tools.predict --input=photo.jpg --input=holidays/ --output_dir=annotated
    python -m tools.predict --input=clip.mp4 --format=csv > faces.csv
    python -m tools.predict --input=camera:0

An image is a photograph, in which faces are looked for, or a face that has been cut out already,
such as FER2013's 48 x 48 pixels; see --detector.  The results go to stdout, as soon as they are
there.  An image or video without a face is said on stderr and is no error; a file that cannot be
read gives its error in place of its faces (JSON) or on stderr alone (CSV), the others go on, and
the exit code is 1 at the end.  A camera ends with Ctrl-C or SIGTERM, or with the window that shows
it.
"""

import contextlib
import dataclasses
import io
import itertools
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from absl import flags

from fer_tfdata import command_line, named_models
from fer_tfdata.errors import InputError

# The heavy imports stand in the functions that need them: `--help` answers at once.
if TYPE_CHECKING:
    from fer_tfdata.camera import Camera
    from fer_tfdata.detectors import DetectorName
    from fer_tfdata.frames import Frame
    from fer_tfdata.live_window import LiveWindow
    from fer_tfdata.prediction import Predictor
    from fer_tfdata.results import CsvRows, ImagePrediction, JsonLines

    Predicted = Generator[tuple[Frame, ImagePrediction], None, None]

_FEW_PICTURES: Final = 3  # done before a progress bar would be read
_NOTHING: Final = contextlib.nullcontext()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What the flags of the same names say."""

    model: str = named_models.PRETRAINED
    input: Sequence[str] = ()
    output_dir: str | None = None
    format: str = "json"
    detector: "DetectorName" = "haar"
    yunet_model: str | None = None
    smoothing: float = 0.3


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags to `flag_values`."""
    flags.DEFINE_string(
        "model",
        PredictOptions.model,
        named_models.MODEL_HELP,
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "input",
        [],
        "An image or video file, a folder (searched with its subfolders) or a quoted glob pattern;"
        " give it several times for several; or camera:0, alone; required. Of folders and patterns,"
        " the files with an image's or a video's suffix count.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Also write a copy of every image and video here, with its faces and expressions drawn: a"
        " JPEG of a JPEG, a PNG of another image, an H.264 MP4 without sound of a video or camera."
        " Copies of an earlier run are replaced.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "format",
        PredictOptions.format,
        ["json", "csv"],
        "json: a line with an object an image or frame; csv: a row a face.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "detector",
        PredictOptions.detector,
        ["haar", "mtcnn", "yunet", "none"],
        "haar: upright, frontal faces, with nothing to install; mtcnn: more, and slowly (extra:"
        " mtcnn); yunet: more, and fast, with --yunet_model; none: every image is one face, cut"
        " out already, as an image of at most 96 x 96 pixels always is.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "yunet_model",
        None,
        "The file face_detection_yunet_2023mar.onnx, from OpenCV's model zoo.",
        flag_values=flag_values,
    )
    flags.DEFINE_float(
        "smoothing",
        PredictOptions.smoothing,
        "The time constant, in seconds, with which the probabilities of a face in a video or before"
        " a camera are smoothed; 0: each frame for itself.",
        lower_bound=0.0,
        flag_values=flag_values,
    )


def options_from_flags(flag_values: flags.FlagValues) -> PredictOptions:
    """Returns the options that parsed flags say."""
    names = [field.name for field in dataclasses.fields(PredictOptions)]
    return PredictOptions(**{name: flag_values[name].value for name in names})


def main(argv: Sequence[str]) -> int:
    """Runs the program on the flags of `flags.FLAGS`."""
    del argv  # flags alone
    return predict(options_from_flags(flags.FLAGS))


def run() -> None:
    """Starts the program."""
    command_line.run(main, define_flags, __doc__)


def predict(options: PredictOptions) -> int:
    """Prints the predictions and returns the exit code: 1 if something could not be read.

    Raises:
      InputError: if the model or the inputs are not there, or the copies would replace an input.
    """
    if not options.input:
        raise InputError(
            "--input: expected an image, a video, a folder, a glob or camera:0, received nothing"
        )
    # As Ctrl-C does, so that what is half-written is removed.
    with _signals_handled([signal.SIGTERM], signal.default_int_handler):
        return _predict(options)


def _predict(options: PredictOptions) -> int:
    from fer_tfdata import camera

    numbers = [camera.number_of(text) for text in options.input]
    if len(numbers) == 1 and numbers[0] is not None:
        with camera.open_camera(numbers[0]) as opened:
            return predict_camera(options, opened)
    if any(number is not None for number in numbers):
        raise InputError(f"--input: expected a camera alone, received {len(numbers)} inputs")
    return _predict_files(options)


def find_files(inputs: Sequence[str]) -> list[Path]:
    """Returns the files that `--input` means, each once: in its order, sorted within each.

    Raises:
      InputError: nothing fits one.
    """
    from fer_tfdata import inputs as library

    found: dict[Path, Path] = {}
    for named in inputs:
        for file in library.find_files(named):
            # Of a link its own place counts: what it leads to may be wanted under each name.
            found.setdefault(file.parent.resolve() / file.name, file)
    return list(found.values())


def _predict_files(options: PredictOptions) -> int:
    from fer_tfdata import copies, inputs

    files = find_files(options.input)
    destinations = (
        None if options.output_dir is None else copies.name_copies(files, Path(options.output_dir))
    )
    predictor = _load(options)
    predicted = predictor.predict_frames(inputs.read_frames(files), smoothing=options.smoothing)
    with (
        contextlib.closing(predicted),
        contextlib.closing(_copied(predicted, destinations)) as results,
    ):
        write = _writer(options, predictor.expressions).write
        return _print(results, write, total=inputs.num_frames(files))


def predict_camera(options: PredictOptions, camera: "Camera") -> int:
    """Predicts a camera's pictures until Ctrl-C or SIGTERM, and returns the exit code.

    Where there is a screen, a window shows them, and stdout gets the results only where it is no
    terminal.
    """
    from fer_tfdata.live_window import LiveWindow

    predictor = _load(options)
    window = LiveWindow.open(f"{camera.name}: Escape closes")
    destinations = (
        None
        if options.output_dir is None
        else {Path(camera.name): Path(options.output_dir, camera.name.replace(":", "-") + ".mp4")}
    )
    predicted = predictor.predict_frames(camera.frames(), smoothing=options.smoothing, live=True)
    with _stopped_by_signals(camera), contextlib.closing(predicted):
        results = _copied(_shown(predicted, window, camera), destinations)
        shown_alone = window is not None and sys.stdout.isatty()
        write = _ignore if shown_alone else _writer(options, predictor.expressions).write
        return _print(results, write, total=None)


def _load(options: PredictOptions) -> "Predictor":
    command_line.import_tensorflow_quietly()
    from fer_tfdata import detectors
    from fer_tfdata.prediction import Predictor

    model = None if options.yunet_model is None else Path(options.yunet_model)
    detector = detectors.make_detector(options.detector, yunet_model=model)
    return Predictor.from_name(options.model, detector=detector)


@contextlib.contextmanager
def _stopped_by_signals(camera: "Camera") -> Iterator[None]:
    """Makes of a first Ctrl-C or SIGTERM the camera's end; a second one interrupts the program."""

    def stop(*_: object) -> None:
        camera.stop()
        for number in numbers:
            signal.signal(number, signal.default_int_handler)

    numbers = (signal.SIGINT, signal.SIGTERM)
    with _signals_handled(numbers, stop):
        yield


@contextlib.contextmanager
def _signals_handled(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def _shown(predicted: "Predicted", window: "LiveWindow | None", camera: "Camera") -> "Predicted":
    """Passes pictures on and shows each one, if there is a window, whose end stops the camera."""
    from fer_tfdata import annotation

    for frame, result in predicted:
        if window is not None and frame.error is None:
            window.show(annotation.annotate(frame.pixels, result.faces))
            if window.closed:
                camera.stop()
        yield frame, result


def _copied(
    predicted: "Predicted", destinations: Mapping[Path, Path] | None
) -> Generator["ImagePrediction", None, None]:
    """Passes the results on, and writes the copies where there are to be any."""
    if destinations is None:
        return (result for _, result in predicted)
    from fer_tfdata import copies

    return copies.write_copies(predicted, destinations)


def _writer(options: PredictOptions, expressions: Sequence[str]) -> "JsonLines | CsvRows":
    from fer_tfdata.results import CsvRows, JsonLines

    if options.format == "json":
        return JsonLines(sys.stdout)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name need not be UTF-8
    return CsvRows(sys.stdout, expressions)


def _ignore(result: "ImagePrediction") -> None:
    """Writes nothing."""


def _print(
    results: Iterator["ImagePrediction"],
    write: Callable[["ImagePrediction"], None],
    *,
    total: int | None,
) -> int:
    """Writes the results beside a progress bar, says what is missing, returns the exit code.

    Args:
      results: one source's after the other's.
      write: a result, to stdout or nowhere.
      total: how many results are expected; None where nobody knows.
    """
    from tqdm import tqdm

    few = total is not None and total <= _FEW_PICTURES
    num_errors = 0
    with tqdm(total=total, unit="picture", disable=few or not sys.stderr.isatty()) as bar:
        for path, of_path in itertools.groupby(results, key=lambda result: result.path):
            num_faces, error = 0, None
            for result in of_path:
                # Where one terminal shows both, results stand above the bar.
                with tqdm.external_write_mode(sys.stdout) if sys.stdout.isatty() else _NOTHING:
                    write(result)
                num_faces, error = num_faces + len(result.faces), result.error
                bar.update()
            if error is not None or not num_faces:
                tqdm.write(error or f"{path}: no face found", file=sys.stderr)
            num_errors += error is not None
    return 1 if num_errors else 0


if __name__ == "__main__":
    run()
