"""What a policy must beat: acting at random.

Next: `envs/rollout.py` (which runs any `Act`).
"""

import numpy as np

from ..datasets.schema import Act, Observation


def make_random_act(action_dim: int = 7, horizon: int = 16) -> Act:
    """Uniform actions in [-1, 1], a function of the observation's noise seed alone."""

    def act(observation: Observation) -> np.ndarray:
        rng = np.random.default_rng(observation.noise_seed)
        return rng.uniform(-1.0, 1.0, (horizon, action_dim)).astype(np.float32)

    return act
