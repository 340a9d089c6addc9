"""The page a run is shown with: one file that opens from disk, films and drawings inside.

Every number comes from the files the stages wrote; what is not there is said to be missing. All
text is escaped and the page forbids itself scripts and the network.

    FOLDER/report.json  policy/metrics.jsonl  evaluate/results.json  robot/results.json
                                   |
                                   v
                          FOLDER/report.html

Next: `train/report_robot.py` (the arm's part), `train/report_films.py` (the galleries),
`train/report_plots.py` (the drawings).
"""

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .report_films import Films, gallery
from .report_plots import (
    Interval,
    both_widths,
    interval_strips,
    loss_curves,
)
from .report_robot import robot_section
from .report_style import STYLE
from .report_text import duration, facts, flat, missing, number, percent

# No script, no network: only what is written in the page, and films beside it.
FORBID = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data: file: 'self'"
)


def build_report(folder: Path) -> Path:
    """Write `folder/report.html` from what the stages left in `folder`; returns its path.

    Raises ValueError for a results file that is there and is not what it should be.
    """
    report = _read_json(folder / "report.json")
    judged = _read_json(folder / "evaluate" / "results.json")
    robot = _read_json(folder / "robot" / "results.json")
    metrics = _read_metrics(folder / "policy" / "metrics.jsonl")
    films = Films(folder)
    body = [
        _headline(report, judged),
        _stages(report),
        _training(metrics),
        _success(judged),
        _language(judged),
        gallery(films, judged),
        robot_section(robot, films),
        _repeat(report, folder),
        _origin(report),
    ]
    title = escape(f"Ulna: {report['task']}, seed {report['seed']}" if report else "Ulna report")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{FORBID}">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )
    # Beside it first: a page that is open in a browser is never half there.
    path, unfinished = folder / "report.html", folder / "report.html.partial"
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def _headline(report: Any, judged: Any) -> str:
    if report is None:
        return "<h1>Ulna</h1>" + missing("report.json", "the demo has not come to its end")
    name = f"<h1>Ulna · {escape(str(report['task']))} · seed {escape(str(report['seed']))}</h1>"
    success = report.get("success") or (judged or {}).get("success")
    if not success:
        return name + missing("evaluate/results.json", "the policy has not been judged")
    successes = success.get("successes", round(success["rate"] * success["episodes"]))
    policy, data, loop = (report.get(key) or {} for key in ("policy", "data", "loop"))
    sentence = ["A vision-language-action policy"]
    if "parameters" in policy:
        sentence.append(f"of {number(policy['parameters'])} parameters")
    if "episodes" in data:
        steps = f" ({number(data['steps'])} steps)" if "steps" in data else ""
        sentence.append(f"taught by {number(data['episodes'])} demonstrations{steps}")
    sentence.append(f"and judged on {number(success['episodes'])} scenes it had never seen")
    if "control_hz" in loop:
        sentence.append(f"then run on a simulated arm at {number(loop['control_hz'])} Hz")
    machine = report.get("machine") or {}
    on = f" on {number(machine['cores'])} cores" if "cores" in machine else ""
    return (
        f'{name}<p class="figure">{percent(success["rate"])}</p>'
        f'<p class="lead"><strong>{number(successes)} of {number(success["episodes"])} '
        f"unseen scenes solved.</strong> With 95&nbsp;% confidence the rate lies between "
        f"{percent(success['low'])} and {percent(success['high'])}.</p>"
        f'<p class="muted">{" ".join(sentence[:2])}, {", ".join(sentence[2:])}. '
        f"Everything took {duration(report['wall_s'])}{on}.</p>"
    )


