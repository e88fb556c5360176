"""Replace a file so that its name always stands for a complete one, even after a crash or loss of power."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable

from ghost_ref.errors import GhostError

# A file system that has no hard links answers with one of these.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


Writer = Callable[[int], None]
"""Writes the whole content of an empty file, open for reading and writing, given its descriptor."""


def write_atomically(path: str, data: bytes | bytearray | Writer, *, keep_previous: bool = False) -> None:
    """Write ``data``, or what ``data(descriptor)`` writes, to ``path``: temporary file in the same directory, fsync,
    rename, directory fsync.

    ``path`` names a complete file at every instant once it has existed; with ``keep_previous`` the file
    before this one is complete under ``<path>.previous``. Permissions are those of a new file (umask). A
    temporary file left behind by a killed process is reused by the next write. Raises GhostError, leaving the
    old file and no temporary one, if anything fails or another process is writing the same path; what else
    ``data`` raises goes through, as cleanly."""
    try:
        target = os.path.realpath(path)
    except ValueError as error:  # a name with a null byte
        raise GhostError(f"Cannot write {path!r}: {error}.") from None
    try:
        if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            raise GhostError(f"Cannot write {path}: it exists and is not a regular file.")
        directory, name = os.path.split(target)
        temporary = os.path.join(directory, f".{name}.tmp")
        descriptor = _open_locked(temporary)
        try:
            _write_and_rename(descriptor, temporary, target, data, keep_previous)
        finally:
            os.close(descriptor)
        _sync(directory)
    except BlockingIOError:
        raise GhostError(f"Cannot write {path}: another process is writing it.") from None
    except OSError as error:
        raise explain(error, "write", path) from None


def explain(error: OSError, action: str, path: str) -> GhostError:
    """One sentence for a failed system call; ``action`` is "read" or "write"."""
    directory = os.path.dirname(path) or "."
    if error.errno == errno.ENOENT and action == "write" and os.path.isdir(directory):
        reason = f"the directory {directory} takes no new files; choose another path"
    elif error.errno == errno.ENOENT and action == "write":
        reason = f"the directory {directory} does not exist; create it first"
    elif error.errno == errno.ENOENT:
        reason = "there is no such file"
    elif error.errno in (errno.EACCES, errno.EPERM):
        what = f"write in {directory}" if action == "write" else "read it"
        reason = f"no permission to {what}; change the permissions or choose another path"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "no space is left on the disk; free some and try again"
    else:
        reason = error.strerror or str(error)
    return GhostError(f"Cannot {action} {path}: {reason}.")


def _open_locked(temporary: str) -> int:
    """Open the temporary file, refusing (BlockingIOError) while another process writes it."""
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between open and lock another writer may have renamed this very file to its final name.
        if not os.path.exists(temporary) or not os.path.samestat(os.fstat(descriptor), os.stat(temporary)):
            raise BlockingIOError(errno.EAGAIN, "another process is writing")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write_and_rename(descriptor: int, temporary: str, target: str,
                      data: bytes | bytearray | Writer, keep: bool) -> None:
    try:
        os.ftruncate(descriptor, 0)  # a killed process may have left something
        if callable(data):
            data(descriptor)
        else:
            write_at(descriptor, data, 0)
        os.fsync(descriptor)
        if keep and os.path.exists(target):
            _keep_previous(target)
        os.replace(temporary, target)
    except BaseException:
        _remove(temporary)
        raise


def write_at(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all bytes of a contiguous buffer at an offset of the file."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[count:], offset + count


def _keep_previous(target: str) -> None:
    """Let ``<target>.previous`` name the file that ``target`` names now; ``target`` is never touched."""
    directory, name = os.path.split(target)
    temporary = os.path.join(directory, f".{name}.previous.tmp")
    _remove(temporary)
    try:
        try:
            os.link(target, temporary)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(target, temporary)
            _sync(temporary)
        os.replace(temporary, f"{target}.previous")
    finally:
        # Renaming a file over another link of itself does nothing, so the name can still be there.
        _remove(temporary)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
