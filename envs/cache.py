"""Derived files in the user's cache folder: nothing in it is needed, it only saves seconds.

A file starts with the SHA-256 of the rest, so that a damaged one is noticed and made anew.

Next: `envs/robosuite_scene.py` (compiled models), `envs/mesh_decimation.py` (reduced meshes).
"""

import hashlib
import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/ulna`, or `~/.cache/ulna`."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "ulna"


def read_cached(name: str) -> bytes | None:
    """The content, or None if it is absent or damaged."""
    try:
        packed = (cache_folder() / name).read_bytes()
    except OSError:
        return None
    content = packed[32:]
    return content if hashlib.sha256(content).digest() == packed[:32] else None


def write_cached(name: str, content: bytes) -> None:
    """Keep `content`; never half of it, also when several processes write at once."""
    path = cache_folder() / name
    partial = path.with_name(f"{name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(hashlib.sha256(content).digest() + content)
        os.replace(partial, path)
    except OSError:
        # A home that is full or read-only costs time at the next start, nothing else.
        try:
            partial.unlink(missing_ok=True)
        except OSError:
            pass
