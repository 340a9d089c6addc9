"""The frame of every page: one file that opens from disk and runs and fetches nothing.

Next: `train/report_style.py` (how it looks).
"""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from .report_style import STYLE
from .report_text import facts, flat, missing

# No script, no network: only what is written in the page, and films beside it.
FORBID = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data: file: 'self'"
)


def write_page(path: Path, title: str, body: Sequence[str]) -> Path:
    """Write a page of these parts (HTML, already escaped) at `path`; returns it."""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{FORBID}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )
    # Beside it first: a page that is open in a browser is never half there.
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def origin(found: Any, keys: Sequence[str], file: str) -> str:
    """What the numbers of `file` were made with, one table for each of `keys`."""
    head = "<h2>Made with</h2>"
    if found is None:
        return head + missing(file, "versions and machine are not known")
    parts = [head]
    for key in keys:
        parts.append(f"<h3>{escape(key.capitalize())}</h3>")
        if found.get(key):
            parts.append(facts(flat(found[key])))
        else:
            parts.append(missing(f"{key} in {file}", "it was not recorded"))
    return "".join(parts)
