"""What does it save to compute the context once per control step, and does it change the answer?

    uv run python benchmarks/prefix_cache.py

The same trunk, weights and inputs, sampled with the context's keys and values kept over the steps,
and with everything run anew at every step, as published in-context code does (Dita's). Two layouts:

    dita    one expert, causal, 77 text + 2 x 32 image + 16 action tokens; width 768, 12 layers
    small   the `expert` preset of this repository: 4 text + 2 x 4 image + 1 state, 16 actions
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from record import Benchmark

from ulna.policies.expert import Expert, TrunkConfig
from ulna.policies.mask import Mask, causal_mask, prefix_mask
from ulna.policies.process import FlowConfig, make_process
from ulna.policies.sampler import sample
from ulna.policies.trunk import Group, Trunk

STEPS = 10
ACTIONS = 16


@dataclass(frozen=True)
class Layout:
    name: str
    config: TrunkConfig
    experts: dict[str, Expert]
    mask: Mask
    groups: dict[str, int]
    """Context tokens by group."""


def layouts(quick: bool) -> list[Layout]:
    dita = {"text": 77, "image.now": 32, "image.before": 32}
    size = TrunkConfig(width=64, depth=2) if quick else TrunkConfig(width=768, depth=12, heads=12)
    small = {"text": 4, "image.front": 4, "image.wrist": 4, "state": 1}
    return [
        Layout(
            "dita", size, {"context": Expert(time="tokens")},
            causal_mask(list(dita), ["action"]), dita,
        ),
        Layout(
            "small", TrunkConfig(), {"context": Expert(read=False), "action": Expert(time="adaln")},
            prefix_mask(list(small), ["action"]), small,
        ),
    ]  # fmt: skip


def ways(layout: Layout, seed: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Sampling with the cache and without, from the same weights, context and noise."""
    torch.manual_seed(seed)
    trunk = Trunk(layout.config, layout.experts, layout.mask, ["action"]).eval()
    for parameter in trunk.parameters():  # modulation starts at zero, where all would be equal
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    width = layout.config.width
    expert = "action" if "action" in layout.experts else "context"
    context = [Group(name, torch.randn(1, n, width)) for name, n in layout.groups.items()]
    noise = {"action": torch.randn(1, ACTIONS, width)}
    process = make_process(FlowConfig())

    def kept() -> torch.Tensor:
        cache = trunk.context(context, read=False).reserve(ACTIONS)
        return sample(
            lambda x, t: trunk([Group("action", x["action"], expert, t["action"])], cache),
            noise, process, {"action": STEPS},
        )["action"]  # fmt: skip

    def anew() -> torch.Tensor:
        return sample(
            lambda x, t: trunk([*context, Group("action", x["action"], expert, t["action"])]),
            noise, process, {"action": STEPS},
        )["action"]  # fmt: skip

    return {"kept": kept, "anew": anew}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="What does the cache save?")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    repeats = 2 if options.quick else options.repeats
    benchmark = Benchmark("prefix_cache", options.quick)
    rows, ratios, figures = [], {}, {}
    for layout in layouts(options.quick):
        times: dict[str, list[float]] = {"kept": [], "anew": []}
        difference = 0.0
        for seed in range(options.seeds):
            made = ways(layout, seed)
            difference = max(difference, float((made["kept"]() - made["anew"]()).abs().max()))
            for _ in range(repeats):  # side by side, so that a busy machine slows both
                for name, run in made.items():
                    began = time.perf_counter()
                    run()
                    times[name].append(time.perf_counter() - began)
        pairs = np.array(times["anew"]) / np.array(times["kept"])
        kept, anew = (1000 * float(np.median(times[name])) for name in ("kept", "anew"))
        rows.append([layout.name, kept, anew, float(np.median(pairs)), difference])
        ratios[f"{layout.name}_anew_over_kept"] = float(np.median(pairs))
        figures[layout.name] = {
            "kept_ms": kept,
            "anew_ms": anew,
            "ratio_p10_p90": [float(np.percentile(pairs, p)) for p in (10, 90)],
            "largest_difference": difference,
            "threads": options.threads,
            "seeds": options.seeds,
            "repeats_per_seed": repeats,
        }
    benchmark.table(
        f"{STEPS} steps, fp32, {options.threads} thread(s), medians",
        ["layout", "kept, ms", "anew, ms", "times as fast", "largest difference"],
        rows,
    )
    benchmark.finish(ratios, figures)


if __name__ == "__main__":
    main()
