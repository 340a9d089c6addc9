"""The root of a store: which version it has, and to which robot it belongs.

Next: `store.py`.
"""

import json
import secrets
from typing import Any

from . import commits
from .schema import Embodiment
from .sealed_json import check_zarr, seal_zarr
from .storage import LocalFolder, Storage
from .strict_json import decode, encode

FORMAT_VERSION = 2


def group_metadata(**attributes: Any) -> bytes:
    """The `zarr.json` of a Zarr v3 group."""
    return seal_zarr({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def create_header(storage: Storage, embodiment: Embodiment) -> bool:
    """Make an empty store; False if another process made one here at this moment.

    Raises ValueError if something else is there.
    """
    # An interrupted `create` leaves these two folders without episodes: carry on from there.
    if isinstance(storage, LocalFolder) and storage.path.exists() and _foreign(storage):
        raise ValueError(f"{storage.location} exists and is not a store; choose another --out")
    for folder in ("", commits.FOLDER, "segments"):
        storage.make_folder(folder)
    storage.write("segments/zarr.json", group_metadata())
    header = {
        "version": FORMAT_VERSION,
        "uuid": secrets.token_hex(16),
        "embodiment": encode(embodiment),
    }
    storage.sync(["segments", ".."])
    return storage.put_if_absent("zarr.json", group_metadata(ulna=header))


def read_header(storage: Storage) -> tuple[Embodiment, str]:
    """Embodiment and uuid of the store that lies in `storage`, without its log.

    Raises ValueError that says what is there instead.
    """
    path = storage.path if isinstance(storage, LocalFolder) else None
    if path is not None and not path.exists():
        near = sorted(p.parent.name for p in path.absolute().parent.glob("*/commits"))
        exists = f" Stores beside it: {', '.join(near)}." if near else ""
        raise ValueError(
            f"there is no store at {path}.{exists} Make one with: ulna collect TASK --out {path}"
        )
    try:
        data = storage.read("zarr.json")
        attributes = json.loads(data)["attributes"]
        header = attributes["ulna"]
        version = header["version"]
        if version == FORMAT_VERSION:  # another one may be sealed otherwise
            check_zarr(data, "zarr.json")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{storage.location} is not an Ulna store: its zarr.json is missing or not ours "
            f"({error!r})"
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{storage.location} has store version {version}; this Ulna reads version "
            f"{FORMAT_VERSION}. "
            + ("Update Ulna" if version > FORMAT_VERSION else "Collect or import it again")
        )
    return decode(Embodiment, header["embodiment"], "embodiment"), header["uuid"]


def _foreign(storage: LocalFolder) -> bool:
    """Whether a folder without zarr.json holds more than an interrupted `create` leaves."""
    if not storage.path.is_dir():
        return True
    names = {name for name in storage.names("") if not name.startswith(".tmp-")}
    return not names <= {commits.FOLDER, "segments"} or bool(commits.numbers(storage))
