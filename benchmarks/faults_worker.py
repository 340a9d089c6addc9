"""A supervisor of `faults.py`: flies what it is told on its standard input, one JSON line each.

    python faults_worker.py              flights: `run()`, the answer in the flight's folder
    python faults_worker.py serve tool FOLDER        a policy server, its port in FOLDER/port

Started processes import this file anew, so it imports nothing before it is asked.
"""

import json
import os
import sys
from pathlib import Path


def write_answer(path: Path, answer: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(answer))
    os.replace(partial, path)


def fly(wish: dict) -> None:
    import functools

    import faults_parts as parts

    from ulna.deploy_robot.flight_lanes import FlightConfig
    from ulna.deploy_robot.run import run
    from ulna.deploy_robot.sim_faults import SimFaults

    folder, robot = Path(wish["folder"]), wish["robot"]
    parts.sign_in(folder, "supervisor")
    answer: dict = {"error": "", "flights": []}
    try:
        results = run(
            functools.partial(parts.make_act, robot, folder, wish["server"]),
            functools.partial(parts.make_arm, robot, folder, SimFaults(**wish["faults"])),
            episodes=1,
            seed=wish["seed"],
            instruction="sweep",
            out=folder / "out",
            execution_horizon=parts.EXECUTED,
            max_episode_s=wish["seconds"],
            servo_hz=parts.SERVO_HZ if robot == "joints" else None,
            limits=parts.limits_of(robot),
            record=FlightConfig(Path(wish["store"]), task="faults"),
            info={"fault": wish["fault"], "flight": wish["number"]},
            video=False,
        )
        answer["flights"] = results["flights"]
    except (RuntimeError, ValueError) as error:
        answer["error"] = str(error)
    write_answer(folder / "answer.json", answer)


def serve(robot: str, folder: Path) -> None:
    import time

    import faults_parts as parts

    from ulna.deploy_robot.remote_server import PolicyServer, ServerConfig
    from ulna.deploy_robot.serve import served_act

    body = parts.JOINTS if robot == "joints" else parts.TOOL
    with PolicyServer({"sweep": served_act(parts.Sweep(robot), body)}, ServerConfig(port=0)) as s:
        parts.sign_in(folder, "server")
        (folder / "port.partial").write_text(s.url.rsplit(":", 1)[1])
        os.replace(folder / "port.partial", folder / "port")
        time.sleep(600)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
    else:
        for line in sys.stdin:
            fly(json.loads(line))
