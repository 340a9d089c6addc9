"""Files that are wholly there or not there, also after `kill -9`, a full disk or a power cut.

Two promises, both from POSIX: `rename` replaces a file in one step, and `link` fails when its
target exists. Neither reaches the disk by itself, so bytes are synced before their name appears
and the folder after.

Next: `commits.py` (the log built on `put_if_absent`).
"""

import errno
import os
import secrets
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"


def write_file(path: Path, data: bytes) -> None:
    """Give `path` the content `data`, replacing what was there. Call `sync_folder` afterwards."""
    temporary = _write_temporary(path.parent, data)
    try:
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_if_absent(path: Path, data: bytes | memoryview) -> bool:
    """Create `path` with the content `data`; False if it exists already. One caller wins."""
    temporary = _write_temporary(path.parent, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            error.add_note(
                "A store needs a file system with hard links (ext4, xfs, btrfs, tmpfs, NFS; not "
                f"FAT). Put the store on another disk than the one that holds {path.parent}."
            )
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_temporary(folder: Path, data: bytes | memoryview) -> Path:
    path = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:  # one write may take less than it was given
        view = view[os.write(descriptor, view) :]
