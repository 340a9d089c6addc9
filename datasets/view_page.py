"""One episode as a page that opens from disk: film, plots, labels and what the checks found.

Film, data, style and script are in the file; the page forbids itself the network. All text is
escaped.

Next: `view_video.py` (the film), `view_plots.py` (what is drawn), `view_script.py` (how).
"""

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from .image_codec import Clip, ImageCodec, Jpeg
from .problem import Problem
from .quality import check_quality
from .store import Store
from .view_plots import (
    LINES_PER_PANEL,
    Panel,
    action_panels,
    other_panels,
    rounded,
    state_panels,
    step_times,
    time_panels,
)
from .view_script import SCRIPT
from .view_style import STYLE
from .view_video import Film, film

FORBID = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; media-src data:"
)
_SMALL = 200
"""A film of fewer pixels in height is shown with its pixels, not blurred."""


def episode_page(store: Store, episode_index: int) -> str:
    """The page of an episode. Raises DamagedData if the episode cannot be read."""
    record = store.episodes[episode_index]
    times, measured = step_times(store, episode_index)
    film_made = film(store, episode_index, times)
    problems = check_quality(store, episode_index)
    panels: list[Panel] = []
    sections = [
        _section("State", state_panels(store, episode_index), "state", panels),
        _section("Action", action_panels(store, episode_index), "action", panels),
    ]
    clocks = time_panels(store, episode_index)
    if clocks:
        sections.append(_section("Times", clocks, "time", panels))
    others = "".join(
        f"<h3>{escape(title)}</h3>{_drawn(found, 'other', panels)}"
        for title, found in other_panels(store, episode_index)
    )
    if others:
        sections.append(
            f"<section><h2>Other streams</h2><details><summary>Show what else was recorded"
            f"</summary>{others}</details></section>"
        )
    goals = [
        {"start": g.start, "stop": g.stop, "text": g.instruction, "color": n % LINES_PER_PANEL}
        for n, g in enumerate(record.subgoals)
    ]
    data = {
        "times": [round(float(second), 6) for second in times],
        "panels": panels,
        "goals": goals,
        "marks": _marks(problems),
    }
    # "<" cannot end the script element, whatever text an episode holds.
    content = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    name = store.location.rstrip("/").rsplit("/", 1)[-1]
    title = f"{record.instruction or 'no instruction'} · episode {episode_index} of {name}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{FORBID}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        f"{_head(store, episode_index, name, times, measured)}"
        f'<div class="columns"><div class="player">{_player(film_made, record.steps)}'
        f"{_goals(goals, times)}{_findings(problems)}</div>"
        f'<div class="plots">{"".join(sections)}</div></div>'
        f"{_facts(store, episode_index)}</main>"
        f'<script id="data" type="application/json">{content}</script>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _head(store: Store, episode_index: int, name: str, times: np.ndarray, measured: bool) -> str:
    record = store.episodes[episode_index]
    verdict = {
        True: '<strong class="good">succeeded</strong>',
        False: '<strong class="bad">failed</strong>',
        None: '<span class="muted">nobody said whether it succeeded</span>',
    }[record.success]
    instruction = escape(record.instruction) or '<span class="muted">no instruction</span>'
    facts = [verdict, f"{record.steps:,} steps", f"{times[-1]:.1f} s"]
    if not measured:
        facts.append(f"times counted at {store.embodiment.control_hz:g} Hz, not measured")
    others = " · ".join(escape(text) for text in record.paraphrases)
    return (
        f'<p class="place">{escape(name)} · episode {episode_index} of {len(store.episodes):,} · '
        f"{escape(store.embodiment.name)}</p><h1>{instruction}</h1>"
        f'<p class="lead">{" · ".join(facts)}</p>'
        + (f'<p class="muted">Also: {others}</p>' if others else "")
    )


def _player(made: Film | None, steps: int) -> str:
    shown = '<p class="muted">This episode was recorded without a camera.</p>'
    if made is not None:
        labels = "".join(
            f'<span style="left: {100 * tile.left:.2f}%; top: {100 * tile.top:.2f}%">'
            f"{escape(tile.name)}</span>"
            for tile in made.tiles
        )
        small = ' class="small"' if made.height < _SMALL else ""
        source = base64.b64encode(made.mp4).decode("ascii")
        shown = (
            f'<div class="film"><video id="film"{small} width="{made.width}" '
            f'height="{made.height}" style="height: auto" muted playsinline preload="auto" '
            f'src="data:video/mp4;base64,{source}"></video>{labels}</div>'
        )
    return (
        f'{shown}<div class="controls"><button id="play" title="space">Play</button>'
        '<button id="back" aria-label="one step back" title="arrow left">\N{LEFTWARDS ARROW}'
        '</button><button id="forth" aria-label="one step on" title="arrow right">'
        '\N{RIGHTWARDS ARROW}</button><select id="speed" aria-label="speed">'
        '<option value="0.25">¼ ×</option><option value="0.5">½ ×</option>'
        '<option value="1" selected>1 ×</option><option value="2">2 ×</option>'
        '<option value="4">4 ×</option></select><output id="readout"></output></div>'
        f'<input type="range" id="slider" min="0" max="{steps - 1}" value="0" step="1" '
        'aria-label="step">'
    )


