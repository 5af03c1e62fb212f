"""What the benchmarks share: interleaved repeats, the machine's description, the report.

A figure without its circumstances says nothing, so a report holds every repeat, and the command,
the commit, the hardware and the versions that it was measured with.
"""

import datetime
import gc
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from absl import flags
from tqdm import tqdm

from fer_tfdata import atomic

_ROOT: Final = Path(__file__).resolve().parent.parent
_PACKAGES: Final = ("tensorflow", "keras", "numpy", "tensorflow-datasets")

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
        "git_commit": git_commit(),
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
    print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB, "
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


def times_as_fast(values: Mapping[str, Any]) -> str:
    """Returns a ratio of speeds with its spread, and says so where it is a loss."""
    text = f"{spread(values, digits=2)}x"
    return f"{text} SLOWER" if values["median"] < 1 else text


# The machine.


def hardware() -> dict[str, Any]:
    """Returns the processor, the cores this process may use, the memory and the GPUs."""
    return {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that the speed hangs on."""
    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **installed}


def git_commit() -> str | None:
    """Returns the checkout's commit, with `-dirty` where files differ from it; None without git.

    Results do not count: one benchmark's must not make the next one's commit look uncertain.
    """
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git(
            "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> list[str]:
    import tensorflow as tf

    return [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
