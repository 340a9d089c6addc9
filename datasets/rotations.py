"""Rotations between the representations that data and networks use: numpy, any leading axes.

A rotation takes coordinates of the turned frame (the tool) to the fixed one (the base). In a
vector it stands as one of

    quat_wxyz, quat_xyzw   4    unit quaternion, order in the name; q and -q are one rotation
    axis_angle             3    axis times angle in rad, 0..pi
    euler_xyz              3    roll, pitch, yaw in rad about the *fixed* axes x, y, z in turn
                                (extrinsic): R = Rz(yaw) Ry(pitch) Rx(roll), as in URDF and ROS.
                                The same as intrinsic z-y'-x''
    matrix                 9    R row by row
    rot6d                  6    first column of R, then its second: Zhou et al., arXiv 1812.07035.
                                UMI and pytorch3d take rows instead: theirs is ours of R^T

Everything is computed in float64 and given in the type that came in. A network should say `rot6d`
(or `matrix`): the others jump somewhere (Zhou et al., section 3), and a network cannot.

Next: `actions.py`, which says where rotations lie in an action and relative to what.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from .schema import unknown_name

Rotation = Literal["quat_wxyz", "quat_xyzw", "axis_angle", "euler_xyz", "matrix", "rot6d"]
ENTRIES: dict[str, int] = dict(zip(get_args(Rotation), (4, 4, 3, 3, 9, 6), strict=True))
"""Numbers each representation takes."""
_TINY = 1e-9
"""Below this a direction is rounding noise, not a direction."""
_TOLERANCE = 2e-2
"""How far from length 1 (or from orthogonal) recorded rotations may be: sensors and float16 logs
stay below; a wrong slice or a wrong order of entries does not."""


def to_matrix(
    values: Float[np.ndarray, "*batch entries"], rotation: Rotation
) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation matrices, float64, of any finite `values`: those that are not quite rotations (what
    a network says) are taken to a near one. NaN stays NaN.

    Raises ValueError where there is no near one (a quaternion of zeros).
    """
    values = _checked(values, rotation)
    match rotation:
        case "quat_wxyz":
            return _matrix_of_quaternion(_unit(values, "a quaternion"))
        case "quat_xyzw":
            return _matrix_of_quaternion(_unit(values[..., [3, 0, 1, 2]], "a quaternion"))
        case "axis_angle":
            half = np.linalg.norm(values, axis=-1, keepdims=True) / 2
            # sin(h) / h by numpy's sinc: exact and smooth through 0.
            vector = values / 2 * np.sinc(half / np.pi)
            return _matrix_of_quaternion(np.concatenate([np.cos(half), vector], axis=-1))
        case "euler_xyz":
            return _matrix_of_euler(values)
        case "matrix":
            return _nearest_rotation(values.reshape(*values.shape[:-1], 3, 3))
        case "rot6d":
            return _gram_schmidt(values)


def from_matrix(
    matrix: Float[np.ndarray, "*batch 3 3"], rotation: Rotation
) -> Float[np.ndarray, "*batch entries"]:
    """A rotation matrix in another representation. Of the several that may mean it: quaternions
    with w >= 0, axis-angle with an angle up to pi, pitch within +-pi/2 (yaw 0 in gimbal lock)."""
    match rotation:
        case "quat_wxyz":
            return _quaternion_of_matrix(matrix)
        case "quat_xyzw":
            return _quaternion_of_matrix(matrix)[..., [1, 2, 3, 0]]
        case "axis_angle":
            return _axis_angle_of_quaternion(_quaternion_of_matrix(matrix))
        case "euler_xyz":
            return _euler_of_matrix(matrix)
        case "matrix":
            return matrix.reshape(*matrix.shape[:-2], 9).copy()
        case "rot6d":
            return np.concatenate([matrix[..., 0], matrix[..., 1]], axis=-1)
    raise unknown_name("rotation", rotation, ENTRIES)


