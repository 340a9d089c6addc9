"""The README's picture: one scene, one policy, three instructions.

uv run python benchmarks/picture.py runs/demo/policy
"""

from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from ulna.envs.rollout import evaluation_seeds, rollout
from ulna.envs.tasks import make_env
from ulna.envs.video import film
from ulna.policies.checkpoint import load_policy

PICTURE = Path(__file__).parent / "results" / "demo.png"


def main(
    run: tyro.conf.Positional[Path],
    task: str = "pick_named",
    seed: int = 90,
    size: int = 256,
    out: Path = PICTURE,
) -> None:
    """Roll the policy out once per instruction and lay the frames side by side, a row each.

    Args:
        run: Training run or policy folder.
        task: Task with several instructions.
        seed: Which evaluation scene.
        size: Pixels per frame.
        out: PNG to write.
    """
    policy = load_policy(run)
    env = make_env(task, policy.embodiment.render_profile)
    [scene] = evaluation_seeds(seed, 1)
    rows = []
    for words in env.instructions:
        result = rollout(env, policy.act, scene, words, policy.config.execution_horizon)
        print(f"{words}: {'success' if result.success else 'failure'} in {result.steps} steps")
        moments = np.linspace(0, len(result.states) - 1, 5).round().astype(int)
        frames = film(
            env, result.states[moments], words, cameras=("front",), size=size, profile="near"
        )
        strip = Image.fromarray(np.concatenate(list(frames), axis=1))
        caption = Image.new("RGB", (strip.width, 28), "white")
        font = ImageFont.load_default(18)
        ImageDraw.Draw(caption).text((8, 4), f"“{words}”", fill="black", font=font)
        rows += [np.asarray(caption), np.asarray(strip)]
    env.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.concatenate(rows, axis=0))
    picture.quantize(128).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    tyro.cli(main)
