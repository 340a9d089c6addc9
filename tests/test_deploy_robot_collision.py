"""The arm's model: where the tool is, what touches, what is left out and why."""

from pathlib import Path

import numpy as np
import pytest

from ulna.deploy_robot.collision import ArmModel, model_of
from ulna.deploy_robot.limits_file import SHIPPED, shipped_limits


def model(arm: str) -> ArmModel:
    found = model_of(shipped_limits(arm))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("arm", "joints", "tool_m"),
    [
        # From the makers' own tables: flange (and hand) with all joints at zero or at rest.
        ("panda", [0.0] * 7, [0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.107 - 0.0985]),
        ("ur5e", [0.0] * 6, [0.8172, 0.2336, 0.0628]),
        ("so101", [0.0] * 5, [0.3914, 0.0, 0.2265]),
    ],
)
def test_the_tool_is_where_the_maker_says(arm: str, joints, tool_m):
    np.testing.assert_allclose(model(arm).look(np.array(joints))[0], tool_m, atol=2e-3)


@pytest.mark.parametrize("arm", SHIPPED)
def test_the_rest_pose_is_free_and_few_links_are_neighbours(arm: str):
    limits, found = shipped_limits(arm), model(arm)
    assert found.look(np.array(limits.rest_rad))[1] == limits.collision_margin_m
    assert found.touching(np.array(limits.rest_rad)) == []
    assert len(found.excluded) <= 2


@pytest.mark.parametrize("arm", SHIPPED)
def test_the_jacobian_is_the_derivative_of_the_tool(arm: str):
    found, joints = model(arm), np.array(shipped_limits(arm).rest_rad) + 0.1
    jacobian = found.jacobian(joints)[:3].copy()
    here = found.look(joints)[0].copy()
    for joint in range(len(joints)):
        step = np.zeros(len(joints))
        step[joint] = 1e-6
        slope = (found.look(joints + step)[0] - here) / 1e-6
        np.testing.assert_allclose(jacobian[:, joint], slope, atol=1e-5)


@pytest.mark.parametrize("arm", SHIPPED)
def test_no_point_moves_faster_than_its_joints_reach(arm: str):
    limits, found = shipped_limits(arm), model(arm)
    random = np.random.default_rng(0)
    for _ in range(200):
        one = random.uniform(limits.low_rad, limits.high_rad)
        two = one + random.normal(0, 0.01, len(one))
        moved = np.linalg.norm(found.look(one)[0].copy() - found.look(two)[0])
        assert moved <= np.abs(two - one) @ found.reach_m


def test_a_pose_in_the_table_and_one_in_itself_are_seen():
    panda, rest = model("panda"), np.array(shipped_limits("panda").rest_rad)
    low = rest + [0, 1.6, 0, 0, 0, 0, 0]
    assert panda.look(low)[1] < 0 and "table" in panda.touching(low)[0]
    assert panda.look(low, collisions=False)[1] == panda.margin_m
    folded = np.array([0, 1.5, 0, -3.0, 0, 0.1, 0])
    assert panda.look(folded)[1] < 0


def test_a_table_can_lie_elsewhere():
    limits = shipped_limits("panda")
    rest = np.array(limits.rest_rad)
    low = rest + [0, 1.5, 0, 0, 0, 0, 0]
    arguments = (limits.model, limits.joint_names, "tool", limits.rest_rad, 0.01)
    assert ArmModel(*arguments).look(low)[1] < 0
    assert ArmModel(*arguments, table_height_m=-0.11).look(low)[1] == 0.01


def test_what_touches_at_rest_is_excluded_and_said(tmp_path: Path):
    path = tmp_path / "two.xml"
    path.write_text(
        '<mujoco><worldbody><geom name="table" type="plane" size="1 1 1"/><body name="a" '
        'pos="0 0 1"><geom size="0.1"/><body name="b" pos="0 0 0.1"><joint name="j" axis="0 1 0"/>'
        '<geom size="0.02"/><body name="c" pos="0 0 0.05"><geom size="0.06"/><site name="tool"/>'
        "</body></body></body></worldbody></mujoco>"
    )
    found = ArmModel(path, ("j",), "tool", (0.0,), 0.01)
    assert ("a", "c") in found.excluded
    assert found.look(np.zeros(1))[1] == 0.01
    with pytest.raises(ValueError, match="'k'.*Did you mean 'j'|'k'.*Known: j"):
        ArmModel(path, ("k",), "tool", (0.0,), 0.01)
    with pytest.raises(ValueError, match="'tol'.*Did you mean 'tool'"):
        ArmModel(path, ("j",), "tol", (0.0,), 0.01)
    with pytest.raises(ValueError, match="2 positions for 1 joints"):
        ArmModel(path, ("j",), "tool", (0.0, 0.0), 0.01)
    with pytest.raises(ValueError, match="does not exist"):
        ArmModel(tmp_path / "no.xml", ("j",), "tool", (0.0,), 0.01)
    path.write_text("<mujoco><worldbody><body><joint/></body></worldbody></mujoco>")
    with pytest.raises(ValueError, match="MuJoCo compiles"):
        ArmModel(path, ("j",), "tool", (0.0,), 0.01)