def convert(
    values: Float[np.ndarray, "*batch entries"], source: Rotation, target: Rotation
) -> Float[np.ndarray, "*batch other"]:
    """`values` in another representation, in their own number type."""
    return from_matrix(to_matrix(values, source), target).astype(values.dtype)


def relative(
    origin: Float[np.ndarray, "*#batch 3 3"], target: Float[np.ndarray, "*#batch 3 3"]
) -> Float[np.ndarray, "... 3 3"]:
    """`target` as seen in the frame `origin`: origin^T target. `compose` undoes it; one origin may
    serve many targets."""
    return np.swapaxes(origin, -1, -2) @ target


def compose(
    origin: Float[np.ndarray, "*#batch 3 3"], turn: Float[np.ndarray, "*#batch 3 3"]
) -> Float[np.ndarray, "... 3 3"]:
    """`turn`, given in the frame `origin`, as seen from outside: origin turn."""
    return origin @ turn


def continuous_quaternions(
    values: Float[np.ndarray, "*batch ticks 4"],
    start: Float[np.ndarray, "*batch 4"] | None = None,
) -> Float[np.ndarray, "*batch ticks 4"]:
    """The same rotations, each sign chosen nearest to the tick before (the first: to `start`, or as
    it is), so that no step jumps to the other cover. Any order of entries, the same for both."""
    if start is None:
        start = values[..., 0, :]
    before = np.concatenate([start[..., None, :], values[..., :-1, :]], axis=-2)
    # A tick's sign flips when it disagrees with its neighbour, and so for all that follow it.
    agrees = np.where((before * values).sum(axis=-1) < 0, -1, 1)
    return values * np.cumprod(agrees, axis=-1)[..., None].astype(values.dtype)


def angle_between(
    first: Float[np.ndarray, "*#batch 3 3"], second: Float[np.ndarray, "*#batch 3 3"]
) -> Float[np.ndarray, "..."]:
    """Angle of the turn from one rotation to the other, rad."""
    return np.linalg.norm(from_matrix(relative(first, second), "axis_angle"), axis=-1)


