"""From a policy's choices to the trunk's experts, who sees whom, and what carries a flow time."""

from .expert import Expert
from .mask import MASKS, Mask
from .policy_config import PolicyConfig


def experts_and_mask(
    config: PolicyConfig, context: list[str]
) -> tuple[dict[str, Expert], Mask, list[str]]:
    """The trunk's experts, who sees whom, and which groups carry a flow time."""
    generated = [] if config.head == "pooled" else list(config.generated)
    mask, timed = MASKS[config.mask](context, generated), list(generated)
    if config.time == "token":
        sight = {row: dict(columns) for row, columns in mask.sight.items()}
        for name in generated:
            # A group sees its own clock, and the clock what its group sees.
            for row in generated:
                if sight[row].get(name, "none") != "none":
                    sight[row][f"{name}_time"] = "full"
            sight[f"{name}_time"] = dict(sight[name])
        mask, timed = Mask(sight), [*timed, *(f"{name}_time" for name in generated)]
    pooled = config.head == "pooled"
    if config.experts == "shared":
        return {"context": Expert(time="tokens")}, mask, timed
    if config.experts == "separate":
        kinds = dict.fromkeys(name.partition(".")[0] for name in context)
        experts = {kind: Expert(read=pooled) for kind in kinds}
    else:
        experts = {"context": Expert(read=pooled)}
    for name in generated:
        experts[name] = Expert(
            time="adaln" if config.time == "adaln" else "tokens",
            width=config.action_expert_width if name == "action" else 0,
            private_depth=config.private_depth,
            attention_of="context" if config.share in ("attention", "all") else "",
            ffn_of="context" if config.share == "all" else "",
        )
    return experts, mask, timed
