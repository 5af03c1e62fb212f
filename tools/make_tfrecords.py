"""Converts FER2013's CSV into sharded TFRecords with a manifest, readable by tfds.load too.

    python -m tools.make_tfrecords --csv=fer2013.csv --output_dir=data

writes data/fer2013/1.0.0/: complete or not at all.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from tqdm import tqdm

from fer_tfdata import command_line
from fer_tfdata.sources import RawBatch, read_kaggle_csv

if TYPE_CHECKING:
    from fer_tfdata.records import WriteReport


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "csv",
        None,
        "The Kaggle CSV: columns emotion, pixels, Usage in any order.",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "A TFDS data directory; fer2013/1.0.0/ is written into it.",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "num_shards", 0, "Shards a split; 0 chooses by size.", flag_values=flag_values
    )
    flags.DEFINE_enum(
        "on_bad_row",
        "error",
        ["error", "skip"],
        "What to do with a row that is not as it must be: stop, or leave it out and list it in "
        "the manifest.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "overwrite",
        False,
        "Replaces the data set that stands there, if this program wrote it.",
        flag_values=flag_values,
    )


def main(argv: Sequence[str]) -> None:
    """Converts, and prints what was written, found and left out."""
    del argv
    values = flags.FLAGS
    csv = Path(values.csv)
    command_line.import_tensorflow_quietly()
    from fer_tfdata import records

    report = records.write_dataset(
        _with_progress(read_kaggle_csv(csv, on_bad_row=values.on_bad_row)),
        Path(values.output_dir),
        source=csv,
        num_shards=values.num_shards,
        overwrite=values.overwrite,
    )
    _print_report(report)


def _with_progress(batches: Iterator[RawBatch]) -> Iterator[RawBatch]:
    with tqdm(unit=" rows", desc="converting", disable=not sys.stderr.isatty()) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.rows))


def _print_report(report: "WriteReport") -> None:
    print(report.directory)
    audit = report.manifest["audit"]
    for name, split in report.manifest["splits"].items():
        counts = ", ".join(f"{n} {count}" for n, count in split["per_expression"].items())
        print(f"  {name}: {split['examples']} images in {len(split['shards'])} shards ({counts})")
        print(f"    {audit['duplicates'][name]} repeat an earlier image of the split", end="")
        leaked = audit["leaked_rows"].get(name)
        print("" if leaked is None else f", {len(leaked)} also stand in train")
    print(f"  {audit['conflicting_labels']} images stand there with more than one label")
    if report.bad_rows:
        print(f"  {len(report.bad_rows)} rows were left out:")
        for bad in report.bad_rows[:10]:
            print(f"    line {bad.line}: {bad.reason}")
        if len(report.bad_rows) > 10:
            print(f"    ... all of them in {report.directory / 'manifest.json'}")


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
