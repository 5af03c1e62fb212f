"""Which processor this is, and which of its instructions Linux names."""

import platform
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")


def name() -> str:
    """Returns what the maker calls the processor."""
    return _first_value("model name") or platform.processor()


def instructions() -> frozenset[str]:
    """Returns Linux's names of its instruction sets, `avx2` for instance; none elsewhere."""
    return frozenset(_first_value("flags").split())


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
