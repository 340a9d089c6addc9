"""The report's films: inside the page up to a size, linked beyond it, and every failure is there.

Next: `train/report.py` (the page).
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .report_text import missing, number

FILMS_BYTES = 18_000_000
"""Films beyond this are linked, not embedded: base64 adds a third, and a page above some 25 MB
opens slowly."""
SUCCESSES_SHOWN = 3
"""Per kind of episode."""


class Films:
    """Puts films into the page until its size is reached."""

    def __init__(self, folder: Path, most_bytes: int = FILMS_BYTES) -> None:
        self._folder = folder
        self._left = most_bytes

    def show(self, episodes: Sequence[Mapping[str, Any]], within: str) -> str:
        """A grid of `episodes`; their `video` is relative to `FOLDER/within`."""
        if not episodes:
            return missing("episodes", "none was recorded")
        return f'<div class="films">{"".join(self._figure(e, within) for e in episodes)}</div>'

    def _figure(self, episode: Mapping[str, Any], within: str) -> str:
        verdict = "solved" if episode.get("success") else "failed"
        color = "good" if episode.get("success") else "bad"
        facts = [f"seed {escape(str(episode.get('seed', 'not recorded')))}"]
        if episode.get("outcome") is not None:
            facts.append(f"taken: {escape(str(episode['outcome']))}")
        if episode.get("steps") is not None:
            facts.append(f"{number(episode['steps'])} steps")
        if episode.get("seconds") is not None:
            facts.append(f"{episode['seconds']:.1f} s")
        error = episode.get("error")
        crashed = f'<br><span class="bad">{escape(str(error))}</span>' if error else ""
        instruction = escape(str(episode.get("instruction", "")))
        return (
            f"<figure>{self._video(episode.get('video'), within, instruction)}<figcaption>"
            f'<span class="{color}">{verdict}</span> · “{instruction}”<br>'
            f'<span class="muted">{" · ".join(facts)}</span>{crashed}</figcaption></figure>'
        )

    def _video(self, relative: str | None, within: str, label: str) -> str:
        if not relative:
            return missing("the film", "none was recorded")
        path = self._folder / within / relative
        if not path.is_file():
            return missing(f"{within}/{relative}", "the file is not there")
        size, note = path.stat().st_size, ""
        if size <= self._left:
            self._left -= size
            source = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
        else:
            source = quote(f"{within}/{relative}")
            note = (
                f'<p class="muted small">Beside the page: {escape(within)}/{escape(relative)}</p>'
            )
        return (
            f'<video controls muted loop playsinline preload="metadata" aria-label="{label}" '
            f'src="{source}"></video>{note}'
        )


def gallery(films: Films, judged: Any) -> str:
    """Every failure of the evaluation, then some successes of each kind."""
    head = "<h2>What it looks like</h2>"
    if judged is None:
        return head + missing("evaluate/results.json", "the policy has not been judged")
    episodes = judged.get("episodes") or []
    if not episodes:
        return head + missing("episodes in evaluate/results.json", "none was recorded")
    parts = [head]
    kinds = {"named": "as the scene asks", "swapped": "another object named"}
    for kind in dict.fromkeys(str(episode.get("kind", "named")) for episode in episodes):
        of_kind = [e for e in episodes if str(e.get("kind", "named")) == kind]
        failures = [e for e in of_kind if not e.get("success")]
        filmed = [e for e in of_kind if e.get("success") and e.get("video")]
        name = escape(kinds.get(kind, kind))
        solved = len(of_kind) - len(failures)
        parts.append(f"<h3>Failures, {name}: {len(failures)} of {len(of_kind)}</h3>")
        parts.append(films.show(failures, "evaluate") if failures else "<p>None.</p>")
        shown = filmed[:SUCCESSES_SHOWN]
        if solved:
            parts.append(f"<h3>Successes, {name}: {len(shown)} of {solved} shown</h3>")
        if shown:
            parts.append(films.show(shown, "evaluate"))
    return "".join(parts)
