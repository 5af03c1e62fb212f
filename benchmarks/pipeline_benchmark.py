"""Races the ways to feed a model: how many shuffled images a second each gives, without a model.

    python -m benchmarks.pipeline_benchmark --data_dir=data --chart_png=race.png

What is measured, over the images of the training split, from the page cache:

{variants}

Each is built, gives its first batch (timed apart), and is then iterated over from Python for
--seconds, in a process of its own.  The time to the first batch counts from building on: what a way
imports is imported before, and TensorFlow has read the split once, for those that are given arrays.
Peers that are not installed (extra: peers), that fail, crash or hang are left out, which is said.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from absl import flags

from benchmarks import measure
from benchmarks.pipeline_peers import PEERS, Inputs, Peer, open_inputs, write_image_files
from fer_tfdata import command_line
from fer_tfdata.errors import InputError

NAME: Final = "pipeline_benchmark"

_CEILING: Final = "numpy_permutation"
_OURS: Final = ("ours_in_memory", "ours_streaming")
_DALI: Final = "dali_records"
_PACKAGES: Final = ("array-record", "grain", "nvidia-dali-cuda120", "torch")

# A way that has not come so far by then, beyond --seconds, hangs.
_LIMIT_SECONDS: Final = 600.0

# Images a second, and the share of the ceiling, that the pipeline is to reach in memory with
# batches of at least so many images.
_IN_MEMORY_TARGETS: Final = ((1024, 2_500_000, 0.50), (1, 1_000_000, 0.25))
_STREAMING_TARGET: Final = 200_000
_FIRST_BATCH_TARGET: Final = 1.0  # seconds

Result = TypeVar("Result")

# TensorFlow is imported where it is used, so that --help need not wait for it.


def description() -> str:
    """Returns the head of `--help`."""
    width = max(map(len, PEERS))
    lines = (f"  {name:{width}}  {peer.note}" for name, peer in PEERS.items())
    return (__doc__ or "").replace("{variants}", "\n".join(lines))


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    measure.define_feeding_flags(flag_values, seconds=3.0)
    flags.DEFINE_integer(
        "batch_size", 256, "Images a batch.", lower_bound=1, flag_values=flag_values
    )
    flags.DEFINE_list(
        "variants",
        list(PEERS),
        "Which are measured.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "chart_png", None, "Also draws a bar chart into this file.", flag_values=flag_values
    )
    measure.define_flags(flag_values, repeats=5)


def main(argv: Sequence[str]) -> None:
    """Measures, and prints a table, the targets and the JSON."""
    del argv
    values = flags.FLAGS
    names = _known(values.variants)
    command_line.import_tensorflow_quietly()
    content = measure.provenance(NAME, repeats=values.repeats)
    content["versions"] |= _peers_versions()
    content |= race(
        Path(values.data_dir),
        names,
        repeats=values.repeats,
        seconds=values.seconds,
        batch_size=values.batch_size,
    )
    _print_report(content)
    if values.chart_png:
        draw_chart(content, Path(values.chart_png))
    measure.publish(content, values.output_json)


def _known(names: Sequence[str]) -> list[str]:
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        raise InputError(
            f"--variants: expected some of {', '.join(PEERS)}; received {', '.join(unknown)}"
        )
    return [name for name in PEERS if name in names]


def race(
    data_dir: Path, names: Sequence[str], *, repeats: int, seconds: float, batch_size: int
) -> dict[str, Any]:
    """Returns images a second and seconds to the first batch of each way to feed the split.

    What does not run, or not every time, is in `skipped` alone, with the reason.

    Raises:
      InputError: the data are none that all the ways can read, a batch is larger than the split, or
        no way runs.
    """
    from fer_tfdata import pipeline

    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / "inputs"
        inputs = open_inputs(data_dir, directory, batch_size)
        pipeline.steps_per_epoch(inputs.split, batch_size)  # refuses a batch larger than the split
        directory.mkdir()
        if any(PEERS[name].image_files for name in names):
            write_image_files(inputs)
        # Each in a process of its own: threads that stay, and what a library does to the
        # allocation of memory, are no cost of the next one's.
        skipped: dict[str, str] = {}

        def attempt(name: str, function: Callable[..., Result], *arguments: Any) -> Result | None:
            """Returns what the function returns of a variant, None once that was skipped."""
            if name in skipped:
                return None
            try:
                return measure.in_new_process_within(
                    _LIMIT_SECONDS + seconds,
                    function,
                    name,
                    data_dir,
                    directory,
                    batch_size,
                    *arguments,
                )
            # Whatever a library raises where it does not suit the machine, or the process's end.
            except (Exception, SystemExit) as error:
                skipped[name] = _reason(error)
                return None

        for name in names:
            attempt(name, check)
        results = measure.interleaved(
            {name: functools.partial(attempt, name, measured, seconds) for name in names},
            repeats,
        )
    if len(skipped) == len(names):
        reasons = "; ".join(f"{name} {_in_a_line(reason)}" for name, reason in skipped.items())
        raise InputError(f"--variants: expected one at least that runs here, received {reasons}")
    return {
        "images": inputs.split.examples,
        "image_shape": inputs.split.schema.image_shape,
        "batch_size": batch_size,
        "seconds": seconds,
        "skipped": skipped,
        "variants": _describe({name: results[name] for name in names if name not in skipped}),
    }


def _reason(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"not installed (extra: peers): {error}"
    return f"fails: {type(error).__name__}: {error}"


def check(name: str, data_dir: Path, directory: Path, batch_size: int) -> None:
    """Prepares a variant and takes its first batch."""
    peer, inputs = _start(name, data_dir, directory, batch_size)
    if peer.prepare is not None:
        peer.prepare(inputs)
    with contextlib.closing(_closable(peer.feed(inputs))) as feed:
        next(feed)


def measured(
    name: str, data_dir: Path, directory: Path, batch_size: int, seconds: float
) -> dict[str, Any]:
    """Measures a variant in this process, which is to be a new one."""
    peer, inputs = _start(name, data_dir, directory, batch_size)
    return feed_speed(peer.feed, inputs, seconds)


def _start(name: str, data_dir: Path, directory: Path, batch_size: int) -> tuple[Peer, Inputs]:
    """Loads what a variant needs: its modules and the split."""
    _quiet()
    inputs = open_inputs(data_dir, directory, batch_size)
    for module in PEERS[name].modules:
        importlib.import_module(module)
    return PEERS[name], inputs


def _quiet() -> None:
    logging.disable(logging.WARNING)  # that the pipeline streams is what is asked for
    command_line.import_tensorflow_quietly()


def feed_speed(
    start: Callable[[Inputs], Iterator[Any]], inputs: Inputs, seconds: float
) -> dict[str, Any]:
    """Starts a feed, takes its first batch, and counts the images of at least one batch more."""
    begin = time.perf_counter()
    with contextlib.closing(_closable(start(inputs))) as feed:
        first = next(feed)[0]
        first_batch_seconds = time.perf_counter() - begin
        speed = measure.images_per_second(lambda: next(feed)[0].shape[0], seconds)
    return {
        "dtype": str(first.dtype).removeprefix("torch.").removeprefix("<dtype: '").rstrip("'>"),
        "first_batch_seconds": first_batch_seconds,
        "images_per_second": speed,
    }


def _closable(feed: Iterator[Any]) -> Any:
    """Returns the feed as something with `close()`; iterators of tf.data end with their garbage."""
    return feed if hasattr(feed, "close") else (batch for batch in feed)


def _peers_versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


# Reporting.


def _describe(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    speeds = {name: [r["images_per_second"] for r in raw] for name, raw in results.items()}
    variants = {}
    for name, raw in results.items():
        variants[name] = {
            "note": PEERS[name].note,
            "dtype": raw[0]["dtype"],
            "images_per_second": measure.summary(speeds[name]),
            "first_batch_seconds": measure.summary([r["first_batch_seconds"] for r in raw]),
            **{
                f"{ours}_to_this": measure.ratios(speeds[ours], speeds[name])
                for ours in _OURS
                if ours in speeds and not name.startswith("ours")
            },
        }
    return variants


def targets(content: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Returns what the pipeline is to reach of what was measured: what, the least, the received.

    Seconds are negative, so that more is better everywhere.
    """
    variants = content["variants"]
    found: list[tuple[str, float, float]] = []
    if (ours := variants.get("ours_in_memory")) is not None:
        speed = ours["images_per_second"]["median"]
        for batch_size, least, share in _IN_MEMORY_TARGETS:
            if content["batch_size"] >= batch_size:
                found.append(("in memory, images/s", least, speed))
                if _CEILING in variants:
                    ratio = variants[_CEILING]["ours_in_memory_to_this"]["median"]
                    found.append((f"in memory, of {_CEILING}", share, ratio))
                break
        first = ours["first_batch_seconds"]["median"]
        found.append(("in memory, seconds to the first batch", -_FIRST_BATCH_TARGET, -first))
    if (ours := variants.get("ours_streaming")) is not None:
        found.append(
            ("streaming, images/s", _STREAMING_TARGET, ours["images_per_second"]["median"])
        )
        if _DALI in variants:
            ratio = variants[_DALI]["ours_streaming_to_this"]["median"]
            found.append((f"streaming, against {_DALI}", 1.0, ratio))
        first = ours["first_batch_seconds"]["median"]
        found.append(("streaming, seconds to the first batch", -_FIRST_BATCH_TARGET, -first))
    return found


