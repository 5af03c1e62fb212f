"""Which processor this is, and which kernels TensorFlow takes for it."""

import os
import platform
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")

# With any of these, TensorFlow takes oneDNN's kernels by itself (its port.cc).
_TAKES_ONEDNN: Final = frozenset(
    {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}
)


def name() -> str:
    """Returns what the maker calls the processor, or else what kind it is."""
    return _first_value("model name") or platform.processor() or platform.machine()


def instructions() -> frozenset[str]:
    """Returns Linux's names of its instruction sets, `avx2` for instance; none elsewhere."""
    return frozenset(_first_value("flags").split())


def takes_onednn_by_itself() -> bool:
    """Returns whether TensorFlow takes oneDNN's kernels here where nothing tells it to."""
    return bool(instructions() & _TAKES_ONEDNN)


def takes_onednn() -> bool:
    """Returns whether it does with the environment that this process has."""
    told = {"0": False, "false": False, "1": True, "true": True}
    chosen = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower()
    return told.get(chosen, takes_onednn_by_itself())


def _first_value(entry: str) -> str:
    """Returns what Linux says of the first core, and nothing on other systems."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    values = (
        value.strip()
        for key, _, value in (line.partition(":") for line in lines)
        if key.strip() == entry
    )
    return next(values, "")
