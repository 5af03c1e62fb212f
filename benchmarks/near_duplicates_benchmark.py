"""Measures the search for near-duplicates, and how its cost grows with the number of images.

    python -m benchmarks.near_duplicates_benchmark

The images are simulated: a drawn face, one of 256, under a random field with the spectrum of
photographs, so that unrelated images have as much in common as faces have.  Of a thousand images
a hundred are altered copies of others: re-encoded as JPEG, shifted by a pixel, or in another
brightness and contrast.  They are made and forgotten in chunks; only the signatures stay, on disk.

Seconds of the signatures are those of `near_duplicates.signatures` alone, in this process, and
seconds of the search those of `near_duplicates.search`, each in a process of its own.  Memory is
how far that process's own memory (RssAnon, so without the pages of the file that the kernel caches)
rose during the search, looked at every 20 ms.
"""

import functools
import itertools
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from absl import flags

from benchmarks import measure
from fer_tfdata import command_line, demo_faces, near_duplicates
from fer_tfdata.errors import InputError

NAME: Final = "near_duplicates_benchmark"

CHUNK: Final = 1000
COPIES: Final = 100  # the last ones of a chunk, of its first ones

_BATCH: Final = 250
_NUM_FACES: Final = 256
_NUM_WAVES: Final = 24
_JPEG_QUALITY: Final = 50

_Images = npt.NDArray[np.uint8]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_list(
        "images",
        ["62000", "250000", "1000000"],
        f"How many images to simulate, ascending multiples of {CHUNK}.",
        flag_values=flag_values,
    )
    measure.define_flags(flag_values, repeats=1)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table and the JSON."""
    del argv
    values = flags.FLAGS
    sizes = parse_sizes(values.images)
    content = measure.provenance(NAME, repeats=values.repeats)
    content |= measure_sizes(sizes, values.repeats)
    _print_report(content)
    measure.publish(content, values.output_json)


def parse_sizes(texts: Sequence[str]) -> list[int]:
    """Returns the numbers of images.

    Raises:
      InputError: they are no ascending multiples of `CHUNK`.
    """
    sizes = [int(text) if text.isdecimal() else 0 for text in texts]
    if not sizes or sizes != sorted(set(sizes)) or any(s < CHUNK or s % CHUNK for s in sizes):
        raise InputError(
            f"--images: expected ascending multiples of {CHUNK}, separated by commas, received "
            f"{','.join(texts)!r}"
        )
    return sizes


def measure_sizes(sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Returns what each number of images took and found, and how the search's seconds grow.

    Raises:
      InputError: the system does not tell a process's memory.
    """
    measure.check_memory_is_told()
    with tempfile.TemporaryDirectory() as directory:
        tables = {str(size): Path(directory) / str(size) for size in sizes}
        seconds = {name: write_table(int(name), path) for name, path in tables.items()}
        searches = measure.interleaved(
            {
                # One that has searched before uses again what it freed then.
                name: functools.partial(measure.in_new_process, _measure_search, path)
                for name, path in tables.items()
            },
            repeats,
        )
    variants = {
        name: {
            "signature_microseconds_an_image": 1e6 * seconds[name] / int(name),
            "search_seconds": measure.summary([one["seconds"] for one in measured]),
            "search_risen_bytes": measure.summary(
                [one["memory"]["risen_anonymous_bytes"] for one in measured]
            ),
            **{key: measured[0][key] for key in ("recall", "pairs", "comparisons", "alignments")},
        }
        for name, measured in searches.items()
    }
    return {"variants": variants, "exponents": _exponents(variants)}


# The population.


