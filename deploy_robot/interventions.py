"""What the safety gate can do to a command, as bits that a tick log keeps.

Next: `safety.py` (who sets them).
"""

from enum import IntFlag


class Intervention(IntFlag):
    """What the gate did in one tick; several can be set."""

    RANGE = 1
    """An entry lay outside what the controller obeys, or a joint's goal within the margin of its
    limit: clipped."""
    CHANGE = 2
    """The command changed faster per tick than allowed and was slowed."""
    WORKSPACE = 4
    """The part of the motion that led out of the workspace was removed; an arm told where its
    joints should be brakes instead."""
    NO_ACTION = 8
    """Nothing was due (the first chunk not there, or the plan ran out): held."""
    NOT_FINITE = 16
    """NaN or infinity in the action: held."""
    WRONG_SHAPE = 32
    """An action of another embodiment: held."""
    ACTION_STALE = 64
    """The action was planned from an observation too old: held."""
    OBSERVATION_STALE = 128
    """The robot has not been heard of for too long: held."""
    OBSERVATION_INVALID = 256
    """NaN or infinity in what the robot measured: held."""
    JOINT_LIMIT = 512
    """A measured joint is within the margin of its limit and would go on: held."""
    POLICY_SILENT = 1024
    """The inference process is alive but shows no heartbeat: latched stop."""
    POLICY_DEAD = 2048
    """The inference process is gone: latched stop."""
    REFUSED_TOO_LONG = 4096
    """Too many refused ticks in a row: latched stop."""
    MANUAL_STOP = 8192
    """Somebody pressed stop: latched stop."""
    LATCHED = 16384
    """Held because of an earlier stop that nobody has released."""
    POLICY_UNREACHABLE = 32768
    """A remote policy is not there: held; after `max_policy_silence_s` a latched stop."""
    VELOCITY = 65536
    """The goal would have needed more than the joints' velocity: slowed."""
    ACCELERATION = 131072
    """The goal would have needed more than the joints' acceleration: slowed."""
    JERK = 262144
    """The goal would have needed more than the joints' jerk: slowed."""
    COLLISION = 524288
    """Where the command leads the arm would touch itself or the table: braked, held. In a row a
    stop like every refusal: a goal that lies there never comes free by waiting."""
    TRACKING = 1048576
    """The arm is not where it was told to be (blocked, or somebody else stopped it): held."""
    ROBOT_FAULT = 2097152
    """The robot said that something is broken: latched stop, in its words."""
    NO_MOTION_PLAN = 4194304
    """No lawful motion to the goal was found: braked along the last one that was."""
    DRY_RUN = 8388608
    """Everything was computed, nothing is sent: the arm holds."""
    SINGULAR = 16777216
    """The tool would lead the arm on into a pose (stretched, folded) where holding the tool does
    not hold the joints: held."""


CORRECTED: int = (
    Intervention.RANGE
    | Intervention.CHANGE
    | Intervention.WORKSPACE
    | Intervention.VELOCITY
    | Intervention.ACCELERATION
    | Intervention.JERK
).value
"""Bits of a command that was sent, corrected; any other bit means that the arm held."""

REFUSALS: int = (
    Intervention.NOT_FINITE
    | Intervention.WRONG_SHAPE
    | Intervention.ACTION_STALE
    | Intervention.OBSERVATION_STALE
    | Intervention.OBSERVATION_INVALID
    | Intervention.JOINT_LIMIT
    | Intervention.TRACKING
    | Intervention.COLLISION
    | Intervention.SINGULAR
).value
"""Bits of a fault; enough of them in a row are a stop."""