def _stages(report: Any) -> str:
    head = "<h2>Where the time went</h2>"
    stages = (report or {}).get("stages")
    if not stages:
        return head + missing("stages in report.json", "no stage times were recorded")
    total = sum(stages.values()) or 1.0
    weights = [0.95 - 0.7 * i / max(1, len(stages) - 1) for i in range(len(stages))]
    # flex-grow below 1 in sum would leave room: shares are given in thousandths.
    bar = "".join(
        f'<i style="flex: {1000 * s / total:.2f} 0 0; --weight: {w:.2f}"></i>'
        for s, w in zip(stages.values(), weights, strict=True)
    )
    rows = "".join(
        f'<tr><th><span class="swatch" style="--weight: {w:.2f}"></span>{escape(name)}</th>'
        f'<td class="number">{duration(s)}</td>'
        f'<td class="number">{100 * s / total:.0f}&nbsp;%</td></tr>'
        for (name, s), w in zip(stages.items(), weights, strict=True)
    )
    return (
        f'{head}<div class="stages" aria-hidden="true">{bar}</div><table><thead><tr><th>stage</th>'
        '<th class="number">time</th><th class="number">share</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _training(metrics: Sequence[Mapping[str, Any]]) -> str:
    head = "<h2>How it learned</h2>"
    if not metrics:
        return head + missing("policy/metrics.jsonl", "the policy has not been trained here")
    train = [(float(m["step"]), float(m["loss"])) for m in metrics if m.get("loss") is not None]
    held = [
        (float(m["step"]), float(m["held_out_loss"]))
        for m in metrics
        if m.get("held_out_loss") is not None
    ]
    last = metrics[-1]
    found: dict[str, Any] = {"training steps": last["step"]}
    if train:
        found["last training loss"] = train[-1][1]
    if held:
        found["last held-out loss"] = held[-1][1]
        found["lowest held-out loss"] = min(y for _, y in held)
    if last.get("samples_per_s") is not None:
        found["samples per second"] = last["samples_per_s"]
    if last.get("elapsed_s") is not None:
        found["time"] = duration(last["elapsed_s"])
    drawing = both_widths(
        lambda width: loss_curves(train, held, width),
        f"training and held-out loss over {last['step']} steps",
    )
    without = "" if held else missing("held-out loss", "no episodes were left out of training")
    return (
        f'{head}<figure>{drawing}<figcaption><span class="key">training, smoothed (faint: as '
        'logged)</span><span class="key held">episodes left out of training</span></figcaption>'
        f"</figure>{without}{facts(found)}"
    )


def _success(judged: Any) -> str:
    head = "<h2>Does it do the task?</h2>"
    if judged is None:
        return head + missing("evaluate/results.json", "the policy has not been judged")
    named = {"as the scene asks": judged.get("success")}
    named["with another object named"] = judged.get("language_swap")
    rows, strips = "", []
    for name, row in named.items():
        if not row:
            continue
        successes = row.get("successes", round(row["rate"] * row["episodes"]))
        crashed = f", {row['crashed']} crashed" if row.get("crashed") else ""
        rows += (
            f"<tr><th>{name}</th><td>{number(successes)} of {number(row['episodes'])}{crashed}</td>"
            f"<td>{percent(row['rate'])}</td>"
            f"<td>{percent(row['low'])} to {percent(row['high'])}</td></tr>"
        )
        strips.append(Interval(name, row["rate"], row["low"], row["high"]))
    if not strips:
        return head + missing("success in evaluate/results.json", "no episode was run")
    drawing = both_widths(lambda width: interval_strips(strips, width), "success rates")
    return (
        f"{head}<p>Each scene is new to the policy, and an attempt counts only if the named object "
        "was taken and no other. The bar is the 95&nbsp;% Wilson interval: where the true rate "
        f"lies, as far as this many attempts can tell.</p><figure>{drawing}</figure>"
        '<table class="rates"><thead><tr>'
        "<th>instruction</th><th>solved</th><th>rate</th><th>95&nbsp;% interval</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _language(judged: Any) -> str:
    head = "<h2>Does it listen?</h2>"
    if judged is None:
        return head + missing("evaluate/results.json", "the policy has not been judged")
    said = ""
    if not judged.get("language_swap"):
        said = missing("the language test", "the scenes were not run with another instruction")
    tables = judged.get("confusion") or {}
    if not tables:
        return head + said + missing("confusion in evaluate/results.json", "nothing was counted")
    # One table of instructions, or one per kind of episode.
    if not all(isinstance(v, dict) for row in tables.values() for v in row.values()):
        tables = {"named": tables}
    captions = {"named": "as the scene asks", "swapped": "same scenes, another object named"}
    drawn = "".join(
        f"<div>{_confusion(table, captions.get(kind, kind))}</div>"
        for kind, table in tables.items()
        if table
    )
    return (
        f"{head}{said}<p>Rows are what was said, columns what the arm took. A policy that listens "
        "fills only the cells in bold, also when the same scene comes with other words.</p>"
        f'<div class="pair">{drawn}</div>'
    )


def _confusion(table: Mapping[str, Mapping[str, int]], caption: str) -> str:
    taken = sorted({name for row in table.values() for name in row}, key=lambda n: (n == "none", n))
    head = "".join(f"<th>{escape(name)}</th>" for name in taken)
    body = ""
    for said, row in table.items():
        total = sum(row.values()) or 1
        cells = "".join(
            f'<td class="{"match" if name in said.split() else ""}" '
            f'style="--share: {row.get(name, 0) / total:.2f}">{number(row.get(name, 0))}</td>'
            for name in taken
        )
        body += f"<tr><th>{escape(said)}</th>{cells}</tr>"
    return (
        f'<table class="confusion"><caption>{escape(caption)}</caption>'
        f"<thead><tr><th>said / taken</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _repeat(report: Any, folder: Path) -> str:
    head = "<h2>Do it again</h2>"
    if report is None:
        return head + missing("report.json", "seed and task are not known")
    # A path of this machine tells a reader nothing; one from where the command was given does.
    out = folder.name if folder.is_absolute() else folder.as_posix()
    whole = f"ulna demo --out {out} --seed {report['seed']}"
    parts = [head, f"<p>The whole run, then each stage:</p><pre>{escape(whole)}</pre>"]
    commands = report.get("commands")
    if commands:
        text = "\n".join(str(command) for command in commands.values())
        parts.append(f"<pre>{escape(text)}</pre>")
    else:
        parts.append(missing("commands in report.json", "the stages' commands were not recorded"))
    return "".join(parts)


def _origin(report: Any) -> str:
    head = "<h2>Made with</h2>"
    if report is None:
        return head + missing("report.json", "versions and machine are not known")
    parts = [head]
    for key in ("policy", "data", "machine", "versions"):
        parts.append(f"<h3>{key.capitalize()}</h3>")
        if report.get(key):
            parts.append(facts(flat(report[key])))
        else:
            parts.append(missing(f"{key} in report.json", "it was not recorded"))
    return "".join(parts)


def _read_json(path: Path) -> Any:
    """What a stage wrote; None if it has not."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); run its stage again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, expected an object of results")
    return value


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """One entry per line; a last line without its end was cut off by a crash and is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a line that is not JSON: {error.doc[:80]!r}") from error
