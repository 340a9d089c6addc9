"""Limits as data and as files: what is left out is said, what is misspelled is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ulna.deploy_robot.limits import CHECKS, ArmLimits
from ulna.deploy_robot.limits_file import SHIPPED, read_limits, shipped_limits, write_limits
from ulna.deploy_robot.limits_import import limits_from_model, read_joints

PANDA = shipped_limits("panda")
MINIMAL: dict[str, Any] = dict(
    name="slide",
    joint_names=("slide",),
    position_low_rad=(-1.0,),
    position_high_rad=(1.0,),
    velocity_rad_s=(1.0,),
)
URDF = """<robot name="two">
  <link name="a"/><link name="b"/><link name="c"/><link name="d"/>
  <joint name="lift" type="revolute"><parent link="a"/><child link="b"/>
    <limit lower="-1.5" upper="2" velocity="3" effort="40"/></joint>
  <joint name="roll" type="continuous"><parent link="b"/><child link="c"/></joint>
  <joint name="turn" type="revolute"><parent link="c"/><child link="d"/>
    <limit upper="1.25" velocity="2.5"/></joint>
</robot>"""


@pytest.mark.parametrize("arm", SHIPPED)
def test_the_limits_that_come_along_are_whole(arm: str):
    limits = shipped_limits(arm)
    assert limits.unlimited == () and limits.source and Path(limits.model).is_file()
    described = read_joints(limits.model)
    for name, low, high in zip(
        limits.joint_names, limits.position_low_rad, limits.position_high_rad, strict=True
    ):
        assert described[name].low_rad == pytest.approx(low, abs=1e-3)
        assert described[name].high_rad == pytest.approx(high, abs=1e-3)


@pytest.mark.parametrize("arm", SHIPPED)
def test_limits_survive_their_file(arm: str, tmp_path: Path):
    limits = replace(shipped_limits(arm), fraction=0.1, unlimited=("tracking",))
    write_limits(tmp_path / "arm.toml", limits)
    assert read_limits(tmp_path / "arm.toml") == limits


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_left_out_has_to_be_said(check: str):
    fields = {
        "acceleration": dict(acceleration_rad_s2=()),
        "jerk": dict(jerk_rad_s3=()),
        "workspace": dict(workspace_low_m=(), workspace_high_m=()),
        "collision": dict(collision_margin_m=0.0),
        "tracking": dict(tracking_rad=()),
    }[check]
    with pytest.raises(ValueError, match=rf"check '{check}'.*unlimited = \['{check}'\]"):
        replace(PANDA, **fields)
    assert replace(PANDA, **fields, unlimited=(check,)).unlimited == (check,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(unlimited=("colision",)), "'colision'.*Did you mean 'collision'"),
        (dict(velocity_rad_s=(1.0,)), "velocity_rad_s has 1 entries for 7 joints"),
        (dict(jerk_rad_s3=(0.0,) * 7), "greater than 0"),
        (dict(velocity_rad_s=(np.nan,) * 7), "greater than 0"),
        (dict(fraction=1.5), "fraction 1.5"),
        (dict(position_margin_rad=2.0), "low must be below high"),
        (dict(workspace_low_m=(0.9, 0.0, 0.0)), "empty workspace"),
        (dict(workspace_low_m=(0.1, 0.2)), "x, y and z"),
        (dict(model="", unlimited=("collision",)), "no model of the arm"),
        (dict(rest_rad=()), "rest_rad has 0 entries"),
    ],
)
def test_limits_that_make_no_sense_are_refused(changes, words: str):
    with pytest.raises(ValueError, match=words):
        replace(PANDA, **changes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("velocity_rads = [1]", "'velocity_rads'.*Did you mean 'velocity_rad_s'"),
        ("fraction = true", "fraction is True; expected a number"),
        ("max_refused_ticks = 1.5", "expected a whole number"),
        ("rest_rad = ['a']", "expected a list of numbers"),
        ("joint_names = 'a'", "expected a list of names"),
        ("name = 3", "expected a text"),
        ("name = 'x'", "does not say joint_names"),
        ("name = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, words: str):
    path = tmp_path / "arm.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_limits(path)
    with pytest.raises(ValueError, match="one of: panda, ur5e, so101"):
        read_limits(tmp_path / "none.toml")
    with pytest.raises(ValueError, match="'pandas'.*Did you mean 'panda'"):
        shipped_limits("pandas")


def test_a_urdf_gives_ranges_and_velocities(tmp_path: Path):
    path = tmp_path / "two.urdf"
    path.write_text(URDF)
    limits = limits_from_model(path, unlimited=CHECKS)
    assert limits.joint_names == ("lift", "turn")
    assert limits.position_low_rad == (-1.5, 0.0) and limits.position_high_rad == (2.0, 1.25)
    assert limits.velocity_rad_s == (3.0, 2.5)
    assert read_joints(path)["lift"].effort_nm == 40.0
    assert limits_from_model(path, ("turn",), unlimited=CHECKS).joint_names == ("turn",)
    with pytest.raises(ValueError, match="'turns'.*Did you mean 'turn'"):
        limits_from_model(path, ("turns",))
    with pytest.raises(ValueError, match="leave out the check 'acceleration'"):
        limits_from_model(path)


def test_a_mjcf_gives_ranges_in_radians_and_asks_for_velocities(tmp_path: Path):
    path = tmp_path / "one.xml"
    path.write_text(
        '<mujoco><worldbody><body><joint name="lift" range="-90 45" limited="true"/>'
        '<geom size="0.1"/></body></worldbody></mujoco>'
    )
    with pytest.raises(ValueError, match="no velocity limit for lift; give velocity_rad_s"):
        limits_from_model(path, unlimited=CHECKS)
    limits = limits_from_model(path, velocity_rad_s=(1.0,), unlimited=CHECKS)
    np.testing.assert_allclose(limits.position_low_rad, -np.pi / 2)
    np.testing.assert_allclose(limits.position_high_rad, np.pi / 4)


def test_a_description_with_entities_or_of_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "bad.urdf"
    for text, words in (
        ('<!DOCTYPE a [<!ENTITY b "c">]><robot/>', "entities"),
        ("<robot/>", "no turning joint"),
        ("<house/>", "is a <house>"),
        ("<robot", "is not XML"),
        (URDF.replace('velocity="3"', 'velocity="fast"'), "velocity of lift is 'fast'"),
        (URDF.replace('velocity="3"', ""), "no velocity limit for lift"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            limits_from_model(path, unlimited=CHECKS)


def test_the_least_limits_name_everything_they_leave_out():
    assert ArmLimits(**MINIMAL, unlimited=CHECKS).low_rad == pytest.approx([-0.95])
    with pytest.raises(ValueError, match="leave out"):
        ArmLimits(**MINIMAL)
