"""Measures whether a conversion takes more memory where there are more rows.

    python -m benchmarks.memory_benchmark

What is measured, each in a process of its own, after the imports of TensorFlow, TFDS and this
package, with the audit and its search for near-duplicates:

  generated_*  conversion.convert of a source that makes its images while they are read, each of
               two drawn faces and smooth noise; its own memory is that of one batch.  As many as
               in FER2013 repeat another (5 %) or nearly do (15 %), some of them across splits.
  distinct_*   the same without these copies, so that the audit finds nothing.
  csv_*        conversion.convert of a Kaggle CSV of the same rows, at most ten times as many as
               FER2013 has.

  *_1x, *_10x  the factor: how many times the rows of FER2013.

Memory is how far the process's resident memory rose at its peak; without mapped files, how far it
rose without their pages, which the system takes back when it needs them.  What a conversion works
with is bounded, which `distinct_*` shows; what it finds is named in the manifest, and grows with
the rows.  A finding is a group of equal images or a pair of near-duplicates; bytes a finding are by
how much `generated_*` rose above `distinct_*` for each of them, both without mapped files.

The images stand in the spools and in the shards at the same time: with the CSVs, 22 GB of disk for
the factors 1, 10 and 100.
"""

import dataclasses
import functools
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from absl import flags

from benchmarks import measure
from fer_tfdata import command_line, demo_faces
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, NUM_EXPRESSIONS, SPLIT_OF_USAGE
from fer_tfdata.sources import KaggleCsv, RawBatch, Source

NAME: Final = "memory_benchmark"

_FER2013_ROWS: Final = 35_887
_LARGEST_CSV: Final = 10
_SEED: Final = 0

_ROWS_A_BATCH: Final = 512
_NUM_FACES: Final = 256
_SIZE: Final = demo_faces.FACE_SIZE
_NUM_WAVES: Final = 8  # of the noise, each way
_NOISE: Final = 8.0  # each wave's amplitude, in grey levels
_REPEATS: Final = 0.05  # of the images; as in FER2013
_NEAR_COPIES: Final = 0.15
_SPLITS: Final = ("train",) * 8 + ("validation", "test")  # of ten rows; as in FER2013

# The record in a spool and in a shard, and the audit's table; a row of a CSV has at most so many.
_BYTES_A_ROW: Final = 5_100
_CSV_BYTES_A_ROW: Final = 9_241

# TensorFlow is imported where it is used, so that --help need not wait for it.


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_multi_integer(
        "factor",
        [1, 10, 100],
        "How many times the rows of FER2013 are converted",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "rows",
        _FER2013_ROWS,
        "How many rows the factor 1 stands for.",
        lower_bound=10,
        flag_values=flag_values,
    )
    measure.define_flags(flag_values, repeats=1)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table and the JSON."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    content = measure.provenance(NAME, repeats=values.repeats)
    content |= measure_memory(sorted(set(values.factor)), values.rows, values.repeats)
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_memory(factors: Sequence[int], rows: int, repeats: int) -> dict[str, Any]:
    """Returns memory, seconds and bytes of each factor.

    Args:
      factors: in ascending order.
      rows: how many the factor 1 stands for.
      repeats: how often each is measured.

    Raises:
      InputError: the disk has not the room, or the system does not tell a process's memory.
    """
    measure.check_memory_is_told()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        _check_room(directory, factors, rows)
        sources = _sources(directory, factors, rows)
        results = measure.interleaved(
            {
                f"{form}_{factor}x": functools.partial(
                    measure.in_new_process, measure.measured_conversion, source
                )
                for form, of_form in sources.items()
                for factor, source in of_form.items()
            },
            repeats,
        )
    variants = {
        f"{form}_{factor}x": _describe(
            results[f"{form}_{factor}x"], results[f"{form}_{min(of_form)}x"], factor * rows
        )
        for form, of_form in sources.items()
        for factor in of_form
    }
    return {
        "variants": variants,
        "bytes_a_finding": {
            f"{factor}x": _bytes_a_finding(
                variants[f"generated_{factor}x"], variants[f"distinct_{factor}x"]
            )
            for factor in factors
        },
    }


