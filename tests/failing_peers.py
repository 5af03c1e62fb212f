"""Stand-ins for what `pipeline_benchmark` runs in processes of their own, which fail in every way.

Without TensorFlow, so that a process starts at once.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

RUNS = "numpy_permutation"
CRASHES = "py_dataset"
EXITS = "fit_numpy"
HANGS = "tfds"
FAILS_LATER = "tfds_cached"
NOT_INSTALLED = "grain_memory"


def check(name: str, *arguments: Any) -> None:
    """Of some variants alone, does what takes a process or its time."""
    if name == CRASHES:
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == EXITS:
        sys.exit("no such device")
    if name == HANGS:
        time.sleep(600)
    if name == NOT_INSTALLED:
        raise ImportError("no grain")


def measured(
    name: str, data_dir: Path, directory: Path, batch_size: int, seconds: float
) -> dict[str, Any]:
    """Of one variant, does its work once."""
    measured_before = directory / f"measured_{name}"
    if name == FAILS_LATER and measured_before.exists():
        raise RuntimeError("out of memory")
    measured_before.touch()
    return {"dtype": "uint8", "first_batch_seconds": 0.5, "images_per_second": 10.0}
