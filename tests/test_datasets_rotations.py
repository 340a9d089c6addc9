"""Rotations against scipy, there and back, and where representations are singular."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation as Oracle

from ulna.datasets.rotations import (
    ENTRIES,
    Rotation,
    angle_between,
    compose,
    continuous_quaternions,
    convert,
    from_matrix,
    relative,
    require_rotations,
    to_matrix,
)

NAMES: tuple[Rotation, ...] = get_args(Rotation)

directions = arrays(np.float64, 3, elements=st.floats(-1, 1)).filter(
    lambda v: float(np.linalg.norm(v)) > 0.1
)
# Where formulas break: no turn, almost none, half a turn and just around it.
angles = st.one_of(
    st.floats(0, np.pi),
    st.sampled_from([0.0, 1e-300, 1e-12, 1e-8, 1e-4, np.pi - 1e-4, np.pi - 1e-8, np.pi]),
)


@st.composite
def rotation_vectors(draw: st.DrawFn) -> np.ndarray:
    direction = draw(directions)
    return direction / np.linalg.norm(direction) * draw(angles)


def oracle_of(values: np.ndarray, rotation: Rotation) -> Oracle:
    match rotation:
        case "quat_wxyz":
            return Oracle.from_quat(values, scalar_first=True)
        case "quat_xyzw":
            return Oracle.from_quat(values)
        case "axis_angle":
            return Oracle.from_rotvec(values)
        case "euler_xyz":
            return Oracle.from_euler("xyz", values)  # lower case: fixed axes
        case "matrix":
            return Oracle.from_matrix(values.reshape(-1, 3, 3))
        case _:
            first, second = values[:, :3], values[:, 3:]
            return Oracle.from_matrix(np.stack([first, second, np.cross(first, second)], axis=-1))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(vector=rotation_vectors())
def test_every_representation_is_scipys_rotation(name: Rotation, vector: np.ndarray):
    truth = Oracle.from_rotvec(vector[None])
    values = from_matrix(truth.as_matrix(), name)
    assert values.shape == (1, ENTRIES[name])
    assert (oracle_of(values, name).inv() * truth).magnitude()[0] < 1e-7
    np.testing.assert_allclose(to_matrix(values, name), truth.as_matrix(), atol=1e-7)


def test_random_rotations_agree_with_scipy_to_rounding():
    truth = Oracle.random(500, np.random.default_rng(0))
    assert len(np.unique(np.abs(truth.as_quat()).argmax(axis=1))) == 4  # all of Shepperd's cases
    for name in NAMES:
        values = from_matrix(truth.as_matrix(), name)
        np.testing.assert_allclose(to_matrix(values, name), truth.as_matrix(), atol=1e-12)
        np.testing.assert_allclose(oracle_of(values, name).as_matrix(), truth.as_matrix(), 0, 1e-12)
    np.testing.assert_allclose(
        from_matrix(truth.as_matrix(), "euler_xyz"), truth.as_euler("xyz"), atol=1e-9
    )


@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("target", NAMES)
def test_there_and_back_in_float32(source: Rotation, target: Rotation):
    matrices = Oracle.random(60, np.random.default_rng(1)).as_matrix().reshape(3, 20, 3, 3)
    values = from_matrix(matrices, source).astype(np.float32)
    there = convert(values, source, target)
    assert there.dtype == np.float32 and there.shape == (3, 20, ENTRIES[target])
    back = to_matrix(convert(there, target, source), source)
    np.testing.assert_allclose(back, matrices, atol=2e-6)


def test_canonical_choices():
    half_turns = Oracle.random(200, np.random.default_rng(2)).as_quat(scalar_first=True)
    half_turns[:, 0] = 0
    half_turns /= np.linalg.norm(half_turns, axis=1, keepdims=True)
    for quaternions in (half_turns, Oracle.random(200, np.random.default_rng(3)).as_quat()):
        matrices = to_matrix(quaternions, "quat_wxyz")
        np.testing.assert_allclose(to_matrix(-quaternions, "quat_wxyz"), matrices, atol=1e-15)
        assert (from_matrix(matrices, "quat_wxyz")[:, 0] >= 0).all()
        vectors = from_matrix(matrices, "axis_angle")
        assert (np.linalg.norm(vectors, axis=1) <= np.pi + 1e-12).all()
        np.testing.assert_allclose(to_matrix(vectors, "axis_angle"), matrices, atol=1e-9)
    # More than half a turn comes back as the shorter one the other way round.
    np.testing.assert_allclose(
        convert(np.array([0, 0, np.pi + 0.25]), "axis_angle", "axis_angle"),
        [0, 0, 0.25 - np.pi],
        atol=1e-12,
    )


@pytest.mark.parametrize("angle", [1e-300, 1e-12, 1e-8, 1e-4])
def test_small_turns_keep_their_size(angle: float):
    vector = np.array([0.6, 0.0, -0.8]) * angle
    found = convert(vector, "axis_angle", "axis_angle")
    np.testing.assert_allclose(found, vector, rtol=1e-6, atol=0)


def test_gimbal_lock_keeps_the_rotation():
    for pitch in (np.pi / 2, -np.pi / 2):
        matrix = to_matrix(np.array([0.4, pitch, -0.9]), "euler_xyz")
        angles = from_matrix(matrix, "euler_xyz")
        assert angles[2] == 0
        np.testing.assert_allclose(to_matrix(angles, "euler_xyz"), matrix, atol=1e-9)


def test_rot6d_is_columns_and_any_two_directions_do():
    matrix = Oracle.from_euler("xyz", [0.3, -0.5, 1.1]).as_matrix()
    np.testing.assert_array_equal(
        from_matrix(matrix, "rot6d"), np.concatenate([matrix[:, 0], matrix[:, 1]])
    )
    # Scaled, and the second leaning towards the first: Gram-Schmidt takes both off.
    leaning = np.concatenate([3 * matrix[:, 0], 0.2 * matrix[:, 1] + 5 * matrix[:, 0]])
    np.testing.assert_allclose(to_matrix(leaning, "rot6d"), matrix, atol=1e-9)
    found = to_matrix(np.random.default_rng(0).normal(size=(50, 6)), "rot6d")
    np.testing.assert_allclose(
        found @ np.swapaxes(found, 1, 2), np.eye(3)[None] + 0 * found, 0, 1e-9
    )
    np.testing.assert_allclose(np.linalg.det(found), 1)


def test_matrix_is_taken_to_the_nearest_rotation():
    random = np.random.default_rng(0)
    noisy = np.eye(3) + random.normal(0, 0.3, (40, 3, 3))
    noisy[0] = np.diag([1.0, 1.0, -1.0])  # a mirror
    found = to_matrix(noisy.reshape(40, 9), "matrix")
    np.testing.assert_allclose(np.linalg.det(found), 1)
    distance = ((found - noisy) ** 2).sum(axis=(1, 2))
    for size in (0.01, 0.3, 3.0):
        nearby = found @ Oracle.from_rotvec(random.normal(0, size, (500, 1, 3))).as_matrix()
        assert (((nearby - noisy) ** 2).sum(axis=(-2, -1)) >= distance - 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(origin=rotation_vectors(), target=rotation_vectors())
def test_relative_and_compose(origin: np.ndarray, target: np.ndarray):
    a, b = (to_matrix(v[None], "axis_angle") for v in (origin, target))
    turn = relative(a, b)
    np.testing.assert_allclose(compose(a, turn), b, atol=1e-9)
    expected = Oracle.from_rotvec(origin).inv() * Oracle.from_rotvec(target)
    np.testing.assert_allclose(turn[0], expected.as_matrix(), atol=1e-7)
    assert abs(angle_between(a, b)[0] - expected.magnitude()) < 1e-7


def test_quaternions_without_jumps():
    random = np.random.default_rng(0)
    turns = Oracle.from_rotvec(np.cumsum(random.normal(0, 0.1, (4, 60, 3)), axis=1).reshape(-1, 3))
    smooth = continuous_quaternions(turns.as_quat().reshape(4, 60, 4))
    flipped = smooth * random.choice([-1, 1], (4, 60, 1))
    np.testing.assert_allclose(continuous_quaternions(flipped, smooth[:, 0]), smooth)
    assert (np.linalg.norm(np.diff(smooth, axis=1), axis=-1) < 0.5).all()
    np.testing.assert_allclose(continuous_quaternions(flipped, -smooth[:, 0]), -smooth)
    # Without a start the first tick is as it is.
    np.testing.assert_array_equal(continuous_quaternions(flipped)[:, 0], flipped[:, 0])


def test_refusals():
    with pytest.raises(ValueError, match=r"quat_wxyz has 4 entries, got shape \(2, 3\)"):
        to_matrix(np.zeros((2, 3)), "quat_wxyz")
    with pytest.raises(ValueError, match="a quaternion of length 0 at \\(1,\\)"):
        to_matrix(np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]]), "quat_wxyz")
    with pytest.raises(ValueError, match="second axis of a rot6d, less its share"):
        to_matrix(np.array([1.0, 2, 3, 2, 4, 6]), "rot6d")
    for name in NAMES:
        assert np.isnan(to_matrix(np.full(ENTRIES[name], np.nan), name)).any(), name


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("quat_xyzw", [0.3, 0.1, 0.0, 0.2], "length is not 1"),
        ("rot6d", [1, 0, 0, 1, 0, 0], "perpendicular"),
        ("matrix", [1, 0, 0, 0, 1, 0, 0, 0, -1], "perpendicular"),
        ("axis_angle", [0, 90.0, 0], "degrees"),
        ("euler_xyz", [np.nan, 0, 0], "degrees"),
    ],
)
def test_recorded_values_that_are_no_rotation(name: Rotation, values: list[float], why: str):
    good = from_matrix(Oracle.random(4, np.random.default_rng(0)).as_matrix(), name)
    require_rotations(good.astype(np.float16).astype(np.float32), name, "state")
    good[2] = values
    with pytest.raises(ValueError, match=rf"tool: expected a rotation as {name}.*\(2,\) .*{why}"):
        require_rotations(good, name, "tool")
