"""Which commit of its checkout this package runs from."""

import subprocess
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent


def commit() -> str | None:
    """Returns the checkout's commit, with `-dirty` where files differ from it; None without git.

    Results of benchmarks do not count: one's must not make the next one's commit look uncertain.
    """
    if not (_ROOT / ".git").exists():  # it may be installed within another project's checkout
        return None
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git(
            "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    # Looking is to lock nothing that someone commits to at the same time.
    command = ["git", "--no-optional-locks", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