def simulated_images(chunk: int, faces: npt.NDArray[np.float64]) -> _Images:
    """Returns a chunk of images, uint8 [CHUNK, 48, 48, 1]; the same number gives the same bytes."""
    rng = np.random.default_rng([chunk])
    size = faces.shape[1]
    waves = np.arange(_NUM_WAVES)
    cosines = np.cos(np.pi / size * waves[:, None] * (np.arange(size) + 0.5))
    amplitudes = 1 / np.maximum(np.hypot(waves[:, None], waves), 1)
    amplitudes[0, 0] = 0
    count = CHUNK - COPIES
    fields = cosines.T @ (rng.normal(size=(count, _NUM_WAVES, _NUM_WAVES)) * amplitudes) @ cosines
    fields *= 40 / fields.std(axis=(1, 2), keepdims=True)
    chosen = faces[rng.integers(len(faces), size=count)]
    images = np.clip(128 + 0.7 * (chosen + fields), 0, 255).astype(np.uint8)
    return np.concatenate([images, _altered(images[:COPIES])])[..., None]


def _altered(images: _Images) -> _Images:
    alterations = (_reencoded, _shifted, _retoned)
    return np.stack([alterations[i % len(alterations)](image) for i, image in enumerate(images)])


def _reencoded(image: _Images) -> _Images:
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)


def _shifted(image: _Images) -> _Images:
    return np.pad(image, 1, mode="edge")[2:, 2:]


def _retoned(image: _Images) -> _Images:
    return (image * 0.7 + 20).astype(np.uint8)


def _drawn_faces() -> npt.NDArray[np.float64]:
    """Returns drawn faces with mean 0 and a standard deviation of 40."""
    faces, _ = demo_faces.draw_faces(_NUM_FACES, seed=0)
    centred = faces - faces.mean(axis=(1, 2), keepdims=True)
    standard: npt.NDArray[np.float64] = centred * (40 / centred.std(axis=(1, 2), keepdims=True))
    return standard


def write_table(num_images: int, path: Path) -> float:
    """Writes the signatures of simulated images, and returns the seconds that they took."""
    faces = _drawn_faces()
    seconds = 0.0
    with path.open("wb") as file:
        for chunk in range(num_images // CHUNK):
            for images in np.split(simulated_images(chunk, faces), CHUNK // _BATCH):
                start = time.perf_counter()
                signatures = near_duplicates.signatures(images)
                seconds += time.perf_counter() - start
                file.write(signatures.tobytes())
    return seconds


# The search.


def _measure_search(path: Path) -> dict[str, Any]:
    """Searches a table of signatures in this process, which is to be a new one."""
    table = np.memmap(path, near_duplicates.SIGNATURE_DTYPE, "r")
    start = time.perf_counter()
    found, memory = measure.memory_of(lambda: near_duplicates.search(table))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "memory": memory,
        "recall": _share_of_copies(found.pairs, len(table)),
        "pairs": len(found.pairs),
        "comparisons": found.comparisons,
        "alignments": found.alignments,
    }


def _share_of_copies(pairs: npt.NDArray[np.int64], num_images: int) -> float:
    first, second = pairs.T
    copies = (first % CHUNK < COPIES) & (second - first == CHUNK - COPIES)
    return int(copies.sum()) / (num_images // CHUNK * COPIES)


# The report.


def _exponents(variants: Mapping[str, Any]) -> list[float]:
    """Returns by which power of the number of images the seconds grow, from each to the next."""
    return [
        math.log(more["search_seconds"]["median"] / fewer["search_seconds"]["median"])
        / math.log(int(many) / int(few))
        for (few, fewer), (many, more) in itertools.pairwise(variants.items())
    ]


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    measure.print_table(
        ["images", "signatures, us an image", "search, s", "memory, MB", "recall", "pairs"],
        [
            [
                name,
                f"{variant['signature_microseconds_an_image']:.1f}",
                measure.spread(variant["search_seconds"], digits=1),
                measure.spread(variant["search_risen_bytes"], factor=1e-6),
                f"{variant['recall']:.4f}",
                f"{variant['pairs']:,}",
            ]
            for name, variant in content["variants"].items()
        ],
    )
    exponents = ", ".join(f"{exponent:.2f}" for exponent in content["exponents"])
    print(f"\nthe seconds of the search grow by the power of {exponents} (2 is quadratic)")


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