def _bytes_a_finding(generated: Mapping[str, Any], distinct: Mapping[str, Any]) -> float:
    risen, risen_without = (
        variant["memory"]["risen_anonymous_bytes"]["median"] for variant in (generated, distinct)
    )
    return float(risen - risen_without) / sum(generated["findings"].values())


def _sources(directory: Path, factors: Sequence[int], rows: int) -> dict[str, dict[int, Source]]:
    return {
        "generated": {factor: MixedFaces(factor * rows) for factor in factors},
        "distinct": {factor: MixedFaces(factor * rows, has_copies=False) for factor in factors},
        "csv": {
            factor: KaggleCsv((write_csv(directory / f"{factor}x.csv", factor * rows),))
            for factor in factors
            if factor <= _LARGEST_CSV
        },
    }


def _check_room(directory: Path, factors: Sequence[int], rows: int) -> None:
    csv_rows = rows * sum(factor for factor in factors if factor <= _LARGEST_CSV)
    needed = rows * max(factors) * _BYTES_A_ROW + csv_rows * _CSV_BYTES_A_ROW
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise InputError(
            f"{directory.parent}: expected {needed / 1e9:.1f} GB of free disk for the factor "
            f"{max(factors)}, found {free / 1e9:.1f} GB; choose a smaller --factor, or name "
            "another directory in TMPDIR"
        )


def _describe(
    results: Sequence[Mapping[str, Any]], smallest: Sequence[Mapping[str, Any]], rows: int
) -> dict[str, Any]:
    summaries: list[Any] = [  # never None: that the system tells the memory was checked
        measure.summary_of_memory(
            [result["memory"] for result in measured], what=measure.CONVERSION_MEMORY
        )
        for measured in (results, smallest)
    ]
    memory, of_smallest = summaries
    return {
        "rows": rows,
        "memory": memory,
        "risen_to_smallest": measure.ratios(
            memory["risen_bytes"]["raw"], of_smallest["risen_bytes"]["raw"]
        ),
        "seconds": measure.summary([result["seconds"] for result in results]),
        "rows_per_second": measure.summary([rows / result["seconds"] for result in results]),
        "bytes_written": results[0]["bytes_written"],
        "findings": results[0]["findings"],
    }


# The generated source.


@dataclasses.dataclass(frozen=True)
class MixedFaces:
    """A `Source` whose images are made while they are read; the same number, the same images.

    Attributes:
      num_rows: how many.
      has_copies: whether some are repeats and near-copies of others.
    """

    num_rows: int
    has_copies: bool = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return _SIZE, _SIZE, 1

    @property
    def expressions(self) -> tuple[str, ...]:
        """What the labels, drawn at random, are ids of."""
        return EXPRESSIONS

    def describe(self) -> Mapping[str, Any]:
        """Returns what the manifest says of the source."""
        return {"file": NAME, "rows": self.num_rows}

    def parts(self, count: int) -> Sequence["MixedFacesPart"]:
        """Cuts the source into at most `count` parts, between batches."""
        num_batches = math.ceil(self.num_rows / _ROWS_A_BATCH)
        step = math.ceil(num_batches / count) * _ROWS_A_BATCH
        return [
            MixedFacesPart(start, min(start + step, self.num_rows), self.has_copies)
            for start in range(0, self.num_rows, step)
        ]


