"""What `--actions` may say: words for joints, a file for everything else, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from ulna.datasets.action_forms import action_space
from ulna.datasets.action_parts import GRIPPERS, ActionPart, Gripper, StatePart
from ulna.datasets.schema import Embodiment

ARM = Embodiment(
    name="follower",
    control_hz=30.0,
    state_names=("pan.pos", "lift.pos", "current_a", "wrist.pos", "gripper.pos"),
    action_names=("pan.pos", "lift.pos", "gripper.pos", "wrist.pos"),
    action_low=(-3.0, -3.0, 0.0, -3.0),
    action_high=(3.0, 3.0, 100.0, 3.0),
    action_meaning="joint targets",
    cameras=(),
)
HAND = Embodiment(
    name="hand",
    control_hz=10.0,
    state_names=("tx", "ty", "tz", "trx", "try", "trz", "width_m"),
    action_names=("x", "y", "z", "rx", "ry", "rz", "width"),
    action_low=(-9.0,) * 7,
    action_high=(9.0,) * 7,
    action_meaning="tool pose",
    cameras=(),
)
FILE = """
[[action]]
kind = "gripper"
entries = ["width"]
mode = "absolute"
gripper = { open_at = 0.08, closed_at = 0.0 }

[[action]]
kind = "position"
entries = ["x", "y", "z"]
mode = "chunk_relative"
state = ["tx", "ty", "tz"]
frame = "base"

[[action]]
kind = "rotation"
entries = ["rx", "ry", "rz"]
mode = "chunk_relative"
state = ["trx", "try", "trz"]
rotation = "axis_angle"

[[state]]
kind = "hidden"
entries = ["trx", "try", "trz"]
rotation = "axis_angle"

[[state]]
kind = "hidden"
entries = ["tx", "ty", "tz"]
"""


def test_words_are_for_joints_measured_under_the_same_name():
    space = action_space("chunk_relative", ARM)
    assert space.parts == (
        ActionPart("joints", (0, 2), "chunk_relative", (0, 2)),
        ActionPart("other", (2, 3)),  # the gripper stays
        ActionPart("joints", (3, 4), "chunk_relative", (3, 4)),
    )
    state = np.array([[0.5, -0.5, 9.0, 1.0, 40.0]], np.float32)
    action = np.array([[[0.6, -0.5, 55.0, 1.25]]], np.float32)
    np.testing.assert_allclose(
        space.to_network(action, state), [[[0.1, 0.0, 55.0, 0.25]]], atol=1e-6
    )
    assert action_space("delta", ARM).parts[0].mode == "delta"
    assert action_space("", ARM).is_as_recorded


def test_a_file_names_the_entries_in_any_order(tmp_path: Path):
    path = tmp_path / "hand.toml"
    path.write_text(FILE)
    space = action_space(str(path), HAND)
    assert [part.action for part in space.parts] == [(0, 3), (3, 6), (6, 7)]
    assert space.parts[0] == ActionPart("position", (0, 3), "chunk_relative", (0, 3), "base")
    assert space.parts[2].gripper == Gripper(open_at=0.08, closed_at=0.0)
    assert space.state_parts == (
        StatePart("hidden", (0, 3)),
        StatePart("hidden", (3, 6), "axis_angle"),
    )
    path.write_text(
        '[[action]]\nkind = "gripper"\nentries = ["width"]\n'
        'mode = "absolute"\ngripper = "robosuite"\n'
    )
    space = action_space(str(path), HAND)
    assert space.parts[0] == ActionPart("other", (0, 6))  # what no part names
    assert space.parts[1].gripper == GRIPPERS["robosuite"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[actions]]\nkind = "other"', "unknown key in the file 'actions'"),
        ('[[action]]\nkind = "other"\nentries = ["xx"]', "unknown action entry 'xx'"),
        ('[[action]]\nkind = "other"\nentries = ["x", "z"]', "x, z must follow one another"),
        ('[[action]]\nkind = "other"\nentries = []', r"\(none\) must follow"),
        ('[[action]]\nkind = "wheel"\nentries = ["x"]', "wheel"),
        ('[[action]]\nkind = "gripper"\nentries = ["width"]\ngripper = "robosuit"', "'robosuite'"),
        ('[[action]]\nentries = ["x"]', "'kind'"),
        ("[[action", "TOML|Expected"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(text: str, words: str, tmp_path: Path):
    path = tmp_path / "hand.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as said:
        action_space(str(path), HAND)
    assert "hand.toml" in str(said.value) and "robot hand" in str(said.value)


def test_words_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no action of hand is measured under the same name.*tx"):
        action_space("delta", HAND)
    with pytest.raises(ValueError, match="unknown form of actions 'relative'.*chunk_relative"):
        action_space("relative", ARM)
    with pytest.raises(ValueError, match="nowhere.toml does not exist"):
        action_space("nowhere.toml", ARM)