def _print_report(content: Mapping[str, Any]) -> None:
    measure.print_machine(content)
    print(f"{content['images']} images, batches of {content['batch_size']}")
    measure.print_table(
        [
            "variant",
            "dtype",
            "images/s [min, max]",
            "first batch s [min, max]",
            "ours in memory against it",
            "ours streaming against it",
        ],
        [
            [
                name,
                variant["dtype"],
                measure.spread(variant["images_per_second"]),
                measure.spread(variant["first_batch_seconds"], digits=3),
                *(
                    measure.times_as_fast(variant[f"{ours}_to_this"])
                    if f"{ours}_to_this" in variant
                    else ""
                    for ours in _OURS
                ),
            ]
            for name, variant in content["variants"].items()
        ],
    )
    for name, variant in content["variants"].items():
        print(f"  {name}: {variant['note']}")
    for name, reason in content["skipped"].items():
        print(f"  {name}: skipped, {_in_a_line(reason)}")
    if "memory_bandwidth" in content["variants"]:
        copied = content["variants"]["memory_bandwidth"]["images_per_second"]["median"]
        num_bytes = copied * math.prod(content["image_shape"])
        print(f"  memory_bandwidth: {num_bytes / 1e9:.1f} GB/s copied")
    for what, least, received in targets(content):
        verdict = "MET" if received >= least else "MISSED"
        print(f"target {what}: {abs(least):,.2f}; received {abs(received):,.2f}: {verdict}")
    print()


