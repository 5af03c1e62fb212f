"""Measures the conversion of the Kaggle CSV into TFRecords.

    python -m benchmarks.conversion_benchmark --csv=fer2013.csv

What is measured, from the page cache and after all imports:

  ours        sources.read_kaggle_csv into records.write_dataset: checked rows, audit, checksums,
              manifest, every file synced to the disk.
  usual_loop  csv.reader, int() for each pixel, one tf.train.Example a row, one TFRecordWriter a
              split; no checks, no audit, no sync.
  read_only   the file's bytes, nothing done with them.
  parse_only  sources.read_kaggle_csv alone.

Memory: a process of its own imports TensorFlow, TFDS and this package, converts, and reports how
far its resident memory rose above what it was between the two.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from absl import flags

from benchmarks import measure
from fer_tfdata import command_line
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import SPLIT_OF_USAGE
from fer_tfdata.sources import read_kaggle_csv

NAME: Final = "conversion_benchmark"

_ROOT: Final = Path(__file__).resolve().parent.parent
_READ_BYTES: Final = 1 << 20
_WARM_UP_ROWS: Final = 20

# TensorFlow is imported where it is used, so that --help need not wait for it.


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "csv", None, "The Kaggle CSV to convert.", required=True, flag_values=flag_values
    )
    flags.DEFINE_integer(
        "rows",
        0,
        "Converts the first so many rows only; 0 is all of them.",
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
    content = measure.provenance(NAME, repeats=values.repeats)
    with tempfile.TemporaryDirectory() as temporary:
        cut = Path(temporary) / "rows.csv"
        source = cut_rows(path, cut, values.rows) if values.rows else path
        content |= measure_conversion(source, values.repeats)
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_conversion(source: Path, repeats: int) -> dict[str, Any]:
    """Returns seconds and MB/s of each variant, the ratios and the memory."""
    _warm_up(source)
    seconds = measure.interleaved(
        {
            "ours": lambda: _seconds_into_new_directory(convert, source),
            "usual_loop": lambda: _seconds_into_new_directory(convert_in_the_usual_loop, source),
            "read_only": lambda: _seconds_into_new_directory(_read, source),
            "parse_only": lambda: _seconds_into_new_directory(_parse, source),
        },
        repeats,
    )
    num_bytes = source.stat().st_size
    return {
        "source": {"bytes": num_bytes, "rows": sum(len(b.rows) for b in read_kaggle_csv(source))},
        "variants": {
            name: {
                "seconds": measure.summary(raw),
                "mb_per_second": measure.summary([num_bytes / 1e6 / value for value in raw]),
            }
            for name, raw in seconds.items()
        },
        "usual_loop_to_ours": measure.ratios(seconds["usual_loop"], seconds["ours"]),
        "memory": _summarize_memory([_memory_of_a_child(source) for _ in range(repeats)]),
    }


# The variants: each takes the source and an empty directory.


def convert(source: Path, directory: Path) -> None:
    """Converts as tools/make_tfrecords does."""
    from fer_tfdata import records

    records.write_dataset(read_kaggle_csv(source), directory, source=source)


def convert_in_the_usual_loop(source: Path, directory: Path) -> None:
    """Converts as most notebooks do: a row at a time, and each pixel an int()."""
    import numpy as np
    import tensorflow as tf

    writers = {
        usage: tf.io.TFRecordWriter(str(directory / f"{split}.tfrecord"))
        for usage, split in SPLIT_OF_USAGE.items()
    }
    with source.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
        for row in rows:
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
    for _ in read_kaggle_csv(source):
        pass


def _seconds_into_new_directory(variant: Callable[[Path, Path], None], source: Path) -> float:
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        variant(source, Path(directory))
        return time.perf_counter() - start


def _warm_up(source: Path) -> None:
    """Imports all there is to import: TFDS loads parts of itself when they are first used."""
    with tempfile.TemporaryDirectory() as directory:
        few = cut_rows(source, Path(directory) / "few.csv", _WARM_UP_ROWS)
        for name, variant in (("ours", convert), ("usual_loop", convert_in_the_usual_loop)):
            output = Path(directory) / name
            output.mkdir()
            variant(few, output)


def cut_rows(source: Path, target: Path, rows: int) -> Path:
    """Copies the header and the first `rows` rows, and returns `target`."""
    with source.open("rb") as whole, target.open("wb") as cut:
        for line, _ in zip(whole, range(rows + 1), strict=False):
            cut.write(line)
    return target


# Memory.


def print_memory_of_a_conversion(source: str) -> None:
    """Converts, and prints as JSON the resident memory before it and at its peak, in bytes.

    The kernel's own high-water mark of this process is read, after it was set back to the memory
    in use when the imports were done.  `resource.getrusage` would not do: on Linux its maximum
    starts at what the process that started this one had.
    """
    command_line.import_tensorflow_quietly()
    import tensorflow_datasets  # noqa: F401

    from fer_tfdata import records  # noqa: F401

    before = _own_memory("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        reset = True
    except OSError:  # some sandboxes; then the peak of the imports counts where it is higher
        reset = False
    with tempfile.TemporaryDirectory() as directory:
        convert(Path(source), Path(directory))
    peak = _own_memory("VmHWM")
    print(json.dumps({"before_bytes": before, "peak_bytes": peak, "import_peak_excluded": reset}))


def _own_memory(entry: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith(entry))
    return int(kilobytes) * 1024


def _memory_of_a_child(source: Path) -> dict[str, Any] | None:
    """Returns what a new process measures about itself; None where the kernel does not tell."""
    if not Path("/proc/self/status").exists():
        return None
    code = f"from benchmarks import {NAME}; {NAME}.print_memory_of_a_conversion({{!r}})"
    child = subprocess.run(
        [sys.executable, "-c", code.format(str(source.resolve()))],
        cwd=_ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    measured: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return measured


def _summarize_memory(children: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    measured = [child for child in children if child is not None]
    if not measured:
        return None
    return {
        "what": "a process of its own: VmRSS after importing TensorFlow, TFDS and fer_tfdata, and "
        "VmHWM at the end of the conversion",
        "import_peak_excluded": all(child["import_peak_excluded"] for child in measured),
        "before_bytes": measure.summary([child["before_bytes"] for child in measured]),
        "peak_bytes": measure.summary([child["peak_bytes"] for child in measured]),
        "risen_bytes": measure.summary(
            [child["peak_bytes"] - child["before_bytes"] for child in measured]
        ),
    }


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
    print(f"\nours against the usual loop: {measure.times_as_fast(content['usual_loop_to_ours'])}")
    if memory := content["memory"]:
        print(
            f"memory of ours above the imports', MB: {_megabytes(memory['risen_bytes'])} "
            f"(from {_megabytes(memory['before_bytes'])} to {_megabytes(memory['peak_bytes'])})\n"
        )


def _megabytes(num_bytes: Mapping[str, Any]) -> str:
    return measure.spread(num_bytes, digits=1, factor=1e-6)


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
