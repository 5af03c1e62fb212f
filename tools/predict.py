"""Predicts the expressions of the faces in image files.

    python -m tools.predict --input=photo.jpg --input=holidays/
    python -m tools.predict --model=model.keras --input='album/*.png' --format=csv > faces.csv

An image is a photograph, in which faces are looked for, or a face that has been cut out already,
such as FER2013's 48 x 48 pixels; see --faces.  The results go to stdout.  An image without a face
is said on stderr and is no error; an image that cannot be read gives its error in place of its
faces (JSON) or on stderr alone (CSV), the others go on, and the exit code is 1 at the end.
"""

import csv
import dataclasses
import glob
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from absl import flags

from fer_tfdata import atomic, command_line
from fer_tfdata.errors import InputError
from fer_tfdata.named_models import PRETRAINED

# The heavy imports stand in the functions that need them: `--help` answers at once.
if TYPE_CHECKING:
    from fer_tfdata.faces import FacesMode
    from fer_tfdata.prediction import FacePrediction, ImagePrediction

_FEW_FILES = 3  # done before a progress bar would be read


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What the flags of the same names say."""

    model: str = PRETRAINED
    input: Sequence[str] = ()
    output_dir: str | None = None
    format: str = "json"
    faces: "FacesMode" = "auto"


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags to `flag_values`."""
    flags.DEFINE_string(
        "model",
        PredictOptions.model,
        "A run directory, a .keras file, or pretrained: the model that ships with the package.",
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "input",
        [],
        "An image file, a folder (searched with its subfolders) or a quoted glob pattern; give it"
        " several times for several; required. Of folders and patterns, the files with an image's"
        " suffix count.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Also write a copy of every image here, with its faces and expressions drawn: a JPEG of a"
        " JPEG, a PNG of anything else. Copies of an earlier run are replaced.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "format",
        "json",
        ["json", "csv"],
        "json: one list with an entry an image; csv: one row a face.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "faces",
        "auto",
        ["auto", "detect", "whole"],
        "detect: look for upright, frontal faces; whole: every image is one face, cut out"
        " already; auto: whole where the longer side has at most 96 pixels, detect otherwise.",
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
    """Prints the predictions and returns the exit code: 1 if an image could not be read.

    Raises:
      InputError: if the model or the inputs are not there, or the copies would replace an input.
    """
    paths = find_images(options.input)
    copies = None if options.output_dir is None else name_copies(paths, Path(options.output_dir))

    command_line.import_tensorflow_quietly()
    from tqdm import tqdm

    from fer_tfdata.prediction import Predictor

    predictor = Predictor.from_name(options.model, mode=options.faces)
    silent = len(paths) <= _FEW_FILES or not sys.stderr.isatty()
    errors: list[str] = []
    bar = tqdm(paths, unit="image", disable=silent)
    results: Iterable[ImagePrediction] = _report(predictor.predict_paths(bar), copies, errors)
    if sys.stdout.isatty():
        results = list(results)  # one terminal cannot show the bar and the results together
    if options.format == "csv":
        write_csv(results, predictor.expressions, sys.stdout)
    else:
        write_json(results, sys.stdout)
    return 1 if errors else 0


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Returns the files that `--input` means, each once: in its order, sorted within each.

    Raises:
      InputError: if there is no input, or nothing matches one.
    """
    if not inputs:
        raise InputError("--input: expected an image file, a folder or a glob, received nothing")
    found: dict[Path, Path] = {}
    for text in inputs:
        matches = _matches(text)
        if not matches:
            received = "a folder without any" if Path(text).is_dir() else "nothing there"
            raise InputError(
                f"--input={text}: expected an image file, a folder of images or a glob pattern,"
                f" received {received}"
            )
        for path in matches:
            found.setdefault(path.absolute(), path)
    return list(found.values())


def name_copies(paths: Iterable[Path], output_dir: Path) -> dict[Path, Path]:
    """Returns where the annotated copy of each image goes: its own name, numbered if taken.

    Raises:
      InputError: if an image stands in `output_dir` itself, where a copy could replace it, or
        if that is no folder.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"--output_dir={output_dir}: expected a folder, received a file")
    copies: dict[Path, Path] = {}
    taken: set[str] = set()
    for path in paths:
        if path.parent.resolve() == output_dir.resolve():
            raise InputError(
                f"--output_dir={output_dir}: expected a folder without inputs, received that of"
                f" {path}, which a copy could replace; choose another"
            )
        suffix = path.suffix if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        name, number = f"{path.stem}{suffix}", 1
        while name.casefold() in taken:  # some file systems do not tell cases apart
            number += 1
            name = f"{path.stem}-{number}{suffix}"
        taken.add(name.casefold())
        copies[path] = output_dir / name
    return copies


