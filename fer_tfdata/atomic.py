"""Files and directories that are complete or absent, whatever stops the program."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from fer_tfdata.errors import InputError

# What tempfile.mkstemp makes of `replacing`'s prefix and suffix.
_TEMPORARY: Final = re.compile(r"\.[a-z0-9_]{8}\..+")
# So many characters of the final name stand at the temporary one's end: a file system takes 255
# bytes, which the final one may have already.
_KEPT: Final = 60


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` so that a reader sees the old file or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and moves it there when the block succeeds.

    The temporary name ends as the final one, since Keras and matplotlib choose the format by that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = f".{path.name[-_KEPT:]}"
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp made it private
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_room(directory: Path, size: int) -> None:
    """Checks that a file system has room for so many bytes.

    For what does not survive a disk that fills while it writes, as HDF5 does not.

    Raises:
      OSError: it has not (ENOSPC).
    """
    if shutil.disk_usage(directory).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def lack_of_room(error: BaseException) -> str | None:
    """Returns in words that a disk is full or a file too large; None for another error.

    TensorFlow and HDF5 raise errors of their own, with the system's words in them.
    """
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError) and error.errno in numbers:
        return os.strerror(error.errno)
    found = (os.strerror(number) for number in numbers if os.strerror(number) in str(error))
    return next(found, None)


def not_read(error: BaseException) -> str | None:
    """Returns in words why the system did not let a file be read; None for an error of its content.

    A content may lead to EINVAL, by a place in the file that there is not; HDF5's own errors carry
    no number.
    """
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return error.strerror or str(error)
    return None


def left_by_kills(directory: Path) -> list[Path]:
    """Returns the temporary files below a directory that `replacing` had no time to remove."""
    return [path for path in directory.rglob(".*") if _TEMPORARY.fullmatch(path.name)]


def sync(path: Path) -> None:
    """Forces a file's bytes, or a directory's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive_directory(final: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yields an empty hidden directory beside `final`, and what renames it to `final`.

    The lock ends with the process, however it ends, so a directory that a killed process left
    can be told from one that is being written.

    Raises:
      InputError: the directory cannot be written to, or another process is writing it.
    """
    work = final.with_name(f".{final.name}.incomplete")
    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"{work.parent}: expected a directory that can be written to, received: "
            f"{error.strerror}"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if work.stat().st_ino != os.fstat(descriptor).st_ino:
                raise FileNotFoundError  # the other process renamed it in this very moment
        except (BlockingIOError, FileNotFoundError):
            raise InputError(
                f"{final}: another process is writing it; wait until it ends"
            ) from None
        replaced = final.with_name(f".{final.name}.replaced")
        if os.path.lexists(replaced):  # killed between the renames of publish(), or just after
            if final.exists():
                _remove(replaced)
            else:
                replaced.rename(final)
        _clear(work)

        published = False

        def publish() -> None:
            nonlocal published
            if final.exists():
                final.rename(replaced)
            work.rename(final)
            published = True
            sync(final.parent)
            if os.path.lexists(replaced):
                _remove(replaced)

        try:
            yield work, publish
        finally:
            if not published:
                shutil.rmtree(work)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing_directory(final: Path) -> Iterator[Path]:
    """Yields an empty directory that takes the place of `final` once all in it is on the disk.

    If the block fails, nothing is left of it, and what stood there stays.

    Raises:
      InputError: as `exclusive_directory`.
    """
    with removing_empty_parents(final), exclusive_directory(final) as (work, publish):
        yield work
        for path in [*work.rglob("*"), work]:
            sync(path)
        publish()


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        _remove(path)


def _remove(path: Path) -> None:
    """Removes a directory with all that is in it, or a file; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def removing_empty_parents(final: Path) -> Iterator[None]:
    """Removes, if the block fails, the directories above `final` that it made."""
    made = [parent for parent in final.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
