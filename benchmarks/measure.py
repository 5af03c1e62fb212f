"""What the benchmarks share: interleaved repeats, peak memory, the machine, the report.

A figure without its circumstances says nothing, so a report holds every repeat, and the command,
the commit, the hardware and the versions that it was measured with.
"""

import contextlib
import dataclasses
import datetime
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import shlex
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import joblib
from absl import flags
from tqdm import tqdm

from fer_tfdata import atomic, checkout, command_line, processor
from fer_tfdata.errors import InputError
from fer_tfdata.sources import Source

_PACKAGES: Final = ("tensorflow", "keras", "numpy", "tensorflow-datasets")
# The sets that products of matrices are faster with; two processors of one name may differ in them.
_INSTRUCTIONS: Final = frozenset(
    {"avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"}
)

_STATUS: Final = Path("/proc/self/status")
_SECONDS_BETWEEN_SAMPLES: Final = 0.02

_FETCHED_AT_ONCE: Final = 8_192  # images

# How the memory of `measured_conversion` was measured.
CONVERSION_MEMORY: Final = (
    "a process of its own: VmRSS after importing TensorFlow, TFDS and fer_tfdata, and VmHWM at the "
    "end of the conversion; anonymous: RssAnon, sampled"
)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def define_flags(flag_values: flags.FlagValues, *, repeats: int) -> None:
    """Adds the flags that every benchmark has."""
    flags.DEFINE_integer(
        "repeats",
        repeats,
        "How often each variant is measured.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output_json", None, "Also writes the JSON into this file.", flag_values=flag_values
    )


def define_feeding_flags(flag_values: flags.FlagValues, *, seconds: float) -> None:
    """Adds the flags of the benchmarks that feed images."""
    command_line.define_data_dir(flag_values)
    flags.DEFINE_float(
        "seconds",
        seconds,
        "How long each repeat iterates after its first batch, where no model is trained.",
        lower_bound=0.0,
        flag_values=flag_values,
    )


# Measuring.


