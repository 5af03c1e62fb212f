"""Measures how the pipeline's speed hangs on the batch size, the data's size and the cores.

    python -m benchmarks.pipeline_scaling --data_dir=data

What is measured, each in a process of its own, fetched within a TensorFlow graph as `model.fit`
does, over the images of the training split, from the page cache:

  *_batch_N   batches of N images.
  *_Nx        the split, repeated N times on the disk: FER2013's size and multiples of it.
  *_N_cores   on so many of the processor's cores; on Linux alone, which keeps a process to them.

  memory_*    pipeline.train_dataset, the images held in memory, however many.
  streaming_* pipeline.train_dataset with no memory budget, from the shards.
  numpy_*     NumPy fancy indexing of arrays in memory with a permutation: the ceiling.

The time to the first batch is that of building and of a first `next`, as in pipeline_benchmark, but
of a process that has read nothing yet; NumPy's loads its arrays first.  Memory is how far the
process's resident memory rose above what the imports take, at its peak and without mapped files.
The largest multiple needs its size on the disk, and twice that in memory.
"""

import collections
import dataclasses
import functools
import itertools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import joblib
from absl import flags

from benchmarks import measure
from benchmarks.pipeline_peers import permuted_batches
from fer_tfdata import command_line
from fer_tfdata.errors import InputError

NAME: Final = "pipeline_scaling"

_SEED: Final = 0
_BATCH_SIZES: Final = (32, 64, 128, 256, 512, 1024, 2048)
_FACTORS: Final = (1, 10, 100)
_BATCH_SIZE: Final = 256  # where that is not what is varied
_WAYS: Final = ("memory", "streaming")
_UNBOUNDED: Final = 1 << 60

_MEMORY: Final = (
    "a process of its own: VmRSS after importing TensorFlow and fer_tfdata, and VmHWM after the "
    "last batch; anonymous: RssAnon, sampled"
)

# TensorFlow is imported where it is used, so that --help need not wait for it.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure.

    Attributes:
      way: `memory`, `streaming` or `numpy`.
      batch_size: images a batch.
      factor: how many times the split is repeated.
      cores: how many may be used; None for all there are.
    """

    way: str
    batch_size: int
    factor: int = 1
    cores: int | None = None


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    measure.define_feeding_flags(flag_values, seconds=2.0)
    flags.DEFINE_multi_integer(
        "batch_size",
        list(_BATCH_SIZES),
        "Images a batch",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_multi_integer(
        "factor",
        list(_FACTORS),
        "How many times the split is repeated",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_multi_integer(
        "cores",
        _usual_cores(),
        "How many cores are used",
        lower_bound=1,
        flag_values=flag_values,
    )
    measure.define_flags(flag_values, repeats=3)


def _usual_cores() -> list[int]:
    """Returns the numbers of cores that can be measured here."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    return [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= joblib.cpu_count()]


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table and the JSON."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    from fer_tfdata import records

    data_dir = Path(values.data_dir)
    split = records.open_split(data_dir, "train")
    content = measure.provenance(NAME, repeats=values.repeats)
    content |= {"images": split.examples}
    content |= measure_scaling(
        data_dir,
        batch_sizes=sorted(set(values.batch_size)),
        factors=sorted(set(values.factor)),
        cores=sorted(set(values.cores)),
        seconds=values.seconds,
        repeats=values.repeats,
    )
    _print_report(content)
    measure.publish(content, values.output_json)


def measure_scaling(
    data_dir: Path,
    *,
    batch_sizes: Sequence[int],
    factors: Sequence[int],
    cores: Sequence[int],
    seconds: float,
    repeats: int,
) -> dict[str, Any]:
    """Returns images a second, seconds to the first batch, and memory of each case.

    Raises:
      InputError: there are not so many cores, the system does not keep a process to some of them,
        or the disk has not the room.
    """
    _check_cores(cores)
    cases = _cases(batch_sizes, factors, cores)
    with tempfile.TemporaryDirectory() as temporary:
        copies = Path(temporary)
        copy_shards(data_dir, max(factors), copies)
        results = measure.interleaved(
            {
                # In a process that imports TensorFlow only once the cores are chosen.
                name: functools.partial(
                    measure.in_new_process, measured, data_dir, copies, case, seconds
                )
                for name, case in cases.items()
            },
            repeats,
        )
    return {
        "seconds": seconds,
        "variants": {
            name: {
                **dataclasses.asdict(cases[name]),
                "images_per_second": measure.summary([r["images_per_second"] for r in raw]),
                "first_batch_seconds": measure.summary([r["first_batch_seconds"] for r in raw]),
                "memory": measure.summary_of_memory([r["memory"] for r in raw], what=_MEMORY),
            }
            for name, raw in results.items()
        },
    }


