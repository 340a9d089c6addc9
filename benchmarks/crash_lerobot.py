"""LeRobotDataset, killed in the middle of its fifth episode: what its users find afterwards.

    python crash_lerobot.py '{"record": "..."}'      records until it is killed
    python crash_lerobot.py '{"read": ["...", ...]}' opens what is left

Next: `crash.py`.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from competitor_environment import environment

SAVED = 4
STEPS = 30
KEY = "observation.images.front"


def kill_lerobot(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill recordings once four episodes are saved and the fifth has begun."""
    chance = random.Random(seed)
    acknowledged, paths = 0, []
    for number in range(kills):
        path = folder / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        recorder = subprocess.Popen(
            [sys.executable, Path(__file__), json.dumps({"record": str(path)})],
            env=environment("lerobot", folder, None),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # it starts encoders of its own
        )
        assert recorder.stdout is not None
        for line in recorder.stdout:
            acknowledged += line.startswith("saved")
            if line.startswith("begun"):
                break
        else:
            raise RuntimeError("LeRobotDataset ended before it was killed")
        time.sleep(chance.uniform(0.0, 0.5))
        os.killpg(recorder.pid, signal.SIGKILL)
        recorder.wait()
        paths.append(str(path))
    found = _read_all(folder, paths) if paths else []
    kept = sum(int(facts["episodes"]) for facts in found)
    return {
        "kills": kills,
        "acknowledged": acknowledged,
        "kept": kept,
        "lost": acknowledged - kept,
        "unreadable": sum(bool(facts["error"]) for facts in found),
        "errors": sorted(
            {re.sub(r"https?://\S+", "(address)", fact["error"]) for fact in found if fact["error"]}
        ),
    }


def _read_all(folder: Path, paths: list[str]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, Path(__file__), json.dumps({"read": paths})],
        env=environment("lerobot", folder, None),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"reading LeRobot's datasets failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def record(path: Path) -> None:
    """As lerobot-record does it, faster than real time."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        KEY: {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": (4,), "names": None},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
    }
    dataset = LeRobotDataset.create("crash/crash", fps=20, root=path, features=features)
    generator = np.random.default_rng(0)
    episode = 0
    while True:
        for step in range(STEPS):
            dataset.add_frame(
                {
                    KEY: generator.integers(0, 256, (64, 64, 3), np.uint8),
                    "observation.state": np.zeros(4, np.float32),
                    "action": np.zeros(2, np.float32),
                    "task": "move",
                }
            )
            if episode == SAVED and step == 2:
                print("begun", flush=True)
            if episode >= SAVED:
                time.sleep(0.05)  # in real time, or it is over before the kill
        dataset.save_episode()
        episode += 1
        print("saved", flush=True)


def read(path: Path) -> dict[str, Any]:
    """How many episodes LeRobot itself finds, and its error if it finds none."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    try:
        dataset: Any = LeRobotDataset("crash/crash", root=path)
        numbers = {int(dataset[index]["episode_index"]) for index in range(len(dataset))}
    except Exception as error:  # of whatever library: it is what a user sees
        return {"episodes": 0, "error": f"{type(error).__name__}: {error}".split("\n")[0][:160]}
    return {"episodes": len(numbers), "error": ""}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    if "record" in asked:
        record(Path(asked["record"]))
    print(json.dumps([read(Path(path)) for path in asked["read"]]), flush=True)
    os._exit(0)
