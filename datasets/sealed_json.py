"""JSON with a checksum of its own bytes: the commits of the log, kept statistics.

{"crc32c": 123456, "commit": {...}}        the checksum covers the inner object as written
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
