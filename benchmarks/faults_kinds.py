"""What can happen to a flight in `faults.py`, and what must come of it."""

from dataclasses import dataclass
from typing import Literal

from faults_parts import SILENCE_S

from ulna.deploy_robot.interventions import Intervention
from ulna.deploy_robot.robot_health import MAX_FRAME_AGE_S, MAX_STATE_AGE_S

OBSERVATION_S = 0.25
"""The gate's `max_observation_age_s`."""
CALL_S, PING_S, ASKED_EVERY_S = 0.25, 0.3, 0.35
"""Of the remote policy: time-out of a call, silence until a ping, and the longest time between two
occasions to miss it."""
REST_S = 0.4
"""From the end of the brake's command until the arm, whose servo lags, is at rest."""


@dataclass(frozen=True)
class Fault:
    """One way in which things go wrong."""

    victim: str
    """Who is struck, as it signs in; empty: the simulated arm is told beforehand."""
    stop_s: float
    """Within which the arm stands and, where the loop lives, the gate is latched."""
    latched_by: Intervention | None
    """None: nothing is left to latch, or nothing needs to be."""
    strikes: Literal["kill", "freeze", "link_loss_s", "camera_death_s"] = "kill"
    notice_s: float = 0.0
    """From the fault until anybody can know of it: the time-out that says so."""
    thaw_s: float = 0.0
    """A frozen process goes on after so long: it must not move the arm then either."""
    robots: tuple[str, ...] = ("tool", "joints")
    remote: bool = False
    goes_on: bool = False
    """The arm is none the worse for it and finishes its episode."""


FAULTS = {
    "policy killed": Fault("policy", REST_S, Intervention.POLICY_DEAD),
    "policy frozen": Fault(
        "policy",
        SILENCE_S + REST_S,
        Intervention.POLICY_SILENT,
        "freeze",
        SILENCE_S,
    ),
    "server killed": Fault(
        "server",
        SILENCE_S + REST_S,
        Intervention.POLICY_UNREACHABLE,
        notice_s=0.05,
        remote=True,
    ),
    "server frozen": Fault(
        "server",
        ASKED_EVERY_S + CALL_S + SILENCE_S + REST_S,
        Intervention.POLICY_UNREACHABLE,
        "freeze",
        ASKED_EVERY_S + CALL_S,
        remote=True,
    ),
    "camera killed": Fault("camera", REST_S, Intervention.ROBOT_FAULT, robots=("joints",)),
    "camera frozen": Fault(
        "camera",
        MAX_FRAME_AGE_S + REST_S,
        Intervention.ROBOT_FAULT,
        "freeze",
        OBSERVATION_S,
        thaw_s=MAX_FRAME_AGE_S + REST_S,
        robots=("joints",),
    ),
    "camera dead": Fault(
        "",
        MAX_FRAME_AGE_S + REST_S,
        Intervention.ROBOT_FAULT,
        "camera_death_s",
        OBSERVATION_S,
        robots=("tool",),
    ),
    "link killed": Fault("device", REST_S, Intervention.ROBOT_FAULT),
    "link lost": Fault("", REST_S, Intervention.ROBOT_FAULT, "link_loss_s", notice_s=0.05),
    "link frozen": Fault(
        "device",
        MAX_STATE_AGE_S + REST_S,
        Intervention.ROBOT_FAULT,
        "freeze",
        OBSERVATION_S,
        thaw_s=MAX_STATE_AGE_S + REST_S,
    ),
    "recorder killed": Fault("recorder", 0.0, None, goes_on=True),
    "supervisor killed": Fault("supervisor", REST_S, Intervention.MANUAL_STOP),
    "control killed": Fault("control", REST_S, None),
}