def interleaved(
    variants: Mapping[str, Callable[[], Result]], repeats: int
) -> dict[str, list[Result]]:
    """Measures the variants in turn, A B C A B C, and returns each one's results.

    A machine that slows down for a while so slows all of them, and the results of one round can be
    compared pair by pair.
    """
    results: dict[str, list[Result]] = {name: [] for name in variants}
    total = repeats * len(variants)
    with tqdm(total=total, desc="measuring", disable=not sys.stderr.isatty()) as bar:
        for _ in range(repeats):
            for name, measured in variants.items():
                bar.set_postfix_str(name)
                gc.collect()  # what the variant before left is no cost of this one
                results[name].append(measured())
                bar.update()
    return results


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Returns every value, and the median, the least and the greatest of them."""
    return {
        "raw": list(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """Returns the summary of the ratios pair by pair: of what one round of repeats measured."""
    return summary([a / b for a, b in zip(numerators, denominators, strict=True)])


def images_per_second(fetch: Callable[[], int], seconds: float) -> float:
    """Returns the speed of fetching so long, at least once.

    Args:
      fetch: fetches, and returns how many images came.
      seconds: how long.
    """
    images, elapsed = 0, 0.0
    start = time.perf_counter()
    while images == 0 or elapsed < seconds:
        images += fetch()
        elapsed = time.perf_counter() - start
    return images / elapsed


def fetching_speed(fetch: Callable[[int], None], batch_size: int, seconds: float) -> float:
    """Returns the images a second of what `fetching` returned, once its buffers are full."""
    batches = max(1, _FETCHED_AT_ONCE // batch_size)

    def fetch_images() -> int:
        fetch(batches)
        return batches * batch_size

    fetch_images()
    return images_per_second(fetch_images, seconds)


def fetching(iterator: Any) -> Callable[[int], None]:
    """Returns what fetches so many batches of a tf.data iterator within a graph, as `fit` does.

    From Python, each would cost a hundred microseconds of its own.
    """
    import tensorflow as tf

    @tf.function
    def fetch(count: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0, tf.int64)
        for _ in tf.range(count):
            _, labels = next(iterator)
            total += labels[0]
        return total

    def fetch_and_wait(count: int) -> None:
        fetch(tf.constant(count)).numpy()

    fetch_and_wait(1)  # traces the graph
    return fetch_and_wait


@dataclasses.dataclass(frozen=True)
class TrainedEpoch:
    """What an epoch of training took.

    Attributes:
      seconds: of the steps, validation not included.
      seconds_waited: of these, for batches; None where the model does not note it.
    """

    seconds: float
    seconds_waited: float | None


def train_epoch(model: Any, batches: Any, steps: int) -> TrainedEpoch:
    """Trains for two epochs of so many steps, and returns what the second took.

    The first fills the prefetch buffers and carries what `fit` sets up.
    """
    import keras

    class Clock(keras.callbacks.Callback):
        """Takes the time of the last epoch; `fit` has its results on the host by its end."""

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self.waited_before = getattr(model, "seconds_waited", None)
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            self.seconds = time.perf_counter() - self.start

    clock = Clock()
    model.fit(batches, epochs=2, steps_per_epoch=steps, callbacks=[clock], shuffle=False, verbose=0)
    before = clock.waited_before
    return TrainedEpoch(clock.seconds, None if before is None else model.seconds_waited - before)


# Memory.


def in_new_process(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result:
    """Returns what a function returns in a process of its own, which starts anew."""
    return in_new_process_within(None, function, *arguments, **named)


def in_new_process_within(
    seconds: float | None,
    function: Callable[Arguments, Result],
    *arguments: Arguments.args,
    **named: Arguments.kwargs,
) -> Result:
    """Returns what a function returns in a process of its own, which is killed where it is late.

    Raises:
      TimeoutError: it took longer.
      BrokenProcessPool: the process ended before the function did.
      Whatever the function raises.
    """
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=fresh) as process:
        pid = process.submit(os.getpid).result()
        returned = process.submit(function, *arguments, **named)
        done, _ = wait([returned], seconds)
        if not done:
            os.kill(pid, signal.SIGKILL)  # nothing else ends what hangs in C
            raise TimeoutError(f"took longer than {seconds:g} s")
        return returned.result()


def measured_conversion(source: Source) -> dict[str, Any]:
    """Converts a source, and returns what this process needed for it.

    Returns:
      `seconds`; `bytes_written`, those of the data directory; `findings`, how many groups of equal
      images and pairs of near-duplicates the audit has; `memory`, as `memory_of` returns it, with
      TensorFlow, TFDS and the package imported before.
    """
    command_line.import_tensorflow_quietly()
    import tensorflow_datasets  # noqa: F401

    from fer_tfdata import conversion

    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        report, memory = memory_of(lambda: conversion.convert(source, Path(directory)))
        return {
            "seconds": time.perf_counter() - start,
            "bytes_written": sum(file.stat().st_size for file in report.directory.iterdir()),
            "findings": {
                kind: len(report.manifest["audit"][kind])
                for kind in ("duplicate_groups", "near_duplicate_pairs")
            },
            "memory": memory,
        }


def memory_of(work: Callable[[], Result]) -> tuple[Result, dict[str, Any] | None]:
    """Returns what some work returns, and the resident memory before it and at its peak.

    The kernel's own high-water mark of this process is read, after it was set back to the memory
    in use before the work.  `resource.getrusage` would not do: on Linux its maximum starts at what
    the process that started this one had.

    Returns:
      The result, and a dictionary: `before_bytes`; `peak_bytes`; `risen_bytes`, their difference;
      `earlier_peak_excluded`, False where the system (some sandboxes) does not let the mark be set
      back, so that what was done before counts where it took more; `risen_anonymous_bytes`, the
      rise without the pages of mapped files, which the system takes back when it needs them: the
      greatest of samples, since the kernel keeps no mark of it.  None in place of the dictionary
      where the system (any but Linux) does not tell.
    """
    if not _STATUS.exists():
        return work(), None
    before = _own_memory("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        excluded = True
    except OSError:
        excluded = False
    anonymous_before = _own_memory("RssAnon")
    with _greatest_sample(lambda: _own_memory("RssAnon")) as anonymous:
        result = work()
    peak = _own_memory("VmHWM")
    return result, {
        "before_bytes": before,
        "peak_bytes": peak,
        "risen_bytes": peak - before,
        "earlier_peak_excluded": excluded,
        "risen_anonymous_bytes": anonymous["greatest"] - anonymous_before,
    }


def check_memory_is_told() -> None:
    """Refuses to go on where `memory_of` could not tell the memory.

    Raises:
      InputError: the system is another than Linux.
    """
    if not _STATUS.exists():
        raise InputError(
            f"{_STATUS}: expected Linux, which tells a process's memory, found another system; run "
            "this benchmark on Linux"
        )


def resident_bytes() -> int | None:
    """Returns this process's resident memory; None where the system (any but Linux) hides it."""
    return _own_memory("VmRSS") if _STATUS.exists() else None


