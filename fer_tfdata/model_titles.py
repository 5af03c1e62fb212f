"""What models are called in a report and its folders: short, and different from each other."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fer_tfdata.errors import InputError
from fer_tfdata.run_directory import run_of

ENSEMBLE: Final = "ensemble"
"""What the average of several models is called."""


def of(names: Sequence[str]) -> dict[str, str]:
    """Returns each model's title, the end of its path, as long as it takes to tell them apart.

    Titles are names of folders too: they hold letters, digits, `_`, `.` and `-` alone, and do not
    begin with a dot.

    Args:
      names: as `named_models.load` takes them.

    Raises:
      InputError: two mean the same model.
    """
    places = [_place(name) for name in names]
    for first, second in itertools.combinations(range(len(names)), 2):
        if places[first] == places[second]:
            raise InputError(
                f"--model: expected different models, received {names[first]} and {names[second]}"
            )
    paths = [_parts(name) for name in names]
    for length in range(1, max(map(len, paths)) + 1):
        titles = [_title(path[-length:]) for path in paths]
        if len({*titles, ENSEMBLE}) > len(names):
            break
    else:  # paths that differ in nothing but what no title holds
        titles = [f"{title}-{number}" for number, title in enumerate(titles, 1)]
    return dict(zip(names, titles, strict=True))


def _place(name: str) -> Path:
    """Returns what a path comes to; of a run's model, the run."""
    path = Path(name).resolve()
    run = run_of(path)
    return path if run is None else run.root


def _parts(name: str) -> tuple[str, ...]:
    # `pretrained` and a folder of that name in this directory cannot both be meant.
    return Path(name).absolute().parts[1:]


def _title(parts: Sequence[str]) -> str:
    return re.sub(r"[^\w.-]+", "-", "-".join(parts), flags=re.ASCII).lstrip(".-") or "model"
