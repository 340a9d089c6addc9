"""Found by LeRobot for its name; makes `--env.type=ulna` known to it."""

from ulna.envs.lerobot_env import UlnaEnvConfig  # pyright: ignore[reportMissingImports]

__all__ = ["UlnaEnvConfig"]