def _in_a_line(reason: str) -> str:
    return " ".join(reason.split())[:200]


def draw_chart(content: Mapping[str, Any], path: Path) -> None:
    """Draws the speeds as bars on a logarithmic axis, with the spread of the repeats."""
    import matplotlib.figure

    from fer_tfdata import atomic

    speeds = {
        name: variant["images_per_second"]
        for name, variant in sorted(
            content["variants"].items(), key=lambda item: item[1]["images_per_second"]["median"]
        )
    }
    medians = np.array([speed["median"] for speed in speeds.values()])
    spread = np.array(
        [
            [speed["median"] - speed["min"] for speed in speeds.values()],
            [speed["max"] - speed["median"] for speed in speeds.values()],
        ]
    )
    figure = matplotlib.figure.Figure(figsize=(9, 0.38 * len(speeds) + 1.6), layout="constrained")
    axes = figure.subplots()
    colors = ["#c1440e" if name.startswith("ours") else "#9aa5b1" for name in speeds]
    axes.barh(list(speeds), medians, xerr=spread, color=colors, ecolor="#333333", capsize=2)
    for place, (median, most) in enumerate(zip(medians, medians + spread[1], strict=True)):
        axes.text(most * 1.08, place, f"{median:,.0f}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(medians.min() / 2, (medians + spread[1]).max() * 4)
    height, width, _ = content["image_shape"]
    axes.set_xlabel(f"images a second, {height}x{width} (logarithmic; median, least and greatest)")
    machine = content["hardware"]
    axes.set_title(
        f"Feeding batches of {content['batch_size']}, shuffled\n"
        f"{machine['cpu']}, {machine['cores']} cores",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=140)


def run() -> None:
    """The command."""
    command_line.run(main, define_flags, description())


if __name__ == "__main__":
    run()
