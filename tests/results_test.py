import csv
import io
import json
from pathlib import Path

from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.faces import Box
from fer_tfdata.results import CsvRows, FacePrediction, ImagePrediction, JsonLines

SHARES = dict(zip(EXPRESSIONS, [0.1, 0.1, 0.1, 0.4, 0.1, 0.1, 0.1], strict=True))
RESULTS = [
    ImagePrediction(Path("a, b.png"), [FacePrediction(Box(1, 2, 3, 4), SHARES)]),
    ImagePrediction(Path("wall.png")),
    ImagePrediction(Path("no.png"), error="no.png: expected an image"),
    ImagePrediction(
        Path("clip.mp4"),
        [FacePrediction(Box(5, 6, 7, 8), SHARES, 3), FacePrediction(Box(0, 0, 1, 1), SHARES, 0)],
        frame=2,
        time=1 / 15,
    ),
]
FACE = {"expression": "happy", "probabilities": SHARES}


def test_json_has_a_line_a_picture() -> None:
    stream = io.StringIO()
    writer = JsonLines(stream)
    for number, result in enumerate(RESULTS, 1):
        writer.write(result)
        assert stream.getvalue().count("\n") == number
    boxes = [
        dict(zip(("left", "top", "width", "height"), box, strict=True))
        for box in ((1, 2, 3, 4), (5, 6, 7, 8), (0, 0, 1, 1))
    ]
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {
            "file": "a, b.png",
            "frame": None,
            "time": None,
            "faces": [{"track": None, "box": boxes[0], **FACE}],
        },
        {"file": "wall.png", "frame": None, "time": None, "faces": []},
        {"file": "no.png", "error": "no.png: expected an image"},
        {
            "file": "clip.mp4",
            "frame": 2,
            "time": 0.066667,
            "faces": [
                {"track": 3, "box": boxes[1], **FACE},
                {"track": 0, "box": boxes[2], **FACE},
            ],
        },
    ]


def test_csv_has_a_row_a_face() -> None:
    stream = io.StringIO()
    writer = CsvRows(stream, EXPRESSIONS)
    for result in RESULTS:
        writer.write(result)
    header, *rows = csv.reader(io.StringIO(stream.getvalue()))
    assert header == [
        *("file", "frame", "time", "face", "track", "left", "top", "width", "height"),
        *("expression", "angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    ]
    shares = ["happy", *("0.1",) * 3, "0.4", *("0.1",) * 3]
    assert rows == [
        ["a, b.png", "", "", "0", "", "1", "2", "3", "4", *shares],
        ["clip.mp4", "2", "0.066667", "0", "3", "5", "6", "7", "8", *shares],
        ["clip.mp4", "2", "0.066667", "1", "0", "0", "0", "1", "1", *shares],
    ]
