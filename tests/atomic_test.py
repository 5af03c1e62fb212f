import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from fer_tfdata import atomic


@pytest.fixture
def umask():
    """Sets the process's umask for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_writes_a_new_file_and_replaces_an_old_one(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "config.json"
    atomic.write_text(path, "first")
    assert path.read_text(encoding="utf-8") == "first"
    atomic.write_text(path, "Größe 48\n")
    assert path.read_bytes() == "Größe 48\n".encode()
    assert names(path.parent) == ["config.json"]


def test_the_temporary_file_stands_beside_and_ends_alike(tmp_path: Path):
    path = tmp_path / "model.weights.h5"
    with atomic.replacing(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.name.endswith("model.weights.h5")
        assert not path.exists()
        temporary.write_bytes(b"weights")
    assert path.read_bytes() == b"weights"
    assert names(tmp_path) == ["model.weights.h5"]


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u9854", "\U0001f600"])
def test_a_name_may_be_as_long_as_a_file_system_takes(tmp_path: Path, letter: str):
    path = tmp_path / f"{letter * (251 // len(letter.encode()))}.mp4"
    with atomic.replacing(path) as temporary:
        assert temporary.name.endswith(f"{letter}.mp4")
        assert atomic.left_by_kills(tmp_path) == [temporary]
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_failing_block_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException], old: str | None
):
    path = tmp_path / "history.csv"
    if old is not None:
        path.write_text(old, encoding="utf-8")

    def write_half() -> None:
        with atomic.replacing(path) as temporary:
            temporary.write_text("half of the n", encoding="utf-8")
            raise error

    with pytest.raises(error):
        write_half()
    if old is None:
        assert names(tmp_path) == []
    else:
        assert path.read_text(encoding="utf-8") == old
        assert names(tmp_path) == ["history.csv"]


def test_a_block_that_moves_its_file_away_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "history.csv"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(FileNotFoundError), atomic.replacing(path) as temporary:
        temporary.unlink()
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["history.csv"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask, mask: int, mode: int):
    umask(mask)
    path = tmp_path / "metrics.json"
    atomic.write_text(path, "{}")
    assert path.stat().st_mode & 0o777 == mode
    assert umask(mask) == mask


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path):
    path = tmp_path / "state"
    contents = {letter * 200_000 for letter in "abcdefgh"}
    atomic.write_text(path, min(contents))
    done = threading.Event()
    seen: list[str] = []

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_text(encoding="utf-8"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for content in sorted(contents) * 5:
            atomic.write_text(path, content)
    finally:
        done.set()
        reader.join()
    assert seen
    assert set(seen) <= contents


def test_a_killed_process_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "checkpoint"
    path.write_text("old", encoding="utf-8")
    program = """
        import os, signal, sys
        from pathlib import Path
        from fer_tfdata import atomic

        with atomic.replacing(Path(sys.argv[1])) as temporary:
            temporary.write_text("new")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        cwd=Path(__file__).resolve().parent.parent,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert path.read_text(encoding="utf-8") == "old"
    atomic.write_text(path, "next")
    assert path.read_text(encoding="utf-8") == "next"


def test_sync_takes_files_and_directories(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    atomic.sync(path)
    atomic.sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        atomic.sync(tmp_path / "absent")


def test_what_a_kill_leaves_is_told_from_what_a_user_hides(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".gitignore").write_text("mine")
    (tmp_path / ".notes.txt").write_text("mine")
    with atomic.replacing(tmp_path / "sub" / "model.keras") as temporary:
        assert atomic.left_by_kills(tmp_path) == [temporary]
    assert atomic.left_by_kills(tmp_path) == []


def test_room_is_asked_for_before_it_is_needed(tmp_path: Path) -> None:
    atomic.check_room(tmp_path, 1)
    with pytest.raises(OSError, match="No space left") as raised:
        atomic.check_room(tmp_path, 2**80)
    assert atomic.lack_of_room(raised.value) == "No space left on device"


def test_a_lack_of_room_is_known_by_whoever_tells_of_it() -> None:
    told = RuntimeError("file write failed: errno = 28, error message = 'No space left on device'")
    assert atomic.lack_of_room(told) == "No space left on device"
    assert atomic.lack_of_room(OSError(errno.EACCES, "Permission denied")) is None
    assert atomic.lack_of_room(RuntimeError("out of memory")) is None
