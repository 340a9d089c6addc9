"""A robosuite arm in a MuJoCo model: what it measures, how it is seen, what holds for any task.

Next: `envs/robosuite_env.py` (cubes and sentences), `envs/robosuite_suite.py` (robosuite's own
tasks), `envs/renderer.py` (how pictures are made).
"""

# MuJoCo ships no type stubs for its compiled part.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping, Sequence

import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from ..datasets.schema import Embodiment, Observation, unknown_name
from .renderer import Renderer

PANDA_ARM = tuple(f"robot0_joint{i}" for i in range(1, 8))
PANDA_FINGERS = tuple(f"gripper0_right_finger_joint{i}" for i in (1, 2))
PHYSICS_STATE = (
    mujoco.mjtState.mjSTATE_TIME
    | mujoco.mjtState.mjSTATE_QPOS
    | mujoco.mjtState.mjSTATE_QVEL
    | mujoco.mjtState.mjSTATE_ACT
    | mujoco.mjtState.mjSTATE_WARMSTART
    | mujoco.mjtState.mjSTATE_CTRL
)
"""What the next physics step depends on; forces from outside are never applied here."""


class RobosuiteArm:
    """The arm's half of an `Env`; tasks add the scene, the actions and the verdict."""

    task: str
    instructions: tuple[str, ...]
    embodiment: Embodiment

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        cameras: Mapping[str, str],
        arm_joints: Sequence[str] = PANDA_ARM,
        finger_joints: Sequence[str] = PANDA_FINGERS,
        tool_site: str = "gripper0_right_grip_site",
    ) -> None:
        """`cameras`: our word for a camera -> its name in the model."""
        self.model, self.data = model, data
        self._cameras = cameras
        self._arm_qpos = self._qpos_addresses(arm_joints)
        self._finger_qpos = self._qpos_addresses(finger_joints)
        self._tool_site = model.site(tool_site).id
        self._base_site = model.site("robot0_right_center").id
        self._physics_size: int = mujoco.mj_stateSize(model, PHYSICS_STATE)
        self._instruction = ""
        self._renderer: Renderer | None = None

    def _qpos_addresses(self, joints: Sequence[str]) -> np.ndarray:
        return np.array([self.model.joint(name).qposadr[0] for name in joints], int)

    def _in_base(self, position: np.ndarray, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        base = self.data.site_xmat[self._base_site].reshape(3, 3)
        offset = position - self.data.site_xpos[self._base_site]
        return base.T @ offset, base.T @ flat.reshape(3, 3)

    def tool_pose(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
        """Position (m) and rotation of the point between the finger tips, in the robot base."""
        site = self._tool_site
        return self._in_base(self.data.site_xpos[site], self.data.site_xmat[site])

    def tool_world_pose(self) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]]:
        """The same in the world."""
        rotation = self.data.site_xmat[self._tool_site].reshape(3, 3)
        return self.data.site_xpos[self._tool_site].copy(), rotation.copy()

    def state(self) -> Float[np.ndarray, " state_dim"]:
        position, rotation = self.tool_pose()
        fingers = self.data.qpos[self._finger_qpos]
        return np.concatenate([position, rotation[:, 0], rotation[:, 1], fingers]).astype(
            np.float32
        )

    def joint_position_rad(self) -> Float[np.ndarray, " joints"]:
        """Measured arm joints, in the order of `embodiment.joint_names`."""
        return self.data.qpos[self._arm_qpos].copy()

    def time_ns(self) -> int:
        """Simulated time since the reset."""
        return round(float(self.data.time) * 1e9)

    @property
    def instruction(self) -> str:
        return self._instruction

    def _check_instruction(self, instruction: str) -> None:
        if instruction not in self.instructions:
            raise unknown_name(f"instruction of task {self.task}", instruction, self.instructions)

    def _physics_state(self) -> Float[np.ndarray, " physics"]:
        physics = np.empty(self._physics_size)
        mujoco.mj_getState(self.model, self.data, physics, PHYSICS_STATE)
        return physics

    def _write_physics(self, state: Float[np.ndarray, " physics"]) -> None:
        written = np.ascontiguousarray(state, dtype=np.float64)
        mujoco.mj_setState(self.model, self.data, written, PHYSICS_STATE)

    def _compute_poses(self) -> None:
        """Bring poses up to date with a state just written, without disturbing that state."""
        physics = self._physics_state()
        mujoco.mj_forward(self.model, self.data)
        self._write_physics(physics)

    def _follow_physics(self) -> None:
        """Physics leaves the poses one substep behind the positions; pictures and state want
        now."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def observe(self) -> Observation:
        images = {
            camera.name: self.render(camera.name, camera.height, camera.width)
            for camera in self.embodiment.cameras
        }
        return Observation(images=images, state=self.state(), instruction=self._instruction)

    def render(
        self, camera: str, height: int, width: int, profile: str | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        if camera not in self._cameras:
            raise unknown_name("camera", camera, self._cameras)
        if self._renderer is None:
            self._renderer = Renderer(self.model)
        profile = profile or self.embodiment.render_profile
        return self._renderer.render(self.data, self._cameras[camera], height, width, profile)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def checked_action(action: Float[np.ndarray, " action_dim"]) -> Float[np.ndarray, " action_dim"]:
    """`action` within -1 to 1; ValueError if it is not finite."""
    if not np.all(np.isfinite(action)):
        raise ValueError(f"action {action} is not finite; a policy must send finite numbers")
    return np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
