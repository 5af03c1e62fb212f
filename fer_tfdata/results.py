"""What a model says of the faces in a picture: as values, as JSON lines and as CSV."""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from fer_tfdata.faces import Box

# float32 holds no more, and printed as float64 would show digits that mean nothing.
_DIGITS: Final = 6


@dataclasses.dataclass(frozen=True)
class FacePrediction:
    """What the model says of one face.

    Attributes:
      box: where the face stands in its picture.
      probabilities: by expression, in the order of the model's; they sum to one.
      track: the face's number in its video, from 0, the same in every frame that shows it; None
        in an image.
    """

    box: Box
    probabilities: Mapping[str, float]
    track: int | None = None

    @property
    def expression(self) -> str:
        """The most probable expression."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


@dataclasses.dataclass(frozen=True)
class ImagePrediction:
    """What came of an image, or of one frame of a video.

    Attributes:
      path: the file; `camera:0` and the like for a camera.
      faces: the largest first.
      error: why the file, or the rest of it, could not be read, in one line.
      frame: the frame's place in its video, from 0; None where the file is an image.
      time: seconds since the video's first frame; None where the file is an image.
    """

    path: Path
    faces: Sequence[FacePrediction] = ()
    error: str | None = None
    frame: int | None = None
    time: float | None = None


def face_entry(face: FacePrediction) -> dict[str, Any]:
    """Returns what programs are told of a face, for JSON."""
    return {
        "box": dataclasses.asdict(face.box),
        "expression": face.expression,
        "probabilities": {
            name: round(value, _DIGITS) for name, value in face.probabilities.items()
        },
    }


def json_entry(result: ImagePrediction) -> dict[str, Any]:
    """Returns what stands in a JSON line; see `docs/prediction.md`."""
    if result.error is not None:
        return {"file": str(result.path), "error": result.error}
    return {
        "file": str(result.path),
        "frame": result.frame,
        "time": _rounded(result.time),
        "faces": [{"track": face.track, **face_entry(face)} for face in result.faces],
    }


class JsonLines:
    """Writes an object a line, one an image or frame, each at once."""

    def __init__(self, stream: TextIO) -> None:
        """Takes what to write to."""
        self._stream = stream

    def write(self, result: ImagePrediction) -> None:
        """Writes a result, an error as well."""
        self._stream.write(json.dumps(json_entry(result)) + "\n")
        self._stream.flush()


class CsvRows:
    """Writes a header, and a row a face, each at once; an error has none."""

    def __init__(self, stream: TextIO, expressions: Sequence[str]) -> None:
        """Writes the header.

        Args:
          stream: what to write to.
          expressions: those of the model, in the order of its probabilities.
        """
        self._stream = stream
        self._rows = csv.writer(stream, lineterminator="\n")
        places = ("file", "frame", "time", "face", "track")
        box = (field.name for field in dataclasses.fields(Box))
        self._rows.writerow([*places, *box, "expression", *expressions])

    def write(self, result: ImagePrediction) -> None:
        """Writes the faces of a result, each counted from 0 within its picture."""
        for index, face in enumerate(result.faces):
            places = (result.path, result.frame, _rounded(result.time), index, face.track)
            box = dataclasses.astuple(face.box)
            probabilities = (round(value, _DIGITS) for value in face.probabilities.values())
            self._rows.writerow([*places, *box, face.expression, *probabilities])
        self._stream.flush()


def _rounded(time: float | None) -> float | None:
    return None if time is None else round(time, _DIGITS)
