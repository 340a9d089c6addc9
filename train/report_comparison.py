"""The page of a comparison: two evaluations side by side, and every scene that tells them apart.

Next: `train/compare.py` (where its numbers and words come from).
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from .compare_words import p_words
from .report_curves import lead_walk, side_by_side
from .report_films import Films
from .report_page import write_page
from .report_plots import Interval, both_widths
from .report_text import change, facts, flat, number

SCENES_SHOWN = 60
"""Differing scenes with their films; all of them are listed in the comparison's JSON."""


def build_comparison_page(result: Mapping[str, Any], a: Path, b: Path, out: Path) -> Path:
    """Write the comparison `result` (of `compare(a, b)`) at `out`; returns `out`. Films are taken
    from the folders of the two results."""
    films = Films(out.parent)
    folders = {side: _folder(path) for side, path in (("a", a), ("b", b))}
    body = [
        _headline(result),
        _rates(result),
        _walk(result),
        _differing(result, films, folders),
        _origin(result),
    ]
    return write_page(out, f"Ulna: {result['a']['name']} and {result['b']['name']}", body)


def _headline(result: Mapping[str, Any]) -> str:
    names = [escape(result[side]["name"]) for side in "ab"]
    verdict = {"a": "A is better", "b": "B is better", None: "No difference shown"}
    overall = result["overall"]
    first, *others = (escape(words) for words in result["words"])
    listed = "".join(f"<li>{words}</li>" for words in [*others, *map(escape, result["notes"])])
    return (
        f'<h1>Ulna · comparison</h1><p class="figure verdict">{verdict[overall["verdict"]]}</p>'
        f'<p class="lead">{first}</p>'
        f'<p class="versus"><span class="key series s0">A: {names[0]}</span> '
        f'<span class="key series s1">B: {names[1]}</span></p>'
        + (f'<ul class="muted">{listed}</ul>' if listed else "")
    )


def _rates(result: Mapping[str, Any]) -> str:
    rows = {result["condition"]: result["overall"]} | result["tasks"] | result["conditions"]
    strips = [
        (name, _interval(row["rate_a"]), _interval(row["rate_b"])) for name, row in rows.items()
    ]
    drawing = both_widths(lambda width: side_by_side(strips, width), "success rates of A and B")
    body = "".join(_row(name, row) for name, row in rows.items())
    macro = result.get("macro_difference")
    mean = (
        f"<p>Mean over {len(result['tasks'])} tasks, B minus A: "
        f"<strong>{change(macro['value'], macro['low'], macro['high'])}</strong>.</p>"
        if macro
        else ""
    )
    corrected = (
        " Below the first row, p-values (not intervals) are corrected for there being several "
        "(Holm)."
        if len(rows) > 1
        else ""
    )
    left = result["unmatched"]
    alone = (
        f'<p class="muted small">Left out, because the other has no episode of the same scene and '
        f"conditions: {number(left['a'])} of A, {number(left['b'])} of B.</p>"
        if left["a"] or left["b"]
        else ""
    )
    steps = result.get("steps_where_both_succeed")
    speed = (
        f"<p>On the {steps['scenes']} scenes that both solved, A took {number(steps['a'])} control "
        f"ticks and B {number(steps['b'])} (medians).</p>"
        if steps
        else ""
    )
    return (
        f"<h2>Scene by scene</h2><p>Both ran the same scenes. Differences are in percentage points "
        f"with Tango's 95&nbsp;% score interval, p is of McNemar's exact test.{corrected}</p>"
        f"<figure>{drawing}</figure>{mean}"
        '<div class="scroll"><table class="rates differences"><thead><tr><th>condition</th>'
        "<th>scenes</th><th>B minus A, points</th><th>solved by one, A&nbsp;:&nbsp;B</th>"
        "<th>p</th></tr></thead>"
        f"<tbody>{body}</tbody></table></div>{speed}{alone}"
    ).replace("95&nbsp;%", f"{100 * result['confidence']:g}&nbsp;%")


def _row(name: str, row: Mapping[str, Any]) -> str:
    d, p = row["difference"], row.get("p_holm", row["p"])
    return (
        f"<tr><th>{escape(name)}</th><td>{number(row['scenes'])}</td>"
        f"<td>{change(d['value'], d['low'], d['high'], '')}</td>"
        f"<td>{row['table']['only_a']}&nbsp;:&nbsp;{row['table']['only_b']}</td>"
        f"<td>{p_words(p)}</td></tr>"
    )


def _walk(result: Mapping[str, Any]) -> str:
    found = result["sequential"]
    if not any(found["lead"]):
        return ""
    drawing = both_widths(
        lambda width: lead_walk(found["lead"], found["frontier"], width),
        "lead of B over A in scenes won, scene after scene",
    )
    decided = found["decided_after"]
    said = (
        f"The lead reached the frontier after {decided} scenes."
        if decided
        else "The lead never reached the frontier."
    )
    return (
        "<h2>When was it clear?</h2><p>Every scene that came out differently moves the lead by "
        "one. Past the frontier chance alone would hardly ever lead: stopping there, after any "
        f"number of the {found['planned']} scenes planned, calls equal policies different in at "
        f"most {100 * (1 - result['confidence']):.3g}&nbsp;% of comparisons. {said}</p>"
        f'<figure>{drawing}<figcaption><span class="key series s0">lead</span>'
        '<span class="key frontier">frontier</span></figcaption></figure>'
    )


def _differing(result: Mapping[str, Any], films: Films, folders: Mapping[str, Path]) -> str:
    main = [scene for scene in result["differing"] if scene["condition"] == result["condition"]]
    others = [scene for scene in result["differing"] if scene["condition"] != result["condition"]]
    filmed = [scene for scene in others if scene["a"].get("video") or scene["b"].get("video")]
    parts = [f"<h2>Where they part: {number(len(main))} scenes</h2>"]
    if not main:
        parts.append("<p>Every scene came out the same for both.</p>")
    scenes = [*main, *filmed][:SCENES_SHOWN]
    if others or len(scenes) < len(main):
        parts.append(
            f"<p>And {number(len(others))} under other conditions. {number(len(scenes))} are "
            "shown: these, then those that were filmed.</p>"
        )
    for scene in scenes:
        shared = {k: scene[k] for k in ("task", "seed", "instruction", "said")}
        sides = "".join(
            f'<div><p class="side"><span class="key series s{index}">{side.upper()}</span></p>'
            f"{films.figure(shared | scene[side], folders[side], quiet=True)}</div>"
            for index, side in enumerate("ab")
        )
        parts.append(
            f"<h3>{escape(str(scene['task']))}, seed {escape(str(scene['seed']))}: "
            f"{escape(scene['condition'])}</h3>"
            f'<div class="pair versus-films">{sides}</div>'
        )
    return "".join(parts)


def _origin(result: Mapping[str, Any]) -> str:
    parts = ["<h2>Made with</h2>"]
    for side in "ab":
        parts.append(f"<h3>{side.upper()}: {escape(result[side]['name'])}</h3>")
        parts.append(facts(flat(result[side]["policy"])) or "<p>Not recorded.</p>")
    return "".join(parts)


def _interval(rate: Mapping[str, Any]) -> Interval:
    return Interval("", rate["rate"], rate["low"], rate["high"])


def _folder(path: Path) -> Path:
    """The folder that the videos of these results are relative to (as `read_results` finds it)."""
    if path.is_file():
        return path.parent.resolve()
    return (path if (path / "results.json").is_file() else path / "evaluate").resolve()
