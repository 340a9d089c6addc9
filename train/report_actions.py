"""The actions of a filmed episode, in a small file beside its film, and their drawing.

Next: `train/report_films.py` (where film and drawing stand side by side).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from .report_curves import action_traces
from .report_text import missing


def write_actions(
    path: Path,
    actions: Float[np.ndarray, "steps action_dim"],
    names: Sequence[str],
    control_hz: float,
) -> None:
    """Write the actions of an episode at `path` (JSON, five digits); an episode's entry in
    `results.json` names it as `actions`, relative to the results, as it names its `video`."""
    if len(names) != actions.shape[1]:
        raise ValueError(f"got {len(names)} names for actions of {actions.shape[1]} dimensions")
    rows = [[float(f"{value:.5g}") for value in row] for row in actions.tolist()]
    content = {"names": list(names), "control_hz": control_hz, "actions": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def action_figure(path: Path, name: str) -> str:
    """The drawing of the actions in `path`, which the page calls `name`."""
    if not path.is_file():
        return missing(name, "the file is not there")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        actions = np.asarray(content["actions"], float)
        names, control_hz = [str(n) for n in content["names"]], float(content["control_hz"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no actions ({error}); evaluate again") from error
    if actions.ndim != 2 or not actions.size or control_hz <= 0:
        return missing(f"actions in {name}", "the episode has none")
    drawing, height = action_traces(actions, names, control_hz)
    return (
        f'<svg class="traces" viewBox="0 0 340 {height}" role="img" '
        f'aria-label="actions over the episode">{drawing}</svg>'
    )