@dataclasses.dataclass(frozen=True)
class MixedFacesPart:
    """Consecutive rows of `MixedFaces`: a `Part`."""

    start: int
    stop: int
    has_copies: bool

    def count_rows(self) -> int:
        """Returns how many rows there are."""
        return self.stop - self.start

    def batches(self, first_row: int) -> Iterator[RawBatch]:
        """Yields the rows, counting them from `first_row`."""
        for start in range(self.start, self.stop, _ROWS_A_BATCH):
            places = np.arange(start, min(start + _ROWS_A_BATCH, self.stop))
            rng = np.random.default_rng((_SEED, start))
            images = _mixed_faces(len(places), rng)
            yield RawBatch(
                images=_with_copies(images) if self.has_copies else images,
                labels=rng.integers(0, NUM_EXPRESSIONS, len(places)),
                splits=[_SPLITS[place % len(_SPLITS)] for place in places.tolist()],
                rows=first_row + places - self.start,
            )


def _mixed_faces(count: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Returns images, uint8 [count, size, size, 1], no two of which resemble each other."""
    faces = _half_faces()
    one, other = rng.integers(0, len(faces), (2, count))
    amplitudes = rng.standard_normal((count, _NUM_WAVES, _NUM_WAVES), np.float32)
    images = faces[one]
    images += faces[other]
    images += _waves() @ amplitudes @ _waves().T
    np.clip(images, 0, 255, out=images)
    return images.astype(np.uint8)[..., None]


def _with_copies(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns the images, the last of which repeat the first, and those before them nearly do."""
    repeats, near_copies = round(_REPEATS * len(images)), round(_NEAR_COPIES * len(images))
    originals, further, rest = np.split(images, [repeats, repeats + near_copies])
    darker = (further * 0.9).astype(np.uint8)
    return np.concatenate(
        [originals, further, rest[: len(rest) - repeats - near_copies], darker, originals]
    )


@functools.cache
def _half_faces() -> npt.NDArray[np.float32]:
    """Returns drawn faces at half their brightness, [faces, size, size]."""
    faces, _ = demo_faces.draw_faces(_NUM_FACES, seed=_SEED)
    return faces * np.float32(0.5)


@functools.cache
def _waves() -> npt.NDArray[np.float32]:
    """Returns the slowest cosines over a line of pixels, [size, waves]."""
    points = (np.arange(_SIZE) + 0.5) / _SIZE
    waves = np.cos(np.pi * points[:, None] * np.arange(_NUM_WAVES)) * np.sqrt(_NOISE)
    return waves.astype(np.float32)


# The CSV.


def write_csv(path: Path, num_rows: int) -> Path:
    """Writes the rows of `MixedFaces` as a Kaggle CSV, and returns `path`."""
    usage_of_split = {split: usage.encode() for usage, split in SPLIT_OF_USAGE.items()}
    texts = np.array([b"%d " % value for value in range(256)])  # padded with NULs
    with path.open("wb") as file:
        file.write(b"emotion,pixels,Usage\n")
        for part in MixedFaces(num_rows).parts(1):
            for batch in part.batches(0):
                for image, label, split in zip(
                    batch.images, batch.labels.tolist(), batch.splits, strict=True
                ):
                    pixels = texts[image].tobytes().translate(None, b"\0").rstrip()
                    file.write(b"%d,%b,%b\n" % (label, pixels, usage_of_split[split]))
    return path


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    measure.print_table(
        [
            "variant",
            "rows",
            "MB above imports [min, max]",
            "to the smallest",
            "without mapped files",
            "findings",
            "seconds [min, max]",
            "rows/s [min, max]",
            "MB written",
        ],
        [
            [
                name,
                f"{variant['rows']:,}",
                measure.megabytes(variant["memory"]["risen_bytes"]),
                measure.spread(variant["risen_to_smallest"], digits=2),
                measure.megabytes(variant["memory"]["risen_anonymous_bytes"]),
                f"{sum(variant['findings'].values()):,}",
                measure.spread(variant["seconds"], digits=1),
                measure.spread(variant["rows_per_second"]),
                f"{variant['bytes_written'] / 1e6:,.0f}",
            ]
            for name, variant in content["variants"].items()
        ],
    )
    taken = ", ".join(
        f"{taken:,.0f} ({name})" for name, taken in content["bytes_a_finding"].items()
    )
    print(f"\nbytes a finding: {taken}\n")


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
