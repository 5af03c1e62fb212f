"""Measures the conversion of the Kaggle CSV into TFRecords.

    python -m benchmarks.conversion_benchmark --csv=fer2013.csv

What is measured, from the page cache and after all imports:

  ours        conversion.convert, as tools/make_tfrecords calls it: checked rows, a seeded order,
              the audit with its search for near-duplicates, checksums of the source and of every
              shard, TFDS's metadata, the manifest, every file synced to the disk.
  ours_without_near_duplicates
              the same without that search, for which the library has no switch: the two functions
              that make the signatures and compare them are replaced by ones that do nothing.
  tfds_builder
              a tfds.core.GeneratorBasedBuilder of the same features, written as TFDS's guide shows
              it: csv.DictReader over the file once a split, np.fromstring, a dictionary a row;
              download_and_prepare shuffles, serializes and writes shards and metadata.  No checks
              of the rows, no audit, no checksums, no sync.
  usual_loop  csv.DictReader, int() for each pixel, one tf.train.Example a row, one TFRecordWriter a
              split; no order of its own, no metadata, no checks, no audit, no sync.
  read_only   the file's bytes, nothing done with them.
  parse_only  the batches of sources.KaggleCsv alone: checked rows as arrays, nothing written.

Memory: a process of its own imports TensorFlow, TFDS and this package, converts, and reports how
far its resident memory rose above what it was between the two.
"""

import contextlib
import csv
import functools
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
from absl import flags, logging

from benchmarks import measure
from fer_tfdata import command_line, near_duplicates
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, SPLIT_OF_USAGE
from fer_tfdata.sources import KaggleCsv, RawBatch

NAME: Final = "conversion_benchmark"

_READ_BYTES: Final = 1 << 20
_WARM_UP_ROWS: Final = 20
_COMPARED: Final = ("tfds_builder", "usual_loop", "read_only")

Variant = Callable[[Path, Path], None]

# TensorFlow is imported where it is used, so that --help need not wait for it.


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "csv", None, "The Kaggle CSV to convert.", required=True, flag_values=flag_values
    )
    flags.DEFINE_integer(
        "rows",
        0,
        "Converts so many rows only, from all over the file; 0 is all of them.",
        lower_bound=0,
        flag_values=flag_values,
    )
    measure.define_flags(flag_values, repeats=3)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table and the JSON."""
    del argv
    values = flags.FLAGS
    path = Path(values.csv)
    if not path.is_file():
        raise InputError(f"{path}: expected a CSV file, received nothing that is one")
    command_line.import_tensorflow_quietly()
    logging.set_verbosity(logging.WARNING)  # TFDS tells of every split
    content = measure.provenance(NAME, repeats=values.repeats)
    with tempfile.TemporaryDirectory() as temporary:
        cut = Path(temporary) / "rows.csv"
        source = cut_rows(path, cut, values.rows) if values.rows else path
        content |= measure_conversion(source, values.repeats)
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_conversion(source: Path, repeats: int) -> dict[str, Any]:
    """Returns seconds and MB/s of each variant, the ratios and the memory."""
    variants = _variants(_splits(source))
    _warm_up(variants, source)
    seconds = measure.interleaved(
        {name: _timed(variant, source) for name, variant in variants.items()}, repeats
    )
    num_bytes = source.stat().st_size
    return {
        "source": {"bytes": num_bytes, "rows": _count_rows(source)},
        "variants": {
            name: {
                "seconds": measure.summary(raw),
                "mb_per_second": measure.summary([num_bytes / 1e6 / value for value in raw]),
            }
            for name, raw in seconds.items()
        },
        **{f"{name}_to_ours": measure.ratios(seconds[name], seconds["ours"]) for name in _COMPARED},
        "memory": measure.summary_of_memory(
            [
                measure.in_new_process(measure.measured_conversion, KaggleCsv((source,)))["memory"]
                for _ in range(repeats)
            ],
            what=measure.CONVERSION_MEMORY,
        ),
    }


# The variants: each takes the source and an empty directory.


def convert(source: Path, directory: Path) -> None:
    """Converts as tools/make_tfrecords does."""
    from fer_tfdata import conversion

    conversion.convert(KaggleCsv((source,)), directory)


def convert_without_near_duplicates(source: Path, directory: Path) -> None:
    """Converts with the search for near-duplicates left out; the signatures are zeros."""

    def no_signatures(images: Any) -> Any:
        return np.zeros(len(images), near_duplicates.SIGNATURE_DTYPE)

    def no_search(table: Any) -> Any:
        del table
        no_pairs, none_equal = np.empty((0, 2), np.int64), np.empty(0, np.bool_)
        return near_duplicates.Search(no_pairs, none_equal, comparisons=0, alignments=0)

    with mock.patch.multiple(near_duplicates, signatures=no_signatures, search=no_search):
        convert(source, directory)


def convert_with_a_tfds_builder(splits: Set[str], source: Path, directory: Path) -> None:
    """Converts as TFDS's guide tells its users to.

    Args:
      splits: those that the source holds, since TFDS refuses a split without examples.
      source: the CSV.
      directory: a TFDS data directory.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(
        manual_dir=source.resolve().parent, try_download_gcs=False
    )
    builder = _tfds_builder(splits, source)
    # It prints what it does, and stdout is for the results.
    with contextlib.redirect_stdout(io.StringIO()):
        builder(data_dir=directory).download_and_prepare(download_config=config)


