"""robosuite's OSC_POSE controller, compiled: the same torques at a fifth of the cost.

Per physics step of 2 ms, with J the tool's Jacobian, M the arm's mass matrix and e the pose error:

        L_p = (J_p M^-1 J_p^T)^-1     L_r = (J_r M^-1 J_r^T)^-1      (position and rotation apart)
        torque = J^T [L_p (kp e_p - kd v_p); L_r (kp e_r - kd v_r)] + gravity + N^T posture

(Khatib 1987, "A unified approach for motion and force control of robot manipulators"; N is the
null space of J, through which the arm is drawn to its home posture.) `StockController` in
`envs/robosuite_scene.py` is the oracle; a test holds the two together to rounding.

Next: `envs/robosuite_env.py` (who steps it).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

import inspect

import mujoco
import numba
import numpy as np
from jaxtyping import Float

from .robosuite_scene import ARM_HOME_RAD, SUBSTEPS

POSITION_SCALE_M = 0.05
ROTATION_SCALE_RAD = 0.5
STIFFNESS = 150.0
DAMPING = 2 * np.sqrt(STIFFNESS)
POSTURE_STIFFNESS = 10.0
POSTURE_DAMPING = 2 * np.sqrt(POSTURE_STIFFNESS)
GRIPPER_SPEED = 0.2
"""Share of half the finger's way per control step."""


class CompiledController:
    """OSC_POSE on a MuJoCo model of the Panda scene."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._model, self._data = model, data
        joints = [model.joint(f"robot0_joint{i}") for i in range(1, 8)]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dofs = np.array([joint.dofadr[0] for joint in joints])
        self._site = model.site("gripper0_right_grip_site").id
        arm = [model.actuator(f"robot0_torq_j{i}").id for i in range(1, 8)]
        fingers = [model.actuator(f"gripper0_right_gripper_finger_joint{i}").id for i in (1, 2)]
        self._actuators = np.array(arm)
        self._fingers = np.array(fingers)
        self._limits = model.actuator_ctrlrange[self._actuators].copy()
        self._finger_middle = model.actuator_ctrlrange[fingers].mean(axis=1)
        self._finger_reach = np.ptp(model.actuator_ctrlrange[fingers], axis=1) / 2
        self._jacobian_position = np.zeros((3, model.nv))
        self._jacobian_rotation = np.zeros((3, model.nv))
        self._mass = np.zeros((model.nv, model.nv))
        # Views of MuJoCo's memory, which stays where it is: asking for one costs as much as a
        # product of matrices, 25 times per control step.
        self._tool_position = data.site_xpos[self._site]
        self._tool_rotation = data.site_xmat[self._site]
        self._inertia = data.qM
        self._ctrl = data.ctrl
        self._motion = data.qpos, data.qvel, data.qfrc_bias
        self._home = np.array(ARM_HOME_RAD)
        self._gripper_command = 0.0

    @property
    def gripper_command(self) -> float:
        return self._gripper_command

    def reset(self, gripper_command: float) -> None:
        self._gripper_command = gripper_command

    def step(self, action: Float[np.ndarray, "7"]) -> None:
        model, data, site = self._model, self._data, self._site
        mujoco.mj_step1(model, data)
        goal_position = self._tool_position + POSITION_SCALE_M * action[:3]
        # The base stands unturned in the world, so its axes are the world's.
        turn = rotation_float32(ROTATION_SCALE_RAD * action[3:6])
        goal_rotation = turn @ self._tool_rotation.reshape(3, 3)
        moved = self._gripper_command + GRIPPER_SPEED * np.sign(action[6])
        self._gripper_command = float(np.clip(moved, -1.0, 1.0))
        # Finger 1 opens towards +, finger 2 towards -.
        way = np.array([-self._gripper_command, self._gripper_command])
        ctrl, actuators, inertia, mass = self._ctrl, self._actuators, self._inertia, self._mass
        position, rotation = self._jacobian_position, self._jacobian_rotation
        ctrl[self._fingers] = self._finger_middle + self._finger_reach * way
        for substep in range(SUBSTEPS):
            if substep > 0:
                mujoco.mj_step1(model, data)
            mujoco.mj_jacSite(model, data, position, rotation, site)
            mujoco.mj_fullM(model, mass, inertia)
            ctrl[actuators] = _torques(
                position,
                rotation,
                mass,
                *self._motion,
                self._tool_position,
                self._tool_rotation,
                goal_position,
                goal_rotation,
                self._home,
                self._limits,
                self._qpos,
                self._dofs,
            )
            mujoco.mj_step2(model, data)


def rotation_float32(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Axis-angle (rad) to a matrix, rounded through float32 as robosuite does: without that, arms
    of the two controllers drift apart."""
    angle = np.linalg.norm(vector)
    if angle == 0.0:
        return np.eye(3)
    quat = np.empty(4)
    quat[0] = np.cos(angle / 2)
    quat[1:] = vector / angle * np.sin(angle / 2)
    q = quat.astype(np.float32)
    q = (q * np.sqrt(2.0 / np.float64(np.dot(q, q)))).astype(np.float32)
    p = np.outer(q, q)
    diagonal = p.diagonal().astype(np.float64)
    matrix = np.array(
        [
            [0, p[1, 2] - p[3, 0], p[1, 3] + p[2, 0]],
            [p[1, 2] + p[3, 0], 0, p[2, 3] - p[1, 0]],
            [p[1, 3] - p[2, 0], p[2, 3] + p[1, 0], 0],
        ],
        dtype=np.float64,
    )
    for axis in range(3):
        matrix[axis, axis] = 1.0 - diagonal[1:].sum() + diagonal[1 + axis]
    return matrix