@contextlib.contextmanager
def _greatest_sample(sample: Callable[[], int]) -> Iterator[Mapping[str, int]]:
    """Yields what holds the `greatest` of samples that another thread takes, the first at once."""
    samples = {"greatest": sample()}
    done = threading.Event()

    def take_samples() -> None:
        while not done.wait(_SECONDS_BETWEEN_SAMPLES):
            samples["greatest"] = max(samples["greatest"], sample())

    thread = threading.Thread(target=take_samples)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def summary_of_memory(
    measured: Sequence[Mapping[str, Any] | None], *, what: str
) -> dict[str, Any] | None:
    """Returns the summary of what `memory_of` measured in each repeat, and what that was."""
    told = [memory for memory in measured if memory is not None]
    if not told:
        return None
    return {
        "what": what,
        "earlier_peak_excluded": all(memory["earlier_peak_excluded"] for memory in told),
        **{
            key: summary([memory[key] for memory in told])
            for key in ("before_bytes", "peak_bytes", "risen_bytes", "risen_anonymous_bytes")
        },
    }


def _own_memory(entry: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(entry))
    return int(kilobytes) * 1024


# Reporting.


def provenance(name: str, *, repeats: int) -> dict[str, Any]:
    """Returns what every report begins with: how, when and with what it was measured.

    To be called before the measuring, so that the load is that of everything else.

    Args:
      name: the benchmark's module.
      repeats: how often each variant is measured.
    """
    return {
        "benchmark": name,
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": checkout.commit(),
        "hardware": hardware(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": versions(),
        "repeats": repeats,
    }


def publish(content: Mapping[str, Any], output_json: str | None) -> None:
    """Prints a report as one line of JSON, and writes it to a file where one is named."""
    if output_json:
        atomic.write_text(Path(output_json), json.dumps(content, indent=2) + "\n")
    print(json.dumps(content))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns, the first one to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def print_machine(content: Mapping[str, Any]) -> None:
    """Prints what a report says about the machine and the versions."""
    machine = content["hardware"]
    instructions = ", ".join(machine["instructions"]) or "no instructions of note"
    onednn = "with" if machine["onednn"] else "without"
    print(
        f"{machine['cpu']} ({instructions}; {onednn} oneDNN), {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.1f} GiB, "
        f"GPU: {', '.join(machine['gpus']) or 'none'}; load before: {content['load_average']}"
    )
    installed = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    print(f"{installed}; {content['repeats']} repeats; commit {content['git_commit']}\n")


def spread(values: Mapping[str, Any], digits: int = 0, factor: float = 1) -> str:
    """Returns the median with the least and the greatest value in brackets."""
    middle, least, most = (
        f"{values[key] * factor:,.{digits}f}" for key in ("median", "min", "max")
    )
    return f"{middle} [{least}, {most}]"


def megabytes(num_bytes: Mapping[str, Any]) -> str:
    """Returns a summary of bytes in MB, as `spread` does."""
    return spread(num_bytes, digits=1, factor=1e-6)


def times_as_fast(values: Mapping[str, Any]) -> str:
    """Returns a ratio of speeds with its spread, and says so where it is a loss."""
    text = f"{spread(values, digits=2)}x"
    return f"{text} SLOWER" if values["median"] < 1 else text


# The machine.


def hardware() -> dict[str, Any]:
    """Returns the processor, the cores this process may use, the memory and the GPUs.

    `onednn` is whether TensorFlow takes oneDNN's kernels.
    """
    return {
        "cpu": processor.name(),
        "instructions": sorted(processor.instructions() & _INSTRUCTIONS),
        "onednn": processor.takes_onednn(),
        "cores": _usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that the speed hangs on."""
    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **installed}


def _usable_cores() -> int:
    return int(joblib.cpu_count())


def _gpus() -> list[str]:
    import tensorflow as tf

    return [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
