"""The report's part about the arm: how punctual the loop was and what the gate did.

Next: `train/report.py` (the page).
"""

from html import escape
from typing import Any

from .report_films import Films
from .report_plots import Mark, both_widths, histogram
from .report_text import facts, flat, missing, number, words


def robot_section(robot: Any, films: Films) -> str:
    head = "<h2>On the arm, in real time</h2>"
    if robot is None:
        return head + missing("robot/results.json", "the policy has not been run on the arm")
    loop, lateness = robot.get("loop") or {}, robot.get("lateness_ms") or []
    parts = [
        head,
        "<p>The control loop wakes on absolute deadlines in a process of its own, the policy "
        "thinks in another, and every command passes a safety gate. Lateness is how long after "
        "its deadline a tick began.</p>",
    ]
    if lateness:
        names = (("p50", "p50_ms"), ("p99", "p99_ms"), ("max", "max_ms"))
        marks = [Mark(f"{n} {number(loop[k])} ms", loop[k]) for n, k in names if loop.get(k)]
        if loop.get("control_hz"):
            period = 1000 / loop["control_hz"]
            marks.append(Mark(f"period {number(period)} ms", period))
        drawing = both_widths(
            lambda width: histogram(lateness, marks, "ms", width),
            "histogram of tick lateness in milliseconds",
        )
        parts.append(f"<figure>{drawing}</figure>")
    else:
        parts.append(missing("lateness_ms in robot/results.json", "no tick times were recorded"))
    parts.append(facts({f"loop: {words(k)}": v for k, v in loop.items()}))
    parts.append(facts({"late actions (the plan had run out)": robot.get("late_actions")}))
    gate = robot.get("gate")
    parts.append("<h3>What the safety gate did</h3>")
    if gate is None:
        parts.append(missing("gate in robot/results.json", "its interventions were not counted"))
    elif not any(gate.values()):
        parts.append("<p>Nothing: every command passed unchanged.</p>")
    else:
        parts.append("<p>Ticks on which it changed or refused a command, by reason.</p>")
        parts.append(facts({words(k): v for k, v in gate.items() if v}))
        never = ", ".join(escape(words(k)) for k, v in gate.items() if not v)
        parts.append(f'<p class="muted small">Never: {never}.</p>' if never else "")
    for key, title in (("inference", "Inference"), ("realtime", "Real-time rights")):
        if robot.get(key):
            parts.append(f"<h3>{title}</h3>" + facts(flat(robot[key])))
    parts.append("<h3>Episodes</h3>" + films.show(robot.get("episodes") or [], "robot"))
    return "".join(parts)