# The functions below are compiled, so they carry no shape annotations and are unwrapped first:
# under pytest the type checker wraps every function, and numba cannot compile a wrapper.


def _inverse_spd(matrix):
    """Inverse of a small symmetric positive definite matrix, by its Cholesky factor."""
    n = matrix.shape[0]
    factor = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            factor[i, j] = np.sqrt(total) if i == j else total / factor[j, j]
    half = np.zeros((n, n))  # inverse of the factor
    for i in range(n):
        half[i, i] = 1.0 / factor[i, i]
        for j in range(i):
            total = 0.0
            for k in range(j, i):
                total -= factor[i, k] * half[k, j]
            half[i, j] = total / factor[i, i]
    inverse = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = 0.0
            for k in range(i, n):
                total += half[k, i] * half[k, j]
            inverse[i, j] = inverse[j, i] = total
    return inverse


def _product(a, b):
    """Matrix product by loops: at 7 x 7 a call to BLAS costs more than the arithmetic."""
    result = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                result[i, j] += a[i, k] * b[k, j]
    return result


def _apply(a, x):
    result = np.zeros(a.shape[0])
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            result[i] += a[i, j] * x[j]
    return result


_inverse_spd = numba.njit(cache=True)(inspect.unwrap(_inverse_spd))
_product = numba.njit(cache=True)(inspect.unwrap(_product))
_apply = numba.njit(cache=True)(inspect.unwrap(_apply))


def _torques(
    jacobian_position,
    jacobian_rotation,
    mass_all,
    qpos,
    qvel,
    bias,
    position,
    rotation_flat,
    goal_position,
    goal_rotation,
    home,
    limits,
    qpos_index,
    dof_index,
):
    jacobian = np.zeros((6, 7))
    mass = np.zeros((7, 7))
    velocity = np.zeros(7)
    posture = np.zeros(7)
    for j in range(7):
        for i in range(3):
            jacobian[i, j] = jacobian_position[i, dof_index[j]]
            jacobian[3 + i, j] = jacobian_rotation[i, dof_index[j]]
        for i in range(7):
            mass[i, j] = mass_all[dof_index[i], dof_index[j]]
        velocity[j] = qvel[dof_index[j]]
        posture[j] = (
            POSTURE_STIFFNESS * (home[j] - qpos[qpos_index[j]]) - POSTURE_DAMPING * velocity[j]
        )
    twist = _apply(jacobian, velocity)
    # Rotation error: half the sum of the cross products of the axes.
    error = np.zeros(6)
    for i in range(3):
        error[i] = goal_position[i] - position[i]
    for axis in range(3):
        for i in range(3):
            a, b = (i + 1) % 3, (i + 2) % 3
            error[3 + i] += 0.5 * (
                rotation_flat[3 * a + axis] * goal_rotation[b, axis]
                - rotation_flat[3 * b + axis] * goal_rotation[a, axis]
            )
    wanted = STIFFNESS * error - DAMPING * twist
    mass_inverse = _inverse_spd(mass)
    transposed = np.ascontiguousarray(jacobian.T)
    pull = _product(mass_inverse, transposed)  # M^-1 J^T
    mobility = _product(jacobian, pull)  # J M^-1 J^T
    wrench = np.zeros(6)
    wrench[:3] = _apply(_inverse_spd(mobility[:3, :3]), wanted[:3])
    wrench[3:] = _apply(_inverse_spd(mobility[3:, 3:]), wanted[3:])
    # N^T t = t - J^T L (M^-1 J^T)^T t with t the posture torque.
    posture_torque = _apply(mass, posture)
    leaked = _apply(_inverse_spd(mobility), _apply(np.ascontiguousarray(pull.T), posture_torque))
    torque = _apply(transposed, wrench - leaked)
    for j in range(7):
        torque[j] += bias[dof_index[j]] + posture_torque[j]
        torque[j] = min(max(torque[j], limits[j, 0]), limits[j, 1])
    return torque


_torques = numba.njit(cache=True)(inspect.unwrap(_torques))