def _goals(goals: Sequence[dict[str, Any]], times: np.ndarray) -> str:
    if not goals:
        return ""
    end = max(float(times[-1]), 1e-3)
    bars, entries = "", ""
    for number, goal in enumerate(goals):
        start = float(times[goal["start"]])
        stop = float(times[goal["stop"]]) if goal["stop"] < len(times) else end
        left, width = 100 * start / end, 100 * (stop - start) / end
        color = f"var(--c{goal['color']})"
        bars += f'<i style="left: {left:.2f}%; width: {width:.2f}%; background: {color}"></i>'
        entries += (
            f'<li><button data-step="{goal["start"]}" data-goal="{number}" '
            f'style="--color: {color}">{escape(goal["text"])} <span class="muted small">'
            f"{start:.1f} to {stop:.1f} s</span></button></li>"
        )
    return f'<div class="goals" aria-hidden="true">{bars}</div><ul class="goal-list">{entries}</ul>'


def _findings(problems: Sequence[Problem]) -> str:
    head = "<h2>What the checks found</h2>"
    if not problems:
        return f'{head}<p class="good">Nothing doubtful.</p>'
    entries = ""
    for problem in problems:
        where = f"<strong>{escape(problem.stream)}</strong>: " if problem.stream else ""
        jump = ""
        if problem.start is not None:
            jump = f' <button data-step="{problem.start}">step {problem.start}</button>'
        entries += (
            f'<li class="{problem.severity}">{problem.severity.capitalize()}: {where}'
            f"{escape(problem.message)}{jump}</li>"
        )
    return f'{head}<ul class="findings">{entries}</ul>'


def _marks(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Stretches to shade, and on which panels."""
    marks = []
    for problem in problems:
        if problem.start is None or problem.stop is None:
            continue
        stream = problem.stream or ""
        kinds = ["state", "action"]
        if stream in ("state", "action"):
            kinds = [stream]
        elif stream.endswith("time_ns"):
            kinds = ["time"]
        marks.append({"start": problem.start, "stop": problem.stop, "panels": kinds})
    return marks


def _section(title: str, found: Sequence[Panel], kind: str, panels: list[Panel]) -> str:
    return f"<section><h2>{escape(title)}</h2>{_drawn(found, kind, panels)}</section>"


def _drawn(found: Sequence[Panel], kind: str, panels: list[Panel]) -> str:
    """Places for the script to draw `found` in; appends them to `panels`."""
    parts = ""
    for panel in found:
        names = ", ".join(line["name"] for line in panel["lines"])
        legend = "".join(
            f'<span style="--color: var(--c{n})">{escape(line["name"])} <b></b></span>'
            for n, line in enumerate(panel["lines"])
        )
        unit = f" in {panel['unit']}" if panel["unit"] else ""
        parts += (
            f'<div class="panel" data-panel="{len(panels)}"><div class="legend">{legend}</div>'
            f'<svg role="img" aria-label="{escape(names + unit)} over time"></svg></div>'
        )
        panels.append(panel | {"kind": kind})
    return parts


def _facts(store: Store, episode_index: int) -> str:
    record, robot = store.episodes[episode_index], store.embodiment
    episode: dict[str, Any] = {
        "task": record.task,
        "seed": record.seed,
        "uid": record.uid,
        "segment": record.segment,
        **{key.replace("_", " "): value for key, value in record.info.items()},
    }
    cameras = {
        f"camera {camera}": _codec(store.layout(f"images/{camera}", record).codec)
        + " · "
        + " × ".join(str(size) for size in record.streams[f"images/{camera}"].shape[1::-1])
        for camera in record.cameras
    }
    body: dict[str, Any] = {
        "robot": robot.name,
        "control rate": f"{robot.control_hz:g} Hz",
        "action": robot.action_meaning,
        "action frame": robot.action_frame or "not given",
        "quaternions": robot.quaternion_order or "none",
        **cameras,
    }
    return (
        f'<div class="tables"><section><h2>Episode</h2>{_table(episode)}</section>'
        f"<section><h2>Robot and cameras</h2>{_table(body)}</section></div>"
    )


def _codec(codec: ImageCodec | None) -> str:
    match codec:
        case Jpeg():
            return f"JPEG, quality {codec.quality}, {':'.join(codec.subsampling)}"
        case Clip():
            return f"{codec.codec} video in clips of {codec.frames} frames"
        case _:
            return "lossless"


def _table(values: dict[str, Any]) -> str:
    rows = ""
    for name, value in values.items():
        shown = rounded(np.array([value]))[0] if isinstance(value, float) else value
        shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else shown
        rows += f"<tr><th>{escape(str(name))}</th><td>{escape(str(shown))}</td></tr>"
    return f"<table><tbody>{rows}</tbody></table>"