def _check_cores(cores: Sequence[int]) -> None:
    if not cores:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise InputError(
            f"--cores: expected Linux, which keeps a process to some of the cores, received "
            f"{max(cores)} on another system; leave out --cores, or run this benchmark on Linux"
        )
    if max(cores) > joblib.cpu_count():
        raise InputError(
            f"--cores: expected at most the {joblib.cpu_count()} that this process may use, "
            f"received {max(cores)}; name fewer"
        )


def _cases(
    batch_sizes: Sequence[int], factors: Sequence[int], cores: Sequence[int]
) -> dict[str, Case]:
    usual = min(_BATCH_SIZE, max(batch_sizes))
    return {
        **{
            f"{way}_batch_{size}": Case(way=way, batch_size=size)
            for size in batch_sizes
            for way in (*_WAYS, "numpy")
        },
        **{
            f"{way}_{factor}x": Case(way=way, batch_size=usual, factor=factor)
            for factor in factors
            for way in _WAYS
        },
        **{
            f"{way}_{count}_cores": Case(way=way, batch_size=usual, cores=count)
            for count in cores
            for way in _WAYS
        },
    }


def copy_shards(data_dir: Path, factor: int, directory: Path) -> None:
    """Copies the training split's shards so many times.

    Raises:
      InputError: the disk has not the room.
    """
    from fer_tfdata import records

    split = records.open_split(data_dir, "train")
    needed = sum(shard.bytes for shard in split.shards) * factor
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise InputError(
            f"{directory}: expected {needed / 1e9:.1f} GB of free disk for the factor {factor}, "
            f"found {free / 1e9:.1f}; choose a smaller --factor or another TMPDIR"
        )
    for number in range(factor):
        for shard in split.shards:
            shutil.copyfile(split.directory / shard.file, directory / _copy_name(number, shard))


def repeated_split(data_dir: Path, factor: int, copies: Path) -> Any:
    """Returns the training split so many times over, as `copy_shards` has copied it."""
    from fer_tfdata import records

    split = records.open_split(data_dir, "train")
    return dataclasses.replace(
        split,
        directory=copies,
        examples=split.examples * factor,
        shards=[
            dataclasses.replace(shard, file=_copy_name(number, shard))
            for number in range(factor)
            for shard in split.shards
        ],
    )


def _copy_name(number: int, shard: Any) -> str:
    return f"{number:03d}-{shard.file}"


def measured(data_dir: Path, copies: Path, case: Case, seconds: float) -> dict[str, Any]:
    """Measures one case in this process, which is to be a new one."""
    if case.cores is not None:  # before TensorFlow counts them
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: case.cores])
    logging.disable(logging.WARNING)  # that it streams is what is asked for
    command_line.import_tensorflow_quietly()
    from fer_tfdata import pipeline  # noqa: F401  # what the imports take is no cost of the case

    split = repeated_split(data_dir, case.factor, copies)
    speed, memory = measure.memory_of(lambda: _speed(split, case, seconds))
    return {**speed, "memory": memory}


def _speed(split: Any, case: Case, seconds: float) -> dict[str, Any]:
    start = time.perf_counter()
    batches = _batches(split, case)
    next(batches)
    first_batch_seconds = time.perf_counter() - start
    fetch = _fetching_arrays(batches) if case.way == "numpy" else measure.fetching(batches)
    return {
        "first_batch_seconds": first_batch_seconds,
        "images_per_second": measure.fetching_speed(fetch, case.batch_size, seconds),
    }


def _batches(split: Any, case: Case) -> Iterator[Any]:
    from fer_tfdata import pipeline, records

    if case.way == "numpy":
        arrays = records.load_split(split, ["image", "label"])
        return permuted_batches(arrays["image"], arrays["label"], case.batch_size)
    dataset = pipeline.train_dataset(
        split,
        batch_size=case.batch_size,
        seed=_SEED,
        memory_budget_bytes=_UNBOUNDED if case.way == "memory" else 0,
    )
    return iter(dataset)


def _fetching_arrays(batches: Iterator[Any]) -> Callable[[int], None]:
    return lambda count: collections.deque(itertools.islice(batches, count), maxlen=0) and None


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    print(f"{content['images']} images, batches of at most {_BATCH_SIZE} where not said otherwise")
    measure.print_table(
        ["variant", "images/s [min, max]", "first batch s [min, max]", "memory MB [min, max]"],
        [
            [
                name,
                measure.spread(variant["images_per_second"]),
                measure.spread(variant["first_batch_seconds"], digits=3),
                measure.megabytes(variant["memory"]["risen_anonymous_bytes"])
                if variant["memory"]
                else "unknown",
            ]
            for name, variant in content["variants"].items()
        ],
    )
    print()


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()
