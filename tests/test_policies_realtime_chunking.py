"""Joining chunks: published numbers, exact cases, and what a policy promises in each mode."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_helpers import CONFIG, EMBODIMENT, make_batch, make_observation, make_policy, make_stats
from scipy.stats import chisquare
from torch import Tensor

from ulna.datasets.action_parts import GRIPPERS, ActionPart, StatePart
from ulna.datasets.actions import ActionSpace
from ulna.datasets.norm_stats import NormStats, stream_stats
from ulna.datasets.schema import Embodiment, Observation
from ulna.policies.checkpoint import load_act, load_policy, save_policy
from ulna.policies.embodiment_slots import EmbodimentSlots
from ulna.policies.policy import Policy
from ulna.policies.policy_config import PolicyConfig
from ulna.policies.pooled_head import PooledHeadConfig
from ulna.policies.presets import PRESETS
from ulna.policies.process import FlowConfig, make_process
from ulna.policies.realtime_chunking import (
    Guidance,
    RealtimeConfig,
    RealtimeMode,
    guidance_gain,
    plan_of,
    plan_weights,
    sample_decided,
)
from ulna.policies.sampler import Known, SamplerConfig, sample
from ulna.policies.vision import VitConfig
from ulna.policies.world_target import FutureConfig

JOINING: tuple[RealtimeMode, ...] = ("trained", "guided", "identity")
Field = Callable[[Tensor, Tensor], Tensor]


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- published numbers


def test_weights_are_the_published_ones():
    delay, end = torch.tensor([2]), torch.tensor([6])
    linear = plan_weights(delay, end, 10, "linear")[0].tolist()
    assert linear == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0])
    soft = plan_weights(delay, end, 10)[0].tolist()
    expected = [1, 1, 0.57059, 0.28707, 0.11449, 0.02577, 0, 0, 0, 0]
    assert soft == pytest.approx(expected, abs=5e-6)
    assert plan_weights(delay, end, 10, "prefix")[0].tolist() == [1, 1] + 8 * [0]


def test_weights_of_plans_of_any_length():
    delay, end = torch.tensor([0, 0, 3, 5]), torch.tensor([0, 4, 3, 2])
    found = plan_weights(delay, end, 4, "linear").tolist()
    assert found[0] == [0, 0, 0, 0]  # no plan
    assert found[1] == pytest.approx([0.8, 0.6, 0.4, 0.2])  # soft from the first action on
    assert found[2] == [1, 1, 1, 0]  # all of it is executed meanwhile
    assert found[3] == [1, 1, 0, 0]  # it ends before the answer comes


@pytest.mark.parametrize(
    ("steps", "limit", "expected"),
    [
        (5, 5.0, [5, 4.25, 2.1667, 2.1667, 4.25]),
        (10, 10.0, [10, 9.1111, 4.25, 2.7619, 2.1667, 2, 2.1667, 2.7619, 4.25, 9.1111]),
    ],
)
def test_gains_are_the_published_ones(steps: int, limit: float, expected: list[float]):
    t = torch.arange(steps) / steps
    assert guidance_gain(t, limit).tolist() == pytest.approx(expected, abs=5e-5)
    assert guidance_gain(torch.ones(1), limit).tolist() == [limit]


# ---------------------------------------------------------------------- exact cases


def ask(field: Field):
    """A network of actions alone from a velocity field."""
    return lambda x, t: {"action": field(x["action"], t["action"][:, None, None])}


def standard_normal(x: Tensor, t: Tensor) -> Tensor:
    """The velocity if actions are N(0, 1): E[a - e | x], jointly Gaussian with x."""
    return (2 * t - 1) / (t.square() + (1 - t).square()) * x


def test_guiding_a_standard_normal_is_its_exact_posterior():
    """Then r^2 is the true variance of what the chunk will be, so the guided velocity of decided
    actions is the straight line to the plan, (Y - x) / (1 - t), and nothing else moves."""
    x, target = seeded(3, 4, 2), seeded(3, 4, 2, seed=1)
    weights = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    guidance = Guidance(target, weights, limit=1e6)
    for time in (0.1, 0.5, 0.9):
        t = torch.full((3,), time)
        found = guidance(ask(standard_normal), {"action": x}, {"action": t})["action"]
        free = standard_normal(x, t[:, None, None])
        expected = torch.where(weights[:, :, None] > 0, (target - x) / (1 - time), free)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # With the paper's 5 steps and limit 5 the last gain, 4.25, is not clipped: it arrives.
    made = sample(
        ask(standard_normal), {"action": x}, make_process(FlowConfig()), {"action": 5},
        guide=replace(guidance, limit=5.0),
    )["action"]  # fmt: skip
    plain = sample(
        ask(standard_normal), {"action": x}, make_process(FlowConfig()), {"action": 5}
    )["action"]  # fmt: skip
    decided = weights[:, :, None] > 0
    torch.testing.assert_close(made, torch.where(decided, target, plain), rtol=0, atol=1e-5)


def test_a_linear_field_is_pulled_by_its_transposed_jacobian():
    mix = seeded(4, 4) * 0.4
    x, target, time = seeded(2, 4, 3), seeded(2, 4, 3, seed=1), 0.3
    weights = torch.tensor([[1.0, 1, 0.5, 0], [1, 0, 0, 0]])

    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.einsum("ij,bjk->bik", mix, x) + t

    jacobian = torch.eye(4) + (1 - time) * mix  # of the clean chunk, by tokens
    clean = torch.einsum("ij,bjk->bik", jacobian, x) + (1 - time) * time
    error = weights[:, :, None] * (target - clean)
    gain = (time**2 + (1 - time) ** 2) / (time * (1 - time))
    t = torch.full((2,), time)
    for through_network in (True, False):
        guidance = Guidance(target, weights, 5.0, through_network)
        found = guidance(ask(field), {"action": x}, {"action": t})["action"]
        pull = torch.einsum("ji,bjk->bik", jacobian, error) if through_network else error
        torch.testing.assert_close(found, field(x, torch.tensor(time)) + gain * pull)
        assert not found.requires_grad


MODES_OF_DATA = torch.tensor([[1.0], [-1.0]]).expand(2, 8)
SPREAD = 0.1


def two_ways(x: Tensor, t: Tensor) -> Tensor:
    """The velocity if a chunk is +1 or -1 throughout, give or take `SPREAD`: around an obstacle
    on either side. Times may differ by token, so it knows what a given prefix tells."""
    mean = t[None] * MODES_OF_DATA[:, None, :, None]  # (mode, batch, tokens, 1)
    variance = t.square() * SPREAD**2 + (1 - t).square()
    fit = -0.5 * ((x - mean).square() / variance).sum(dim=(2, 3))
    weight = fit.softmax(dim=0)[:, :, None, None]
    slope = (t * SPREAD**2 - (1 - t)) / variance
    each = MODES_OF_DATA[:, None, :, None] + slope * (x - mean)
    return (weight * each).sum(dim=0)


def test_a_plan_keeps_to_its_side_where_naive_chunks_jump():
    rows, delay = 64, 3
    noise = seeded(rows, 8, 1)
    plan = torch.ones(rows, 8, 1)
    counts = torch.full((rows,), delay), torch.full((rows,), 6)
    decided = (torch.arange(8) < delay).expand(rows, 8)

    def network(x: dict[str, Tensor], t: dict[str, Tensor]) -> dict[str, Tensor]:
        time = t["action"]
        time = time[:, None, None] if time.ndim == 1 else time[:, :, None]
        return {"action": two_ways(x["action"], time)}

    def jump(**how: object) -> float:
        made = sample(
            network, {"action": noise}, make_process(FlowConfig()), {"action": 5},
            **how,  # pyright: ignore[reportArgumentType]
        )["action"]  # fmt: skip
        return float((made[:, delay] - plan[:, delay - 1]).abs().mean())

    guidance = Guidance(plan, plan_weights(*counts, 8), 5.0)
    assert jump() > 0.8  # half of the chunks go the other way, 2 apart
    assert jump(known={"action": Known(plan, decided)}) < 0.1
    assert jump(guide=guidance) < 0.1
    assert jump(guide=replace(guidance, through_network=False)) < 0.1


def test_only_where_its_group_moves_on_the_guide_is_asked():
    asked: list[float] = []

    class Watch:
        group = "action"

        def __call__(self, network, x, t):
            asked.append(float(t["future"][0]))
            return network(x, t)

    start = {"action": torch.zeros(1, 2, 3), "future": torch.zeros(1, 4, 1)}
    steps = {"action": 2, "future": 6}
    sample(lambda x, t: x, start, make_process(FlowConfig()), steps, guide=Watch())
    assert asked == pytest.approx([2 / 6, 5 / 6])


# ---------------------------------------------------------------------- what a policy promises


def small(name: str, max_delay: int = 0, **realtime: object) -> PolicyConfig:
    """The preset in the sizes of the tests' tiny robot, with chunks of 6."""
    made = PRESETS[name]()
    vision = made.vision
    if isinstance(vision, VitConfig):
        vision = replace(vision, patch=4, width=12, depth=1, heads=2)
    return replace(
        made, horizon=6, execution_horizon=3, trunk=CONFIG.trunk, augment=CONFIG.augment,
        vision=vision if isinstance(vision, VitConfig) else CONFIG.vision,
        instruction=CONFIG.instruction, pooled_head=PooledHeadConfig(width=16, depth=1),
        future=None if made.future is None else FutureConfig(grid=2, features=3),
        sampler=SamplerConfig(steps=3, future_steps=6 if made.future is not None else 0),
        realtime=RealtimeConfig(max_delay, **realtime),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def planning(seed: int, planned: int | None, delay: int = 0) -> Observation:
    plan = None
    if planned is not None:
        plan = np.random.default_rng(seed + 100).uniform(-1, 1, (planned, EMBODIMENT.action_dim))
        plan = plan.astype(np.float32)
    return replace(make_observation(seed), planned=plan, inference_delay=delay)


@pytest.fixture(scope="module")
def taught() -> Policy:
    return make_policy(config=small("expert", max_delay=4))


@pytest.mark.parametrize("mode", JOINING)
def test_decided_actions_are_kept_to_the_bit(taught: Policy, mode: RealtimeMode):
    observation = planning(1, 5, delay=3)
    assert observation.planned is not None
    chunk = taught.use_realtime(mode).act(observation)
    assert np.array_equal(chunk[:3], observation.planned[:3])
    assert not np.allclose(chunk[3:5], observation.planned[3:], atol=1e-2)
    away = taught.act(replace(observation, planned=-observation.planned))
    assert not np.allclose(away[3:], chunk[3:], atol=1e-4)  # what is decided reaches the rest
    beyond = taught.act(replace(observation, planned=5 * observation.planned))
    assert np.array_equal(beyond[:3], np.clip(5 * observation.planned[:3], -1, 1))
    unplanned = taught.act(planning(1, None))
    plain = taught.use_realtime("off").act(observation)
    assert np.array_equal(taught.act(planning(1, None)), plain)  # `off` sees no plan
    if mode == "guided":  # the same but for the order of sums
        np.testing.assert_allclose(unplanned, plain, atol=1e-5)
    else:
        assert np.array_equal(unplanned, plain)


def test_with_no_delay_the_trained_policy_is_the_plain_one_to_the_bit(taught: Policy):
    batch = [planning(seed, 5, delay=0) for seed in range(3)]
    plain = taught.use_realtime("off").act_batch(batch)
    assert np.array_equal(taught.use_realtime("trained").act_batch(batch), plain)


@pytest.mark.parametrize("mode", JOINING)
def test_a_row_knows_nothing_of_its_neighbours_plans(taught: Policy, mode: RealtimeMode):
    taught.use_realtime(mode)
    for first in (planning(1, None), planning(1, 4, 0), planning(1, 4, 2), planning(1, 9, 4)):
        alone = taught.act_batch([first, *(planning(seed, None) for seed in (2, 3, 4))])
        among = taught.act_batch([first, planning(2, 6, 4), planning(7, 2, 1), planning(8, 1, 0)])
        assert np.array_equal(alone[0], among[0])


@pytest.mark.parametrize("mode", ["guided", "identity"])
def test_guided_chunks_come_nearer_to_the_plan(mode: RealtimeMode):
    policy = make_policy(config=small("expert", weights="linear"))
    observation = planning(3, 6, delay=0)  # nothing is simply put in its place
    assert observation.planned is not None
    gap = {
        mode: np.abs(policy.use_realtime(mode).act(observation) - observation.planned)[:3].mean()
        for mode in ("off", mode)
    }
    assert gap[mode] < 0.5 * gap["off"]


@pytest.mark.parametrize("name", ["expert", "dual_stream", "mutual"])
def test_the_pull_is_the_gradient_through_the_network(name: str):
    """Against central differences of w . A1(x), A1 the clean chunk, in random directions."""
    policy = make_policy(config=small(name))
    noise = {n: seeded(2, *size, seed=3) for n, size in policy.sizes().items()}
    t = {n: torch.full((2,), 0.4) for n in noise}
    target = seeded(2, 6, 3, seed=5)
    weights = torch.rand(2, 6, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        cache = policy._context(
            policy.border.observations([make_observation(s) for s in (1, 2)], 0), None, False
        )
        network = policy.network(cache)
        guided = Guidance(target, weights, 1e9)(network, noise, t)["action"]
        plain = network(noise, t)["action"]

        def clean(x: Tensor) -> Tensor:
            return x + 0.6 * network({**noise, "action": x}, t)["action"]

        pull = (guided - plain) / guidance_gain(t["action"], 1e9)[:, None, None]
        error = (target - clean(noise["action"])) * weights[:, :, None]
        for seed in range(3):
            step = 1e-2 * seeded(2, 6, 3, seed=10 + seed)
            both = clean(noise["action"] + step) - clean(noise["action"] - step)
            difference = float((error * both).sum()) / 2
            assert float((pull * step).sum()) == pytest.approx(difference, rel=1e-2, abs=2e-5)
        assert float((pull - error).abs().max()) > 0.02  # the Jacobian is not the unit matrix


UMI_LIKE = Embodiment(
    name="tool", control_hz=20.0, action_meaning="made up", cameras=EMBODIMENT.cameras,
    state_names=tuple(f"s{i}" for i in range(8)), action_names=tuple(f"a{i}" for i in range(7)),
    action_low=(-9.0,) * 7, action_high=(9.0,) * 7,
)  # fmt: skip


@pytest.mark.parametrize("mode", ["delta", "chunk_relative"])
def test_a_plan_is_written_relative_to_the_state_of_the_new_observation(mode):
    space = ActionSpace.of(
        UMI_LIKE,
        (
            ActionPart("position", (0, 3), mode, (0, 3)),
            ActionPart("rotation", (3, 6), mode, (3, 7), rotation="axis_angle"),
            ActionPart("gripper", (6, 7), "absolute", gripper=GRIPPERS["robosuite"]),
        ),
        (StatePart("rotation", (3, 7), rotation="quat_wxyz"),),
    )
    random = np.random.default_rng(0)
    stats = NormStats(
        {
            "state": stream_stats(random.normal(1, 2, (50, space.network_state_dim))),
            "action": stream_stats(random.normal(-1, 0.5, (50, space.network_dim))),
        },
        "made up", 1,
    )  # fmt: skip
    slots = EmbodimentSlots([UMI_LIKE], [stats], [space])
    state = random.normal(size=8).astype(np.float32)
    state[3:7] /= np.linalg.norm(state[3:7])
    planned = random.uniform(-1, 1, (4, 7)).astype(np.float32)
    bare = Observation({}, state, "go", planned=planned, inference_delay=2)
    plan = plan_of([bare, replace(bare, planned=None)], slots, 0, 6)
    assert (plan.delay.tolist(), plan.length.tolist()) == ([2, 0], [4, 0])
    assert plan.decided.tolist() == [[True, True] + 4 * [False], 6 * [False]]
    assert not plan.values[1].any()
    back = slots.unnormalize_chunk(plan.values[:1], torch.from_numpy(state)[None], 0)[0]
    np.testing.assert_allclose(back[:4], planned, atol=1e-5)
    np.testing.assert_allclose(back[4:], planned[[3, 3]], atol=1e-5)
    # Elsewhere the same commands are other numbers for the network, and for deltas in one place.
    there = state.copy()
    there[0] += 0.1
    moved = replace(bare, state=there)
    change = (plan_of([moved], slots, 0, 6).values - plan.values[:1]).abs().amax(dim=2)[0]
    assert (change > 1e-3).tolist() == ([True] + 5 * [False] if mode == "delta" else 6 * [True])


# ---------------------------------------------------------------------- teaching it


@pytest.mark.parametrize("name", PRESETS)
def test_every_design_learns_to_continue_a_plan_and_comes_back_from_disk(name: str, tmp_path: Path):
    policy = make_policy(config=small(name, max_delay=4)).train()
    policy.loss(make_batch(6), torch.Generator().manual_seed(0)).backward()
    silent = [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == (["observe.null_state"] if name == "dual_stream" else [])
    observation = planning(2, 5, delay=3)
    assert observation.planned is not None
    chunk = policy.eval().act(observation)
    assert policy.realtime == "trained"  # it is what it was taught
    assert np.array_equal(chunk[:3], observation.planned[:3])
    save_policy(tmp_path / name, policy, make_stats())
    assert np.array_equal(load_policy(tmp_path / name).act(observation), chunk)


def test_the_network_is_given_the_prefix_and_taught_the_rest():
    policy = make_policy(config=replace(small("expert", max_delay=4), noise_draws=3)).train()
    batch, network = make_batch(6), policy.network
    given: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(cache, slot=0):
        inner = network(cache, slot)

        def asked(x, t):
            output = inner(x, t)
            output["action"].retain_grad()
            given.append((x["action"], t["action"], output["action"]))
            return output

        return asked

    policy.network = watch
    policy.loss(batch, torch.Generator().manual_seed(0)).backward()
    x, t, velocity = given[0]
    decided = t == 1
    clean = policy.chunk(batch).repeat_interleave(3, dim=0)
    assert torch.equal(x[decided], clean[decided])
    assert not torch.isclose(x[~decided], clean[~decided]).any()
    for row in range(len(t)):
        count = int(decided[row].sum())
        assert count <= 4 and decided[row, :count].all()  # the first ones
        assert len(t[row, count:].unique()) == 1  # the others share one time, below 1
    assert len({int(row.sum()) for row in decided}) > 2
    real = torch.from_numpy(~batch.action_is_pad).repeat_interleave(3, dim=0)
    assert velocity.grad is not None
    pulled = velocity.grad.abs().sum(dim=-1) > 0
    assert torch.equal(pulled, real & ~decided)


@pytest.mark.parametrize("law", ["uniform", "exponential"])
def test_delays_follow_their_law_and_leave_something_to_predict(law):
    config = RealtimeConfig(max_delay=4, delays=law)
    generator = torch.Generator().manual_seed(0)
    drawn = sample_decided(config, torch.full((6000,), 8), 8, generator).sum(dim=1)
    share = np.ones(5) if law == "uniform" else np.exp(-np.arange(5))
    expected = 6000 * share / share.sum()
    assert chisquare(np.bincount(drawn.numpy(), minlength=5), expected).pvalue > 0.01
    short = sample_decided(config, torch.tensor([0, 1, 2, 3] * 100), 8, generator).sum(dim=1)
    assert short.view(100, 4).amax(dim=0).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("time", ["adaln", "concat"])
def test_decided_tokens_get_the_time_1_and_the_others_theirs(time):
    """One time for a row and marks give what a time per token gives, written out."""
    policy = make_policy(config=replace(small("expert", max_delay=4), time=time))
    stream = policy.action
    assert stream is not None
    noisy, t = seeded(2, 6, 3), torch.tensor([0.3, 0.6])
    decided = torch.arange(6) < torch.tensor([[2], [0]])
    per_token = torch.where(decided, 1.0, t[:, None])
    with torch.no_grad():
        cache = policy.context(make_batch(6, rows=2))
        found = policy.network(cache)({"action": noisy}, {"action": per_token})["action"]
        [group] = stream.groups(noisy, per_token)
        plain = policy.network(cache)({"action": noisy}, {"action": t})["action"]
        assert torch.equal(found[1], plain[1])
        assert not torch.allclose(found[0, 2:], plain[0, 2:], atol=1e-3)
        if time == "adaln":
            written_out = replace(group, t=per_token, decided=None)
            expected = stream.out(policy.trunk([written_out], cache)["action"])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------- choosing a mode


def test_the_mode_is_chosen_by_the_config_and_when_loading(tmp_path: Path):
    observation = planning(1, 5, delay=2)
    assert observation.planned is not None
    save_policy(tmp_path, make_policy(config=small("expert", mode="guided")), make_stats())
    guided = load_act(tmp_path, threads=None)(observation)
    plain = load_act(tmp_path, threads=None, realtime="off")(observation)
    identity = load_act(tmp_path, threads=None, realtime="identity")(observation)
    assert np.array_equal(guided[:2], observation.planned[:2])
    assert not np.allclose(guided[2:], plain[2:], atol=1e-4)
    assert not np.allclose(guided[2:], identity[2:], atol=1e-4)
    auto = load_act(tmp_path, threads=None, realtime="auto")(observation)
    assert np.array_equal(auto, plain)  # it was not taught
    with pytest.raises(ValueError, match=r"--policy.realtime.max-delay 8 --init-from RUN"):
        load_act(tmp_path, threads=None, realtime="trained")
    with pytest.raises(ValueError, match="realtime mode 'guide'. Did you mean 'guided'"):
        load_act(tmp_path, threads=None, realtime="guide")


def test_a_checkpoint_from_before_loads_and_a_misspelled_setting_does_not(tmp_path: Path):
    policy = make_policy()
    save_policy(tmp_path, policy, make_stats())
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config["policy"].pop("realtime")["max_delay"] == 0
    path.write_text(json.dumps(config))
    old = load_policy(tmp_path)
    assert old.config == policy.config and old.realtime == "off"
    assert np.array_equal(old.act(planning(1, 3, 1)), policy.act(planning(1, None)))
    config["policy"]["realtime"] = {"max_dely": 3}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"policy.realtime 'max_dely'. Did you mean 'max_delay'"):
        load_policy(tmp_path)


def test_refusals(taught: Policy):
    taught.use_realtime("trained")
    with pytest.raises(ValueError, match="inference_delay 5: .* at most 4 planned actions"):
        taught.act(planning(1, 6, delay=5))
    taught.act(planning(1, 3, delay=5))  # only three can be executed
    with pytest.raises(ValueError, match=r"planned: expected actions of 3 entries.*\(2, 4\)"):
        taught.act(replace(planning(1, None), planned=np.zeros((2, 4), np.float32)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        taught.act(replace(planning(1, None), planned=np.full((2, 3), np.nan, np.float32)))
    with pytest.raises(ValueError, match="inference_delay -1 must be 0 or more"):
        taught.act(planning(1, 3, delay=-1))
    with torch.inference_mode(), pytest.raises(ValueError, match="torch.inference_mode forbids"):
        taught.use_realtime("guided").act(planning(1, 3, delay=1))
    with pytest.raises(ValueError, match="max_delay 6 leaves nothing of a chunk of 6"):
        small("expert", max_delay=6)
    with pytest.raises(ValueError, match="guidance_limit 0.0 positive"):
        RealtimeConfig(guidance_limit=0.0)
    with pytest.raises(ValueError, match="'trained' needs --policy.realtime.max-delay above 0"):
        RealtimeConfig(mode="trained")
    with pytest.raises(ValueError, match="'guided' guides the velocity of a flow"):
        small("in_context", mode="guided")
    diffusion = make_policy(config=small("in_context"))
    with pytest.raises(ValueError, match="'identity' guides .* by diffusion"):
        diffusion.use_realtime("identity")
    noise = {"action": seeded(1, 6, 3)}
    known = {"action": Known(noise["action"], torch.ones(1, 6, dtype=torch.bool))}
    for name, why in (("in_context", "one time token"), ("pooled_head", "pooled head knows one")):
        policy = make_policy(config=small(name))
        with torch.no_grad(), pytest.raises(ValueError, match=why):
            policy.generate(policy.context(make_batch(6, rows=1)), noise, known=known)


def test_the_pull_is_limited_by_the_number_of_steps(taught: Policy):
    """A larger one than the steps would correct more than the whole error in the last step."""
    plan = plan_of([planning(1, 5, delay=2)], taught.slots, 0, 6)
    limits = []
    for steps in (1, 4, 50):
        _, guide = plan.joined("guided", RealtimeConfig(), steps)
        assert guide is not None
        limits.append(guide.limit)
    assert limits == [1.0, 4.0, 5.0]
    assert math.isclose(float(guidance_gain(torch.zeros(1), limits[0])), 1.0)
