"""The report's films: inside the page up to a size, linked beyond it, and every failure is there.

Next: `train/report.py` (the page).
"""

import base64
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .report_actions import action_figure
from .report_groups import Condition, by_condition, plain, words_said
from .report_text import missing, number

FILMS_BYTES = 18_000_000
"""Films beyond this are linked, not embedded: base64 adds a third, and a page above some 25 MB
opens slowly."""
SUCCESSES_SHOWN = 3
"""Per kind of episode."""


class Films:
    """Puts films into the page until its size is reached."""

    def __init__(self, folder: Path, most_bytes: int | None = None) -> None:
        self._folder = folder
        self._left = FILMS_BYTES if most_bytes is None else most_bytes

    def show(self, episodes: Sequence[Mapping[str, Any]], within: str | Path) -> str:
        """A grid of `episodes`; their `video` is relative to `FOLDER/within` (which may also be
        elsewhere). Those whose actions were kept stand beside the drawing of them."""
        if not episodes:
            return missing("episodes", "none was recorded")
        plotted = any(episode.get("actions") for episode in episodes)
        figures = "".join(self.figure(e, within) for e in episodes)
        return f'<div class="{"plotted" if plotted else "films"}">{figures}</div>'

    def figure(self, episode: Mapping[str, Any], within: str | Path, quiet: bool = False) -> str:
        """One episode: film, actions, and what became of it. `quiet`: a success without a film is
        as it should be, since only some are filmed."""
        verdict = "solved" if episode.get("success") else "failed"
        color = "good" if episode.get("success") else "bad"
        facts = [f"seed {escape(str(episode.get('seed', 'not recorded')))}"]
        if words_said(episode) != episode.get("instruction", ""):
            facts.insert(0, f"asked for: {escape(str(episode.get('instruction', '')))}")
        if episode.get("outcome") is not None:
            facts.append(f"taken: {escape(str(episode['outcome']))}")
        if episode.get("steps") is not None:
            facts.append(f"{number(episode['steps'])} steps")
        if episode.get("seconds") is not None:
            facts.append(f"{episode['seconds']:.1f} s")
        error = episode.get("error")
        crashed = f'<br><span class="bad">{escape(str(error))}</span>' if error else ""
        instruction = escape(words_said(episode))
        film = self._video(episode.get("video"), within, instruction)
        if quiet and episode.get("success") and not episode.get("video"):
            film = '<p class="muted small">Not filmed: every failure is, and some successes.</p>'
        if episode.get("actions"):
            path, name = self._find(str(episode["actions"]), within)
            film = f'<div class="beside">{film}{action_figure(path, name)}</div>'
        return (
            f"<figure>{film}<figcaption>"
            f'<span class="{color}">{verdict}</span> · “{instruction}”<br>'
            f'<span class="muted">{" · ".join(facts)}</span>{crashed}</figcaption></figure>'
        )

    def _video(self, relative: str | None, within: str | Path, label: str) -> str:
        if not relative:
            return missing("the film", "none was recorded")
        path, name = self._find(relative, within)
        if not path.is_file():
            return missing(name, "the file is not there")
        size, note = path.stat().st_size, ""
        if size <= self._left:
            self._left -= size
            source = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
        else:
            source = quote(name)
            note = f'<p class="muted small">Beside the page: {escape(name)}</p>'
        return (
            f'<video controls muted loop playsinline preload="metadata" aria-label="{label}" '
            f'src="{source}"></video>{note}'
        )

    def _find(self, relative: str, within: str | Path) -> tuple[Path, str]:
        """A file that results name, and its name seen from the page."""
        folder = self._folder / within
        path = folder / relative
        # Results may come from anybody: they do not choose files elsewhere for the page to show.
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"results in {folder} name the file {relative}, which lies outside of their folder"
            )
        return path, Path(os.path.relpath(path, self._folder)).as_posix()


def gallery(films: Films, judged: Any, within: str = "evaluate") -> str:
    """Every failure of the evaluation, then some successes of each condition."""
    head, file = "<h2>What it looks like</h2>", f"{within}/results.json".removeprefix("./")
    if judged is None:
        return head + missing(file, "the policy has not been judged")
    episodes = judged.get("episodes") or []
    if not episodes:
        return head + missing(f"episodes in {file}", "none was recorded")
    parts = [head]
    groups = by_condition(episodes)
    first = plain(groups)
    for condition, of_kind in groups.items():
        failures = [e for e in of_kind if not e.get("success")]
        filmed = [e for e in of_kind if e.get("success") and e.get("video")]
        name = escape(_words(condition, first))
        solved = len(of_kind) - len(failures)
        parts.append(f"<h3>Failures, {name}: {len(failures)} of {len(of_kind)}</h3>")
        parts.append(films.show(failures, within) if failures else "<p>None.</p>")
        shown = filmed[:SUCCESSES_SHOWN]
        if solved:
            parts.append(f"<h3>Successes, {name}: {len(shown)} of {solved} shown</h3>")
        if shown:
            parts.append(films.show(shown, within))
    return "".join(parts)


def _words(condition: Condition, first: Condition) -> str:
    """A condition as a heading says it: what all of them share goes without saying."""
    if condition.timing == first.timing:
        condition = Condition(condition.kind, condition.perturbation)
    return condition.words()
