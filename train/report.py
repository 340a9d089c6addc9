"""The page a run is shown with: one file that opens from disk, films and drawings inside.

Every number comes from the files the stages wrote; what is not there is said to be missing. All
text is escaped and the page forbids itself scripts and the network.

    FOLDER/report.json  policy/metrics.jsonl  evaluate/results.json  robot/results.json
                                   |
                                   v
                          FOLDER/report.html

Next: `train/report_judged.py` (what the judge found), `train/report_robot.py` (the arm's part),
`train/report_films.py` (the galleries), `train/report_plots.py` (the drawings).
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .report_films import Films, gallery
from .report_judged import language_section, success_section
from .report_page import origin, write_page
from .report_plots import both_widths, loss_curves
from .report_robot import robot_section
from .report_text import duration, facts, missing, number, percent


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
        success_section(judged),
        language_section(judged),
        gallery(films, judged),
        robot_section(robot, films),
        _repeat(report, folder),
        origin(report, ("policy", "data", "machine", "versions"), "report.json"),
    ]
    title = f"Ulna: {report['task']}, seed {report['seed']}" if report else "Ulna report"
    return write_page(folder / "report.html", title, body)


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
