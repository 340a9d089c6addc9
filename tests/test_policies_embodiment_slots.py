"""Robots of different widths in one policy: exact there and back, padding without effect."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ulna.datasets.action_parts import GRIPPERS, ActionPart, StatePart
from ulna.datasets.actions import ActionSpace
from ulna.datasets.norm_stats import NormStats, stream_stats
from ulna.datasets.schema import Camera, Embodiment
from ulna.policies.embodiment_slots import EmbodimentSlots, masked_mean, resolve_cameras
from ulna.policies.normalizer import NormalizationConfig


def robot(name: str, state: int, action: int, *cameras: Camera) -> Embodiment:
    return Embodiment(
        name=name,
        control_hz=20.0,
        state_names=tuple(f"s{i}" for i in range(state)),
        action_names=tuple(f"a{i}" for i in range(action)),
        action_low=(-2.0,) * action,
        action_high=(2.0,) * action,
        action_meaning="made up",
        cameras=cameras,
    )


SMALL = robot("small", 4, 3, Camera("front", 16, 16))
TOOL = robot("tool", 8, 7, Camera("front", 16, 16), Camera("wrist", 8, 8))
SPACE = ActionSpace.of(
    TOOL,
    (
        ActionPart("position", (0, 3), "chunk_relative", (0, 3)),
        ActionPart("rotation", (3, 6), "chunk_relative", (3, 7), rotation="axis_angle"),
        ActionPart("gripper", (6, 7), "absolute", gripper=GRIPPERS["robosuite"]),
    ),
    (StatePart("rotation", (3, 7), rotation="quat_wxyz"),),
)


def stats_of(space: ActionSpace) -> NormStats:
    random = np.random.default_rng(len(space.action_names))
    return NormStats(
        {
            "state": stream_stats(random.normal(1, 2, (200, space.network_state_dim))),
            "action": stream_stats(random.normal(-1, 0.5, (200, space.network_dim))),
        },
        source="made up",
        episodes=1,
    )


def make(state_width=None, action_width=None, **more) -> EmbodimentSlots:
    spaces = (ActionSpace.of(SMALL), SPACE)
    stats = [stats_of(space) for space in spaces]
    return EmbodimentSlots((SMALL, TOOL), stats, spaces, None, state_width, action_width, **more)


def recorded(slot: int, batch: int = 5, horizon: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(slot)
    state_dim, action_dim = ((4, 3), (8, 7))[slot]
    state = random.normal(size=(batch, state_dim))
    chunk = random.uniform(-0.9, 0.9, (batch, horizon, action_dim))
    if slot:
        state[:, 3:7] /= np.linalg.norm(state[:, 3:7], axis=1, keepdims=True)
    return torch.from_numpy(chunk).float(), torch.from_numpy(state).float()


@pytest.mark.parametrize("widths", [(None, None), (32, 32)])
@pytest.mark.parametrize("slot", [0, 1])
def test_chunks_there_and_back(slot: int, widths):
    slots = make(*widths)
    assert (slots.state_width, slots.action_width) == ((10, 10) if widths[0] is None else (32, 32))
    chunk, state = recorded(slot)
    seen, valid = slots.normalize_chunk(chunk, state, slot)
    own = (3, 10)[slot]
    assert seen.shape == (5, 4, slots.action_width)
    assert valid.tolist() == [i < own for i in range(slots.action_width)]
    assert not seen[..., ~valid].any() and seen[..., valid].all()
    noisy = torch.where(valid, seen, torch.inf)  # nobody looks at what is said of the padding
    torch.testing.assert_close(
        slots.unnormalize_chunk(noisy, state, slot), chunk, rtol=0, atol=1e-5
    )
    padded = slots.normalize_state(state, slot)
    own = (4, 10)[slot]
    assert padded.shape == (5, slots.state_width) and not padded[:, own:].any()
    assert padded[:, :own].all()


def test_each_robot_has_its_own_form_and_statistics():
    slots = make()
    chunk, state = recorded(1)
    seen, _ = slots.normalize_chunk(chunk, state, 1)
    stats = stats_of(SPACE)
    expected = SPACE.to_network(chunk.numpy(), state.numpy()) - np.array(
        stats.stream("action").mean
    )
    expected /= np.array(stats.stream("action").std)
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-5)
    history = torch.stack([torch.zeros_like(state), state], dim=1)
    history[:, 0, 3] = 1
    torch.testing.assert_close(slots.normalize_chunk(chunk, history, 1)[0], seen)
    torch.testing.assert_close(slots.unnormalize_chunk(seen, history, 1), chunk, rtol=0, atol=1e-5)
    both = slots.normalize_state(history, 1)
    assert both.shape == (5, 2, 10)
    torch.testing.assert_close(both[:, 1], slots.normalize_state(state, 1))
    small = slots.normalize_state(recorded(0)[1], 0)
    mean, std = (
        torch.tensor(getattr(stats_of(ActionSpace.of(SMALL)).stream("state"), k))
        for k in ("mean", "std")
    )
    torch.testing.assert_close(small[:, :4], (recorded(0)[1] - mean) / std)


def test_commands_stay_within_the_limits():
    slots = make()
    _, state = recorded(0)
    wild = torch.full((5, 4, 10), 1e4)
    assert (slots.unnormalize_chunk(wild, state, 0) == 2.0).all()
    assert slots.unnormalize_chunk(wild.bfloat16(), state, 0).dtype == torch.float32


def test_padding_changes_neither_loss_nor_gradient():
    """A linear policy of width 10, against the same one cut down to the robot's 3 entries."""
    torch.manual_seed(0)
    chunk, state = recorded(0)
    keep = torch.ones(5, 4, dtype=torch.bool)
    keep[0, 2:] = False
    wide_in, wide_out = torch.nn.Linear(10, 8), torch.nn.Linear(8, 10)
    thin_in, thin_out = torch.nn.Linear(3, 8), torch.nn.Linear(8, 3)
    with torch.no_grad():
        thin_in.weight.copy_(wide_in.weight[:, :3])
        thin_in.bias.copy_(wide_in.bias)
        thin_out.weight.copy_(wide_out.weight[:3])
        thin_out.bias.copy_(wide_out.bias[:3])
    slots, alone = make(), EmbodimentSlots([SMALL], [stats_of(ActionSpace.of(SMALL))])
    noise = torch.randn(5, 4, 10)
    losses = []
    for known, first, last in ((slots, wide_in, wide_out), (alone, thin_in, thin_out)):
        x, valid = known.normalize_chunk(chunk, state, 0)
        noisy = 0.3 * x + 0.7 * noise[..., : known.action_width] * valid
        target = x - noise[..., : known.action_width]
        loss = masked_mean((last(first(noisy).tanh()) - target).square(), keep, valid)
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1])
    assert wide_in.weight.grad is not None and wide_out.weight.grad is not None
    torch.testing.assert_close(wide_in.weight.grad[:, :3], thin_in.weight.grad)
    torch.testing.assert_close(wide_out.weight.grad[:3], thin_out.weight.grad)
    assert not wide_in.weight.grad[:, 3:].any() and not wide_out.weight.grad[3:].any()