def require_rotations(
    values: Float[np.ndarray, "*batch entries"], rotation: Rotation, what: str
) -> None:
    """Refuse recorded `values` that cannot be rotations of this kind.

    Catches a wrong slice, a missing normalisation and degrees; not a wrong order of a quaternion.
    """
    values = _checked(values, rotation)
    if rotation in ("quat_wxyz", "quat_xyzw"):
        off = np.abs(np.linalg.norm(values, axis=-1) - 1)
        wrong = "its length is not 1"
    elif rotation in ("matrix", "rot6d"):
        axes = values.reshape(*values.shape[:-1], ENTRIES[rotation] // 3, 3)
        off = np.abs(axes @ np.swapaxes(axes, -1, -2) - np.eye(axes.shape[-2])).max(axis=(-2, -1))
        wrong = "its axes are not perpendicular and of length 1"
        if rotation == "matrix":
            off = np.maximum(off, np.abs(np.linalg.det(axes) - 1))
    else:
        off = np.abs(values).max(axis=-1) - 2 * np.pi
        wrong = "more than one turn: degrees?"
    if not (off <= _TOLERANCE).all():  # NaN too
        row = np.unravel_index(int(np.argmax(~(off <= _TOLERANCE))), off.shape)
        raise ValueError(
            f"{what}: expected a rotation as {rotation}, got {values[row].round(4).tolist()} at "
            f"{tuple(int(i) for i in row)} ({wrong}); check which entries it is and how they are "
            f"recorded. Known: {', '.join(ENTRIES)}"
        )


def _checked(values: np.ndarray, rotation: str) -> np.ndarray:
    if rotation not in ENTRIES:
        raise unknown_name("rotation", rotation, ENTRIES)
    if values.shape[-1:] != (ENTRIES[rotation],):
        raise ValueError(
            f"a rotation as {rotation} has {ENTRIES[rotation]} entries, got shape {values.shape}"
        )
    return values.astype(np.float64)


def _unit(vectors: np.ndarray, what: str) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if (length < _TINY).any():
        row = tuple(int(i) for i in np.argwhere(length[..., 0] < _TINY)[0])
        raise ValueError(
            f"{what} of length 0 at {row} is no rotation; check that the entries are the right "
            "ones and were recorded"
        )
    return vectors / length


def _matrix_of_quaternion(q: np.ndarray) -> np.ndarray:
    w, x, y, z = (q[..., i] for i in range(4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _quaternion_of_matrix(matrix: np.ndarray) -> np.ndarray:
    """(w, x, y, z) with w >= 0."""
    m = matrix
    # The entries of 4 q q^T, of which the matrix gives all. Its row with the largest diagonal is a
    # multiple of q that never vanishes (Shepperd 1978, all four cases at once).
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    ww, xx, yy, zz = 1 + trace, *(1 - trace + 2 * m[..., i, i] for i in range(3))
    wx, wy, wz = (m[..., j, i] - m[..., i, j] for i, j in ((1, 2), (2, 0), (0, 1)))
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    outer = np.stack([ww, wx, wy, wz, wx, xx, xy, xz, wy, xy, yy, yz, wz, xz, yz, zz], axis=-1)
    outer = outer.reshape(*outer.shape[:-1], 4, 4)
    largest = np.stack([ww, xx, yy, zz], axis=-1).argmax(axis=-1)[..., None, None]
    q = np.take_along_axis(outer, largest, axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q)


def _axis_angle_of_quaternion(q: np.ndarray) -> np.ndarray:
    w, vector = q[..., :1], q[..., 1:]
    sine = np.linalg.norm(vector, axis=-1, keepdims=True)  # of half the angle
    angle = 2 * np.arctan2(sine, w)
    # Near no turn angle / sine tends to 2; the division would be 0 / 0.
    small = sine < _TINY
    return vector * np.where(small, 2.0, angle / np.where(small, 1.0, sine))


def _matrix_of_euler(angles: np.ndarray) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = (np.moveaxis(f(angles), -1, 0) for f in (np.cos, np.sin))
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _euler_of_matrix(m: np.ndarray) -> np.ndarray:
    cosine = np.hypot(m[..., 0, 0], m[..., 1, 0])  # of the pitch
    locked = cosine < 1e-7
    roll = np.where(
        locked,
        np.arctan2(-m[..., 1, 2], m[..., 1, 1]),
        np.arctan2(m[..., 2, 1], m[..., 2, 2]),
    )
    yaw = np.where(locked, 0.0, np.arctan2(m[..., 1, 0], m[..., 0, 0]))
    return np.stack([roll, np.arctan2(-m[..., 2, 0], cosine), yaw], axis=-1)


def _gram_schmidt(values: np.ndarray) -> np.ndarray:
    """Zhou et al., eq. 15: the first direction is kept, the second loses what it has of it."""
    first = _unit(values[..., :3], "the first axis of a rot6d")
    second = values[..., 3:]
    # Scaled first: whether two axes are parallel does not depend on their lengths.
    second = _unit(second, "the second axis of a rot6d")
    second = second - (first * second).sum(axis=-1, keepdims=True) * first
    second = _unit(second, "the second axis of a rot6d, less its share of the first,")
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def _nearest_rotation(m: np.ndarray) -> np.ndarray:
    """The rotation with the least sum of squared differences (orthogonal Procrustes)."""
    finite = np.isfinite(m).all(axis=(-2, -1), keepdims=True)
    u, _, vt = np.linalg.svd(np.where(finite, m, np.eye(3)))
    sign = np.linalg.det(u @ vt)
    vt = vt * np.stack([np.ones_like(sign), np.ones_like(sign), sign], axis=-1)[..., None]
    return np.where(finite, u @ vt, np.nan)
