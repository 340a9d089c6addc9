"""The contract of `Robot` as a check: what every robot, simulated or real, is tested with.

    check_robot(robot, settle)                          what holds on any robot
    check_robot(robot, settle, stall=..., unplug=...)   besides, with a device that can be hurt

Bring it to a new arm on the bench before any policy does: it sends nothing but the arm's own
measured position, or rest.
"""

import threading
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ..datasets.schema import Embodiment
from .robot import Robot, RobotState, SaysFaults

_BLOCKED_S = 5.0
"""A call that has not returned by then waits for the device; a busy machine is faster."""


def check_robot(
    robot: Robot,
    settle: Callable[[], None],
    stall: Callable[[bool], None] | None = None,
    unplug: Callable[[], None] | None = None,
) -> None:
    """Run the contract of `Robot` on `robot`; raises AssertionError with what broke.

    Args:
        settle: lets the robot live for about two control periods.
        stall: with True, what talks to the device stands still from now on; with False, it goes on.
        unplug: breaks the link for good.

    Leaves the robot disconnected.
    """
    robot.disconnect()
    robot.connect()
    try:
        _check_life(robot, settle)
        if stall is not None:
            _check_stalled(robot, settle, stall)
        if unplug is not None:
            _check_unplugged(robot, settle, unplug)
    finally:
        robot.disconnect()
        robot.disconnect()


def rest(embodiment: Embodiment, state: RobotState) -> Float[np.ndarray, " action_dim"]:
    """A command that moves nothing: the measured position of each joint, 0 for all else, within
    the range of each entry."""
    measured = dict(zip(embodiment.state_names, state.state.tolist(), strict=True))
    action = np.array(
        [
            0.0 if name.startswith("gripper") or ".pos" not in name else measured.get(name, 0.0)
            for name in embodiment.action_names
        ]
    )
    return np.clip(action, embodiment.action_low, embodiment.action_high)


def _check_life(robot: Robot, settle: Callable[[], None]) -> None:
    embodiment = robot.embodiment
    assert robot.action_latency_s >= 0, "action_latency_s is negative"
    instruction = robot.start_episode(0, None)
    assert isinstance(instruction, str) and instruction, "start_episode gave no instruction"
    state = robot.read()
    assert robot.read() is state, "read() gives another object each time"
    _check_form(embodiment, state)
    before = (state.version, state.time_ns, state.image_time_ns.copy())
    settle()
    newer = robot.read()
    assert newer.version > before[0], "read() gives no newer measurement after two periods"
    assert newer.time_ns > before[1], "capture times do not advance"
    assert (newer.image_time_ns >= before[2]).all(), "capture times of images run backwards"
    assert newer.observation_time_ns <= newer.time_ns, "an observation younger than its parts"
    for broken in (np.nan, np.inf):
        command = rest(embodiment, state)
        command[-1] = broken
        try:
            robot.send(command)
        except ValueError:
            continue
        raise AssertionError(f"send() took a command with {broken} in it")
    robot.send(rest(embodiment, robot.read()))
    settle()
    assert not _fault(robot), f"fault without a cause: {_fault(robot)}"
    robot.hold()
    settle()
    held = robot.read().joint_position_rad.copy()
    settle()
    moved = np.abs(robot.read().joint_position_rad - held)
    assert not moved.size or moved.max() < 0.02, f"moves by {moved.max():.3f} rad while held"
    again = robot.start_episode(0, instruction)
    assert again == instruction, f"asked for {instruction!r}, got {again!r}"
    end = robot.finish_episode(None)
    assert not end.video, "a film nobody asked for"
    assert all(type(count) is int for count in end.counters.values()), "counters are not integers"


def _check_form(embodiment: Embodiment, state: RobotState) -> None:
    """Shapes, types and names fit the embodiment."""
    actions = len(embodiment.action_names)
    assert len(embodiment.action_low) == len(embodiment.action_high) == actions, "action ranges"
    assert np.all(np.array(embodiment.action_low) < embodiment.action_high), "empty action range"
    assert embodiment.control_hz > 0 and embodiment.action_meaning, "no rate, or no meaning"
    assert state.version > 0, "read() after start_episode gave no measurement"
    assert state.state.shape == (embodiment.state_dim,), f"state has shape {state.state.shape}"
    assert state.state.dtype == np.float32, f"state is {state.state.dtype}, not float32"
    joints = (len(embodiment.joint_names),)
    assert state.joint_position_rad.shape == joints, "joint_position_rad does not fit joint_names"
    for limits in (embodiment.joint_low_rad, embodiment.joint_high_rad):
        assert len(limits) in (0, *joints), "joint limits do not fit joint_names"
    assert set(state.images) == {camera.name for camera in embodiment.cameras}, "cameras differ"
    for camera in embodiment.cameras:
        image = state.images[camera.name]
        assert image.shape == (camera.height, camera.width, 3), f"{camera.name}: {image.shape}"
        assert image.dtype == np.uint8, f"{camera.name} is {image.dtype}, not uint8"
    assert state.image_time_ns.shape == (len(embodiment.cameras),), "one capture time per camera"


def _check_stalled(robot: Robot, settle: Callable[[], None], stall: Callable[[bool], None]) -> None:
    robot.start_episode(0, None)
    command = rest(robot.embodiment, robot.read())
    stall(True)
    try:
        settle()
        _require_return(
            {
                "read": robot.read,
                "send": lambda: robot.send(command),
                "hold": robot.hold,
                "fault": lambda: _fault(robot),
            }
        )
        frozen = robot.read().time_ns
        settle()
        assert robot.read().time_ns == frozen, "capture times advance while the device stands still"
    finally:
        stall(False)


def _check_unplugged(robot: Robot, settle: Callable[[], None], unplug: Callable[[], None]) -> None:
    robot.start_episode(0, None)
    robot.send(rest(robot.embodiment, robot.read()))
    settle()
    assert not _fault(robot), f"fault before the link is cut: {_fault(robot)}"
    unplug()
    settle()
    robot.read()
    assert isinstance(robot, SaysFaults), "a robot that can be unplugged must say so: fault()"
    assert robot.fault(), "the link is cut and fault() is empty two periods later"
    command = rest(robot.embodiment, robot.read())
    _require_return({"send": lambda: robot.send(command), "hold": robot.hold, "read": robot.read})


def _fault(robot: Robot) -> str:
    return robot.fault() if isinstance(robot, SaysFaults) else ""


def _require_return(calls: dict[str, Callable[[], object]]) -> None:
    """Each call returns although the device stands still; in a thread, so that one that does not
    fails the check instead of hanging it."""
    for name, call in calls.items():
        done: list[BaseException | None] = []
        thread = threading.Thread(target=_run, args=(call, done), daemon=True)
        thread.start()
        thread.join(_BLOCKED_S)
        assert not thread.is_alive(), f"{name}() waits for a device that stands still"
        assert done == [None], f"{name}() raised {done[0]!r} because the device stands still"


def _run(call: Callable[[], object], done: list[BaseException | None]) -> None:
    try:
        call()
    except Exception as error:
        done.append(error)
    else:
        done.append(None)