def test_masked_mean_of_robots_side_by_side():
    torch.manual_seed(0)
    error, keep = torch.rand(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    valid = torch.tensor([[True, True, True, True], [True, False, False, False]])
    expected = (error[0, 0].mean() + error[0, 1].mean() + error[1, 0, 0]) / 3
    torch.testing.assert_close(masked_mean(error, keep, valid), expected)
    # All valid: the plain mean over kept ticks, as without slots.
    every = torch.ones(4, dtype=torch.bool)
    plain = (error.mean(-1) * keep).sum() / keep.sum()
    torch.testing.assert_close(masked_mean(error, keep, every), plain)
    error[1, 0, 1:] = torch.inf
    error[0, 2] = torch.nan
    torch.testing.assert_close(masked_mean(error, keep, valid), expected)
    with pytest.raises(ValueError, match="no tick of this batch is kept"):
        masked_mean(error, torch.zeros_like(keep), valid)


def test_index_by_identity():
    slots = make()
    calibrated = replace(
        TOOL, cameras=(TOOL.cameras[0], replace(TOOL.cameras[1], mounted_on="hand"))
    )
    assert [slots.index(r) for r in (SMALL, TOOL, calibrated)] == [0, 1, 1]
    with pytest.raises(ValueError, match=r"lab 3 \('other'\) is none of .*'small', 'tool'"):
        slots.index(robot("other", 4, 3), "lab 3")
    with pytest.raises(ValueError, match="lab 3 is not the embodiment.*control_hz is 5.0"):
        slots.index(replace(TOOL, control_hz=5.0), "lab 3")
    with pytest.raises(ValueError, match="name is 'other', trained with 'small'"):
        EmbodimentSlots([SMALL], [stats_of(ActionSpace.of(SMALL))]).index(robot("other", 4, 3))
    with pytest.raises(ValueError, match="slot 2 does not exist; this policy has 2: small, tool"):
        slots.normalize_state(recorded(0)[1], 2)


def test_modes_and_checkpoint_keys():
    spaces = (ActionSpace.of(SMALL), SPACE)
    stats = [stats_of(space) for space in spaces]
    config = NormalizationConfig("quantiles", "min_max")
    slots = EmbodimentSlots((SMALL, TOOL), stats, spaces, config)
    keys = [
        f"{w}_normalizers.{i}.{b}"
        for w in ("state", "action")
        for i in (0, 1)
        for b in ("mean", "std")
    ]
    assert list(slots.state_dict()) == keys
    middle = (np.array(stats[1].stream("action").min) + stats[1].stream("action").max) / 2
    np.testing.assert_allclose(slots.state_dict()["action_normalizers.1.mean"], middle, rtol=1e-6)


def test_refusals():
    stats = [stats_of(ActionSpace.of(SMALL)), stats_of(SPACE)]
    with pytest.raises(ValueError, match="action_width 6 is less than the 10 entries"):
        make(action_width=6)
    with pytest.raises(ValueError, match="state_width 8 is less than the 10 entries"):
        make(state_width=8)
    with pytest.raises(ValueError, match="2 embodiments, 1 statistics and 2 action spaces"):
        EmbodimentSlots((SMALL, TOOL), stats[:1])
    with pytest.raises(ValueError, match="'small' is given twice"):
        EmbodimentSlots((SMALL, SMALL), [stats[0]] * 2)
    with pytest.raises(
        ValueError, match="tool: statistics of 10 state entries, the network sees 8"
    ):
        EmbodimentSlots((TOOL,), stats[1:])
    with pytest.raises(ValueError, match="action space of 'small' is of other entries"):
        EmbodimentSlots((SMALL,), stats[:1], (SPACE,))
    chunk, state = recorded(0)
    with pytest.raises(ValueError, match=r"action of small: expected 3 entries.*\(5, 4, 2\)"):
        make().normalize_chunk(chunk[..., :2], state, 0)
    with pytest.raises(ValueError, match=r"the policy's width 10, got shape \(5, 4, 3\)"):
        make().unnormalize_chunk(chunk, state, 0)
    with pytest.raises(ValueError, match=r"state of small: expected torch.float32, got .*float64"):
        make().normalize_state(state.double(), 0)


def test_cameras_of_all_robots():
    assert resolve_cameras([SMALL, TOOL]) == (Camera("front", 16, 16), Camera("wrist", 8, 8))
    other = robot("other", 1, 1, Camera("wrist", 480, 640), Camera("top", 240, 320))
    with pytest.raises(ValueError, match="'wrist' is 480x640 on 'other' and 8x8 on another robot"):
        resolve_cameras([TOOL, other])
    assert resolve_cameras([TOOL, other], {"": (64, 64), "top": (32, 48)}) == (
        Camera("front", 64, 64),
        Camera("wrist", 64, 64),
        Camera("top", 32, 48),
    )
    assert resolve_cameras([TOOL, other], {"wrist": (9, 9)})[1] == Camera("wrist", 9, 9)
    with pytest.raises(ValueError, match="'wirst'. Did you mean 'wrist'"):
        resolve_cameras([TOOL], {"wirst": (9, 9)})
