"""JSON with a checksum of its own bytes: the commits of the log, kept statistics, Zarr's metadata.

{"crc32c": 123456, "commit": {...}}        the checksum covers the inner object as written
{..., "attributes": {..., "crc32c": 123456}}    of a zarr.json: all bytes before this last key
"""

import json
from typing import Any

from .chunks import DamagedData, crc32c


def seal(kind: str, content: Any) -> bytes:
    """The file that holds `content` under the name `kind`."""
    # Bytes, not values, are covered: no canonical form is needed.
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return f'{{"crc32c": {crc32c(text.encode())}, "{kind}": {text}}}\n'.encode()


def unseal(kind: str, data: bytes, name: str) -> Any:
    """What `seal` was given. Raises DamagedData, which names the file, if it is not that."""
    try:
        content = json.loads(data)
        text = data.split(f'"{kind}": '.encode(), 1)[1][:-2]
        intact = content["crc32c"] == crc32c(text)
        value = content[kind]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DamagedData(f"{name}: {error}") from error
    if not intact:
        raise DamagedData(f"{name}: the checksum does not match")
    return value


def seal_zarr(metadata: dict[str, Any]) -> bytes:
    """The `zarr.json` of a group or an array, the checksum among its attributes."""
    attributes = {**metadata["attributes"], "crc32c": 0}
    text = json.dumps({**metadata, "attributes": attributes}, indent=1, allow_nan=False).encode()
    head = text.rpartition(_SEAL)[0]
    return head + _seal_of(head)


def check_zarr(data: bytes, name: str) -> None:
    """Raises DamagedData, which names the file, if a `zarr.json` is not as `seal_zarr` made it."""
    head, found, rest = data.rpartition(_SEAL)
    if found + rest != _seal_of(head):
        raise DamagedData(f"{name}: the checksum among its attributes is missing or does not match")


_SEAL = b'"crc32c": '


def _seal_of(head: bytes) -> bytes:
    return _SEAL + f"{crc32c(head)}\n }}\n}}".encode()