def write_json(results: Iterable["ImagePrediction"], stream: TextIO) -> None:
    """Writes one JSON document, an entry a line, while the results come."""
    stream.write("[")
    for index, result in enumerate(results):
        stream.write(",\n" if index else "\n")
        json.dump(_entry(result), stream)
    stream.write("\n]\n")


def write_csv(
    results: Iterable["ImagePrediction"], expressions: Sequence[str], stream: TextIO
) -> None:
    """Writes a header and a row a face, the face counted from 0 within its image.

    Args:
      results: of one model.
      expressions: what it knows, in the order of its probabilities.
      stream: where to.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="surrogateescape")  # a file's name need not be UTF-8
    writer = csv.writer(stream, lineterminator="\n")
    box_columns = ("left", "top", "width", "height")
    writer.writerow(["file", "face", *box_columns, "expression", *expressions])
    for result in results:
        for index, face in enumerate(result.faces):
            box = dataclasses.astuple(face.box)
            probabilities = _rounded(face).values()
            writer.writerow([result.path, index, *box, face.expression, *probabilities])


def _matches(text: str) -> list[Path]:
    from fer_tfdata.images import IMAGE_SUFFIXES

    path = Path(text)
    if path.is_dir():
        candidates = path.rglob("*")
    elif path.exists():
        return [path]
    else:
        # pathlib's glob takes no absolute pattern.
        matches = glob.iglob(text, recursive=True)  # noqa: PTH207
        candidates = (Path(match) for match in matches)
    return sorted(
        candidate
        for candidate in candidates
        if candidate.suffix.lower() in IMAGE_SUFFIXES
        and not candidate.name.startswith(".")  # what file managers leave beside an image
        and candidate.is_file()
    )


def _report(
    results: Iterable["ImagePrediction"], copies: Mapping[Path, Path] | None, errors: list[str]
) -> Iterator["ImagePrediction"]:
    """Passes results on; says on stderr what is missing, collects errors, writes the copies."""
    from tqdm import tqdm

    for result in results:
        if result.error is not None:
            errors.append(result.error)
            tqdm.write(result.error, file=sys.stderr)
        else:
            if not result.faces:
                tqdm.write(f"{result.path}: no face found", file=sys.stderr)
            if copies is not None:
                _write_copy(result, copies[result.path])
        yield result


def _write_copy(result: "ImagePrediction", destination: Path) -> None:
    from PIL import Image

    from fer_tfdata import images, prediction

    # Read again: to keep every picture of a batch would take gigabytes.
    annotated = prediction.annotate(images.read_image(result.path), result.faces)
    with atomic.replacing(destination) as temporary:
        Image.fromarray(annotated).save(temporary, quality=95)


def _entry(result: "ImagePrediction") -> dict[str, Any]:
    if result.error is not None:
        return {"file": str(result.path), "error": result.error}
    faces = [
        {
            "box": dataclasses.asdict(face.box),
            "expression": face.expression,
            "probabilities": _rounded(face),
        }
        for face in result.faces
    ]
    return {"file": str(result.path), "faces": faces}


def _rounded(face: "FacePrediction") -> dict[str, float]:
    # float32 holds no more, and printed as float64 would show digits that mean nothing.
    return {name: round(value, 6) for name, value in face.probabilities.items()}


if __name__ == "__main__":
    run()