def _tfds_builder(splits: Set[str], source: Path) -> Any:
    import tensorflow_datasets as tfds

    class Fer2013(  # type: ignore[call-arg]  # mypy is not shown TFDS
        tfds.core.GeneratorBasedBuilder, skip_registration=True
    ):
        """FER2013, from a CSV that was downloaded by hand."""

        # As in a script: in a package TFDS wants importlib_resources, which it does not install.
        __module__ = "__main__"

        VERSION = tfds.core.Version("1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = "Place the CSV into manual_dir."

        def _info(self) -> Any:
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(
                        shape=(48, 48, 1),
                        dtype=np.uint8,
                        encoding=tfds.features.Encoding.BYTES,
                    ),
                    "label": tfds.features.ClassLabel(names=list(EXPRESSIONS)),
                    "row": tfds.features.Scalar(np.int64),
                }
            )
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            path = dl_manager.manual_dir / source.name
            return {
                split: self._generate_examples(path, usage)
                for usage, split in SPLIT_OF_USAGE.items()
                if split in splits
            }

        def _generate_examples(
            self, path: Path, usage: str
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            with path.open() as file:
                rows = csv.DictReader(file, skipinitialspace=True)
                for number, row in enumerate(rows):
                    if row["Usage"] == usage:
                        pixels = np.fromstring(row["pixels"], dtype=np.uint8, sep=" ")
                        yield (
                            number,
                            {
                                "image": pixels.reshape(48, 48, 1),
                                "label": int(row["emotion"]),
                                "row": number,
                            },
                        )

    return Fer2013


def convert_in_the_usual_loop(source: Path, directory: Path) -> None:
    """Converts as most notebooks do: a row at a time, and each pixel an int()."""
    import tensorflow as tf

    writers = {
        usage: tf.io.TFRecordWriter(str(directory / f"{split}.tfrecord"))
        for usage, split in SPLIT_OF_USAGE.items()
    }
    with source.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, skipinitialspace=True):
            pixels = np.array([int(pixel) for pixel in row["pixels"].split()], np.uint8)
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels.tobytes()]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(row["emotion"])]))
            features = tf.train.Features(feature={"image": image, "label": label})
            example = tf.train.Example(features=features)
            writers[row["Usage"]].write(example.SerializeToString())
    for writer in writers.values():
        writer.close()


def _read(source: Path, directory: Path) -> None:
    del directory
    with source.open("rb", buffering=0) as file:
        while file.read(_READ_BYTES):
            pass


def _parse(source: Path, directory: Path) -> None:
    del directory
    for _ in _batches(source):
        pass


def _variants(splits: Set[str]) -> dict[str, Variant]:
    return {
        "ours": convert,
        "ours_without_near_duplicates": convert_without_near_duplicates,
        "tfds_builder": functools.partial(convert_with_a_tfds_builder, splits),
        "usual_loop": convert_in_the_usual_loop,
        "read_only": _read,
        "parse_only": _parse,
    }


def _timed(variant: Variant, source: Path) -> Callable[[], float]:
    def seconds_into_new_directory() -> float:
        with tempfile.TemporaryDirectory() as directory:
            start = time.perf_counter()
            variant(source, Path(directory))
            return time.perf_counter() - start

    return seconds_into_new_directory


def _warm_up(variants: Mapping[str, Variant], source: Path) -> None:
    """Imports all there is to import: TFDS loads parts of itself when they are first used."""
    with tempfile.TemporaryDirectory() as directory:
        few = cut_rows(source, Path(directory) / "few.csv", _WARM_UP_ROWS)
        for variant in variants.values():
            _timed(variant, few)()


# The source.


def cut_rows(source: Path, target: Path, rows: int) -> Path:
    """Copies the header and `rows` rows from all over the file, and returns `target`."""
    total = _count_rows(source)
    chosen = {total * index // rows for index in range(rows)}
    with source.open("rb") as whole, target.open("wb") as cut:
        cut.write(next(whole))
        cut.writelines(line for number, line in enumerate(whole) if number in chosen)
    return target


def _count_rows(source: Path) -> int:
    return sum(part.count_rows() for part in KaggleCsv((source,)).parts(1))


def _splits(source: Path) -> Set[str]:
    return {split for batch in _batches(source) for split in batch.splits}


def _batches(source: Path) -> Iterator[RawBatch]:
    for part in KaggleCsv((source,)).parts(1):
        yield from part.batches(0)


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    source = content["source"]
    print(f"{source['rows']} rows, {source['bytes'] / 1e6:.1f} MB")
    measure.print_table(
        ["variant", "seconds [min, max]", "MB/s [min, max]"],
        [
            [
                name,
                measure.spread(variant["seconds"], digits=3),
                measure.spread(variant["mb_per_second"]),
            ]
            for name, variant in content["variants"].items()
        ],
    )
    print()
    for name in _COMPARED:
        print(f"ours against {name}: {measure.times_as_fast(content[f'{name}_to_ours'])}")
    if memory := content["memory"]:
        print(
            f"memory of ours above the imports', MB: {measure.megabytes(memory['risen_bytes'])} "
            f"(from {measure.megabytes(memory['before_bytes'])} to "
            f"{measure.megabytes(memory['peak_bytes'])})\n"
        )


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
