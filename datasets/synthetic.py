"""Made-up episodes, a function of their seed alone: for tests and for measuring the store.

Nothing here resembles a robot; a policy must not be trained on it in earnest.
"""

import numpy as np

from .schema import Camera, Embodiment, Episode

INSTRUCTIONS = ("pick up the red cube", "pick up the green cube", "pick up the blue cube")


def synthetic_embodiment(
    image_size: int = 16, cameras: tuple[str, ...] = ("front", "wrist")
) -> Embodiment:
    """A robot of 5 state and 3 action entries."""
    return Embodiment(
        name="synthetic",
        control_hz=20.0,
        state_names=("tool_x_m", "tool_y_m", "tool_z_m", "finger_left_m", "finger_right_m"),
        action_names=("dx", "dy", "gripper"),
        action_low=(-1.0, -1.0, -1.0),
        action_high=(1.0, 1.0, 1.0),
        action_meaning="none",
        cameras=tuple(Camera(name, image_size, image_size) for name in cameras),
    )


def synthetic_episode(embodiment: Embodiment, seed: int, steps: int | None = None) -> Episode:
    """An episode of `steps` (None: 5 to 40, drawn from the seed); equal for equal arguments."""
    random = np.random.default_rng(seed)
    steps = int(random.integers(5, 41)) if steps is None else steps
    walk = np.cumsum(random.normal(size=(steps, embodiment.state_dim)), axis=0)
    action = np.clip(random.normal(0, 0.5, (steps, embodiment.action_dim)), -1, 1)
    return Episode(
        images={
            # Large flat patches that change from step to step, so that they compress like frames.
            camera.name: np.repeat(
                np.repeat(
                    random.integers(
                        0, 256, (steps, -(-camera.height // 8), -(-camera.width // 8), 3), np.uint8
                    ),
                    8,
                    axis=1,
                ),
                8,
                axis=2,
            )[:, : camera.height, : camera.width]
            for camera in embodiment.cameras
        },
        streams={
            "state": walk.astype(np.float32),
            "action": action.astype(np.float32),
            "simulator_state": random.normal(size=(steps, 9)),
            "time_ns": np.arange(steps) * round(1e9 / embodiment.control_hz),
        },
        instruction=INSTRUCTIONS[seed % len(INSTRUCTIONS)],
        task="synthetic",
        seed=seed,
        success=seed % 4 != 3,
        info={"noise": 0.1, "source": "synthetic"},
    )
