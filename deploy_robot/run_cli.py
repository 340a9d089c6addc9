"""The commands `ulna run` and `ulna serve`: words to functions. Next: `run.py`, `serve.py`."""

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..datasets.schema import Embodiment

Text = Annotated[str, tyro.conf.arg(metavar="NAME")]
Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")]


def run(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|URL")],
    *,
    robot: Text = "sim",
    robot_options: Pairs = (),
    task: Text = "",
    instruction: str | None = None,
    episodes: int | None = None,
    seed: int = 1,
    out: Path | None = None,
    execution_horizon: int | None = None,
    mode: Literal["synchronous", "asynchronous", "ensemble", "rtc"] = "synchronous",
    realtime: Literal["auto", "trained", "guided", "identity"] | None = None,
    max_episode_s: float = 8.0,
    control_hz: float | None = None,
    servo_hz: float | None = None,
    limits: Annotated[str, tyro.conf.arg(metavar="ARM|FILE")] = "",
    dry_run: bool = False,
    record: Annotated[Path | None, tyro.conf.arg(metavar="STORE")] = None,
    live_view: Annotated[str, tyro.conf.arg(metavar="web|viewer|FILE.rrd")] = "",
    keys: bool = False,
    teleoperator: Text = "",
    teleoperator_options: Pairs = (),
    require_realtime: bool = False,
    policy_units: Literal["lerobot", "lerobot-m100", "robot"] | None = None,
    policy: Text = "",
    token_file: Path | None = None,
    authority: Path | None = None,
    openpi_keys: Pairs = (),
    against: Annotated[str, tyro.conf.arg(metavar="RUN|URL")] = "",
) -> None:
    """Run a policy on an arm through the real-time control loop.

    With --against it is compared with another one: blind, in turns, until it is decided.

    Args:
        run: Training run or policy folder, or the address of a policy server (ws:// or wss://),
            ours (`ulna serve`) or openpi's.
        robot: Which arm: sim, sim-joints, ur, franka, lerobot:TYPE; `deploy_robot/ROBOTS.md`.
        robot_options: Of that arm, such as host=192.168.0.2; faults=... of simulated ones.
        task: Task that robot `sim` stands in (pick_named); of others what recorded episodes
            are filed under.
        instruction: What to do; by default what the scene's seed names, if the robot is `sim`.
        episodes: Episodes to run, by default 3; with --against the most of each policy, 40.
        seed: Which run of scenes the simulated arm stands in.
        out: Folder for results.json, the tick log and videos; RUN/robot by default (RUN/duel).
        execution_horizon: Actions executed per chunk; by default as in evaluation.
        mode: `synchronous` holds the arm while the policy thinks; `asynchronous` moves on and
            switches to the new chunk when it comes; `ensemble` averages all chunks; `rtc` has the
            policy continue the plan under way.
        realtime: How it does so, in mode rtc; by default as it was taught.
        max_episode_s: Longest episode, pauses not counted.
        control_hz: Actions per second; by default the arm's own.
        servo_hz: Joint positions sent per second, interpolated; a multiple of the control rate.
        limits: Of an arm of joint positions: panda, ur5e, so101, or a TOML file.
        dry_run: See, think and log, and send the arm a hold.
        record: Store every episode there; it can be looked at and trained on.
        live_view: Show it in rerun meanwhile (needs --record): a page for this machine's browser, a
            window, or a file.
        keys: Space stops, p pauses, s and f judge, i says something else, t takes over, q ends.
        teleoperator: Who can take over: lerobot:TYPE, such as lerobot:so101_leader.
        teleoperator_options: Of that device, such as port=/dev/ttyACM0.
        require_realtime: Refuse to start unless the system grants real-time scheduling.
        policy_units: What the numbers of a policy from other data are: `lerobot`, as the robot's
            motor bus counts now (degrees); `lerobot-m100`, from data with use_degrees=false;
            `robot`, the robot's own (rad). By default only a policy of this very robot runs.
        policy: Which of a server's policies, if it has several.
        token_file: Holds the server's token; by default that of the environment (ULNA_TOKEN).
        authority: Certificate (PEM) that vouches for the server; by default those of the system.
        openpi_keys: What a server of openpi's calls things, such as front=observation/image
            state=observation/joints:6,observation/gripper:1 prompt=prompt actions=actions
            channels_first=true, on top of preset=libero, droid or aloha.
        against: Another policy. Which of the two runs is drawn for each episode and not said; ends
            when it is decided which is better. The same command goes on with a stopped comparison.
    """
    from .doctor import require_rendering
    from .live_view import LiveViewConfig
    from .run import run as run_on_robot

    remote = "://" in run + against
    if not remote and (policy or token_file or authority or openpi_keys):
        raise ValueError(
            "--policy, --token-file, --authority and --openpi-keys are for a server's address"
        )
    if mode != "rtc" and realtime is not None:
        raise ValueError(f"--realtime {realtime} says how mode rtc joins chunks; add --mode rtc")
    if live_view and record is None:
        raise ValueError("--live-view shows what is recorded; add --record STORE")
    if robot.partition("-")[0] == "sim":
        require_rendering()
    if robot == "sim":
        task = task or "pick_named"
    elif not instruction:
        raise ValueError(f"robot {robot} has no scene that says what to do; add --instruction")
    if episodes is None:
        episodes = 40 if against else 3
    wanted: dict[str, Any] = {}

    def loaded(policy_of: str) -> dict[str, Any]:
        if "://" in policy_of:
            keys_of = pairs(openpi_keys)
            found = _served(policy_of, policy, token_file, authority, mode, realtime, keys_of)
        else:
            found = _loaded(Path(policy_of), mode, realtime, execution_horizon)
        if execution_horizon is not None:
            found["execution_horizon"] = execution_horizon
        return found

    policies = {"a": (run, loaded(run))}
    if against:
        policies["b"] = (against, loaded(against))
    if limits:
        wanted["limits"] = _limits(limits)
    if teleoperator:
        wanted["make_teleoperator"] = partial(
            _teleoperator, teleoperator, pairs(teleoperator_options)
        )
    if record is not None:
        from .flight_lanes import FlightConfig

        live = None
        if live_view in ("web", "viewer"):
            live = LiveViewConfig(live_view)
        elif live_view:
            live = LiveViewConfig("file", Path(live_view))
        wanted["record"] = FlightConfig(record, task=task or "deploy", live=live)
    kind = "duel" if against else "robot"
    folder = out or (Path("runs/remote") if "://" in run else Path(run)) / kind

    def run_one(side: str, count: int, first: int, to: Path) -> dict[str, Any]:
        name, own = policies[side]
        return run_on_robot(
            robot=robot,
            robot_options=pairs(robot_options),
            task=task if robot == "sim" else "",
            episodes=count,
            seed=first,
            instruction=instruction,
            out=to,
            mode=mode,
            max_episode_s=max_episode_s,
            control_hz=control_hz,
            servo_hz=servo_hz,
            dry_run=dry_run,
            keys=keys,
            require_realtime=require_realtime,
            policy_units=policy_units,
            info={"policy": name, "mode": mode, "robot": robot} if record is not None else None,
            **wanted,
            **own,
        )

    try:
        if against:
            from .robot_duel import duel_on_robot

            settings: dict[str, str | int | float | bool] = {
                "robot": robot, "task": task, "instruction": instruction or "", "mode": mode,
                "realtime": realtime or "", "execution_horizon": execution_horizon or 0,
                "max_episode_s": max_episode_s,
            }  # fmt: skip
            print(duel_on_robot(run_one, run, against, settings, episodes, seed, folder))
            return
        results = run_one("a", episodes, seed, folder)
    except RuntimeError as error:  # the arm was stopped; it says why and where the log is
        print(f"ulna: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    results.pop("lateness_ms", None)
    print(json.dumps(results, indent=2))


def _loaded(
    run: Path, mode: str, realtime: str | None, execution_horizon: int | None
) -> dict[str, Any]:
    """Arguments of `run.run` for a policy on this machine."""
    from ..policies.checkpoint import load_act, load_policy

    policy = load_policy(run)  # refuses a broken checkpoint before anything moves
    joining = policy.use_realtime(realtime or "auto").realtime if mode == "rtc" else "off"
    if mode == "rtc" and joining == "off":
        raise ValueError(
            f"the policy in {run} was not taught to continue plans; train it with "
            "--policy.realtime.max-delay, or use --realtime guided"
        )
    return {
        "make_act": partial(load_act, run, realtime=joining if mode == "rtc" else None),
        "trained_for": policy.embodiment,
        "history": policy.config.history,
        "execution_horizon": execution_horizon or policy.config.execution_horizon,
        "max_delay": policy.config.realtime.max_delay if joining == "trained" else None,
    }


def _served(
    url: str,
    name: str,
    token_file: Path | None,
    authority: Path | None,
    mode: str,
    realtime: str | None,
    openpi_keys: dict[str, str],
) -> dict[str, Any]:
    """Arguments of `run.run` for a policy on a server."""
    from .remote_access import read_token
    from .remote_client import load_remote_act, policies_at

    token = read_token(token_file)
    offered = policies_at(url, token, authority)
    trained_for: Embodiment | None = None
    history = 1  # openpi's protocol has room for no more
    if not offered and mode == "rtc":
        raise ValueError(
            f"{url} is a server of openpi's, whose policies cannot be told the plan under way; use "
            "--mode asynchronous or ensemble, or serve a policy by `ulna serve`"
        )
    if offered and openpi_keys:
        raise ValueError(f"--openpi-keys are for servers of openpi's; {url} is one of `ulna serve`")
    if offered:
        if not name and len(offered) > 1:
            raise ValueError(f"{url} serves {', '.join(offered)}; choose one with --policy")
        name = name or next(iter(offered))
        if name not in offered:
            raise ValueError(f"{url} has no policy {name!r}; it serves {', '.join(offered)}")
        trained_for = offered[name].embodiments[0]
        history = offered[name].history
    make_act = partial(
        load_remote_act, url, token, policy=name, authority=authority, realtime=realtime,
        openpi_keys=openpi_keys or None,
    )  # fmt: skip
    return {"make_act": make_act, "trained_for": trained_for, "history": history}


def _limits(text: str) -> Any:
    from .limits_file import SHIPPED, read_limits, shipped_limits

    return shipped_limits(text) if text in SHIPPED else read_limits(text)


def _teleoperator(name: str, options: Mapping[str, str], embodiment: Embodiment) -> Any:
    """Runs in the control process, which knows the arm."""
    from .lerobot_devices import make_lerobot_teleoperator
    from .lerobot_teleoperator import LeRobotTeleoperator

    kind, _, device = name.partition(":")
    if kind != "lerobot" or not device:
        raise ValueError(f"teleoperator {name!r} is not known; give lerobot:TYPE")
    return LeRobotTeleoperator(partial(make_lerobot_teleoperator, device, options), embodiment)


def pairs(words: tuple[str, ...]) -> dict[str, str]:
    """`("host=a", "hz=125")` as a mapping; ValueError for a word without `=` or said twice."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise ValueError(f"option {word!r} is not KEY=VALUE")
        if key in found:
            raise ValueError(f"option {key} is given twice")
        found[key] = value
    return found


def serve(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    max_clients: int = 8,
    idle_timeout_s: float = 600.0,
    openpi_keys: Pairs = (),
) -> None:
    """Serve policies to control loops elsewhere, ours (`ulna run wss://...`) and openpi's clients.

    Args:
        runs: Training runs or policy folders; clients can have these and no others.
        host: Address to listen at; 0.0.0.0 is every one of this machine, which needs a token.
        port: Port to listen at.
        token_file: Holds what clients must know; by default the environment's ULNA_TOKEN.
        certificate: In PEM form, with its --key; then the server is reached by wss:// only.
        key: Of the certificate.
        device: Where the policies compute.
        threads: Of torch on a CPU; by default as many as it takes by itself.
        max_clients: At once.
        idle_timeout_s: After which a silent client is let go.
        openpi_keys: What openpi's clients call things, such as preset=droid or
            front=observation/image state=observation/state; words as of `ulna run`.
    """
    from .remote_access import read_token
    from .serve import serve as serve_policies

    serve_policies(
        runs, host=host, port=port, token=read_token(token_file), certificate=certificate, key=key,
        device=device, threads=threads, max_clients=max_clients, idle_timeout_s=idle_timeout_s,
        openpi_keys=pairs(openpi_keys) or None,
    )  # fmt: skip
