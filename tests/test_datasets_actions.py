"""Actions to the network's form and back, their statistics, and every refusal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Oracle

from ulna.datasets.action_parts import GRIPPERS, ActionPart, Gripper, Mode, StatePart
from ulna.datasets.action_stats import network_stats
from ulna.datasets.actions import ActionSpace
from ulna.datasets.norm_stats import kept_norm_stats, stream_stats
from ulna.datasets.rotations import ENTRIES, Rotation, angle_between, from_matrix, to_matrix
from ulna.datasets.schema import Embodiment, Episode
from ulna.datasets.store import Store
from ulna.datasets.strict_json import decode, encode
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.writer import Writer

ROTATIONS: tuple[Rotation, ...] = get_args(Rotation)
MODES: tuple[Mode, ...] = get_args(Mode)
TOOL = GRIPPERS["unit_open_high"]


def names(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{i}" for i in range(count))


def arm(
    rotation: Rotation,
    mode: Mode,
    frame: Literal["base", "tool"] = "tool",
    network: Rotation = "rot6d",
) -> ActionSpace:
    """x y z, a rotation, a gripper: in action and state, the state with a quaternion."""
    stop = 3 + ENTRIES[rotation]
    return ActionSpace(
        (*"xyz", *names("r", ENTRIES[rotation]), "gripper"),
        (*"xyz", "qx", "qy", "qz", "qw", "opening_m"),
        (
            ActionPart("position", (0, 3), mode, (0, 3), frame),
            ActionPart(
                "rotation",
                (3, stop),
                mode,
                None if mode == "as_recorded" else (3, 7),
                frame,
                rotation=rotation,
                network_rotation=network,
            ),
            ActionPart(
                "gripper",
                (stop, stop + 1),
                "as_recorded" if mode == "as_recorded" else "absolute",
                gripper=GRIPPERS["robosuite"],
            ),
        ),
        (StatePart("rotation", (3, 7), rotation="quat_xyzw"),),
    )


UMI = arm("axis_angle", "chunk_relative")


def walk(rotation: Rotation, seed: int, batch: int = 3, horizon: int = 6):
    """A smooth chunk of poses from a state on, as (chunk, state) of `arm`."""
    random = np.random.default_rng(seed)
    steps = Oracle.from_rotvec(random.normal(0, 0.2, (batch * (horizon + 1), 3))).as_matrix()
    turns = steps.reshape(batch, horizon + 1, 3, 3)
    turns[:, 0] = Oracle.random(batch, random).as_matrix()
    for tick in range(1, horizon + 1):
        turns[:, tick] = turns[:, tick - 1] @ turns[:, tick]
    place = random.normal(0, 0.5, (batch, 1, 3)) + np.cumsum(
        random.normal(0, 0.02, (batch, horizon + 1, 3)), axis=1
    )
    quaternions = from_matrix(turns[:, 0], "quat_xyzw") * random.choice([-1, 1], (batch, 1))
    state = np.concatenate([place[:, 0], quaternions, random.uniform(0, 0.08, (batch, 1))], axis=1)
    gripper = random.choice([-1.0, 1.0], (batch, horizon, 1))
    chunk = np.concatenate([place[:, 1:], from_matrix(turns[:, 1:], rotation), gripper], axis=2)
    return chunk.astype(np.float32), state.astype(np.float32)


def same_commands(rotation: Rotation, found: np.ndarray, expected: np.ndarray, atol=3e-6) -> None:
    """Equal as poses: a rotation may be written in another way."""
    np.testing.assert_allclose(found[..., :3], expected[..., :3], atol=atol)
    np.testing.assert_allclose(found[..., -1], expected[..., -1], atol=atol)
    turns = (to_matrix(x[..., 3:-1], rotation) for x in (found, expected))
    assert angle_between(*turns).max() < 3 * atol


@pytest.mark.parametrize("frame", ["tool", "base"])
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=12, deadline=None)
@given(
    rotation=st.sampled_from(ROTATIONS),
    network=st.sampled_from(ROTATIONS),
    seed=st.integers(0, 10**6),
    horizon=st.integers(1, 8),
)
def test_from_network_undoes_to_network(mode: Mode, frame, rotation, network, seed, horizon):
    space = arm(rotation, mode, frame, network)
    chunk, state = walk(rotation, seed, horizon=horizon)
    seen = space.to_network(chunk, state)
    assert seen.shape == (3, horizon, space.network_dim) and seen.dtype == np.float32
    assert len(space.network_names) == space.network_dim
    back = space.from_network(seen, state)
    assert back.dtype == np.float32
    if mode == "as_recorded":
        np.testing.assert_array_equal(seen, chunk)
        np.testing.assert_array_equal(back, chunk)
    same_commands(rotation, back, chunk)
    assert decode(ActionSpace, json.loads(json.dumps(encode(space)))) == space


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_umi_form_is_the_targets_pose_seen_from_the_tool(seed: int):
    chunk, state = walk("axis_angle", seed)
    seen = UMI.to_network(chunk, state)
    for row in range(len(chunk)):
        tool = Oracle.from_quat(state[row, 3:7])
        for tick in range(chunk.shape[1]):
            x, y, z, *vector, gripper = chunk[row, tick]
            at = tool.inv().apply(np.array([x, y, z]) - state[row, :3])
            turn = (tool.inv() * Oracle.from_rotvec(vector)).as_matrix()
            expected = [*at, *turn[:, 0], *turn[:, 1], (1 - gripper) / 2]
            np.testing.assert_allclose(seen[row, tick], expected, atol=3e-6)


def test_umi_form_does_not_depend_on_where_the_base_stands():
    chunk, state = walk("axis_angle", 0)
    moved, moved_state = chunk.copy(), state.copy()
    base = Oracle.from_euler("xyz", [0.3, -0.8, 2.0])
    pairs: list[tuple[np.ndarray, Rotation]]
    pairs = [(moved, "axis_angle"), (moved_state, "quat_xyzw")]
    for values, what in pairs:
        stop = 3 + ENTRIES[what]
        values[..., :3] = base.apply(values[..., :3].reshape(-1, 3)).reshape(
            values[..., :3].shape
        ) + np.float32(0.7)
        values[..., 3:stop] = from_matrix(
            base.as_matrix() @ to_matrix(values[..., 3:stop], what), what
        )
    found = UMI.to_network(moved, moved_state)
    np.testing.assert_allclose(found, UMI.to_network(chunk, state), atol=3e-6)
    hidden = replace(
        UMI,
        state_parts=(
            StatePart("hidden", (0, 3)),
            StatePart("hidden", (3, 7), rotation="quat_xyzw"),
            StatePart("gripper", (7, 8), gripper=Gripper(0.08, 0.0)),
        ),
    )
    np.testing.assert_array_equal(
        hidden.state_to_network(moved_state), hidden.state_to_network(state)
    )
    np.testing.assert_allclose(hidden.state_to_network(state)[:, 0], state[:, 7] / 0.08, rtol=1e-6)
    np.testing.assert_array_equal(hidden.to_network(chunk, state), UMI.to_network(chunk, state))


@pytest.mark.parametrize("frame", ["tool", "base"])
def test_delta_is_each_tick_from_the_one_before(frame):
    space = arm("quat_wxyz", "delta", frame)
    chunk, state = walk("quat_wxyz", 1)
    seen = space.to_network(chunk, state)
    turns = [
        Oracle.from_quat(state[:, 3:7]),
        *(Oracle.from_quat(chunk[:, tick, 3:7], scalar_first=True) for tick in range(6)),
    ]
    places = [state[:, :3], *(chunk[:, tick, :3] for tick in range(6))]
    for tick in range(6):
        old, new = turns[tick], turns[tick + 1]
        turn = (old.inv() * new if frame == "tool" else new * old.inv()).as_matrix()
        step = places[tick + 1] - places[tick]
        step = old.inv().apply(step) if frame == "tool" else step
        np.testing.assert_allclose(seen[:, tick, :3], step, atol=1e-6)
        np.testing.assert_allclose(seen[:, tick, 3:6], turn[:, :, 0], atol=1e-6)
    # A repeated action, as padding is, is no motion: and what comes before does not notice.
    padded = chunk.copy()
    padded[:, 4:] = padded[:, 3:4]
    found = space.to_network(padded, state)
    np.testing.assert_array_equal(found[:, :4], seen[:, :4])
    np.testing.assert_allclose(found[:, 4:, :3], 0, atol=1e-7)
    np.testing.assert_allclose(
        found[:, 4:, 3:9], np.eye(3)[:2].reshape(1, 1, 6) + 0 * found[:, 4:, 3:9], atol=1e-6
    )


def test_absolute_shows_the_rotation_once_however_it_is_signed():
    space = arm("quat_wxyz", "absolute")
    chunk, state = walk("quat_wxyz", 2)
    flipped, flipped_state = chunk.copy(), state.copy()
    flipped[:, ::2, 3:7] *= -1
    flipped_state[:, 3:7] *= -1
    np.testing.assert_array_equal(
        space.to_network(flipped, flipped_state), space.to_network(chunk, state)
    )
    np.testing.assert_array_equal(
        space.state_to_network(flipped_state), space.state_to_network(state)
    )
    assert space.state_to_network(state[:, None].repeat(2, 1)).shape == (3, 2, 10)


@pytest.mark.parametrize("rotation", ["quat_wxyz", "quat_xyzw"])
@pytest.mark.parametrize("measured", ["quat_wxyz", "quat_xyzw", "rot6d", None])
def test_commanded_quaternions_follow_the_states_sign(rotation: Rotation, measured):
    space = arm(rotation, "absolute")
    chunk, state = walk(rotation, 2)
    seen = space.to_network(chunk, state)
    for sign in (1, -1) if measured in ("quat_wxyz", "quat_xyzw") else (1,):
        first = np.float32(sign) * state[:, 3:7]
        if measured is None:
            parts, state_parts, given = (replace(space.parts[1], state=None),), (), first
        else:
            given = first if measured == "quat_xyzw" else first[:, [3, 0, 1, 2]]
            if measured == "rot6d":
                given = from_matrix(to_matrix(first, "quat_xyzw"), "rot6d").astype(np.float32)
            stop = 3 + ENTRIES[measured]
            parts = (replace(space.parts[1], state=(3, stop)),)
            state_parts = (StatePart("rotation", (3, stop), rotation=measured),)
        rows = np.concatenate([state[:, :3], given, state[:, 7:]], axis=1)
        other = ActionSpace(
            space.action_names,
            names("s", rows.shape[1]),
            (ActionPart("other", (0, 3)), *parts, ActionPart("other", (7, 8))),
            state_parts,
        )
        back = other.from_network(seen, rows)[..., 3:7]
        np.testing.assert_allclose(np.abs((back * chunk[..., 3:7]).sum(-1)), 1, atol=1e-5)
        assert ((back[:, 1:] * back[:, :-1]).sum(-1) > 0).all()
        if measured in ("quat_wxyz", "quat_xyzw"):
            start = first if rotation == "quat_xyzw" else first[:, [3, 0, 1, 2]]
            assert ((back[:, 0] * start).sum(-1) > 0).all()


def test_two_arms_each_in_the_frame_of_its_own_tool():
    one = arm("axis_angle", "chunk_relative")
    shift = [
        replace(
            part,
            action=(part.action[0] + 7, part.action[1] + 7),
            state=part.state and (part.state[0] + 8, part.state[1] + 8),
        )
        for part in one.parts
    ]
    left, right = one.parts[0], shift[0]
    measured = StatePart("rotation", (11, 15), rotation="quat_xyzw")
    both = ActionSpace(
        tuple(f"{side}_{n}" for side in ("left", "right") for n in one.action_names),
        tuple(f"{side}_{n}" for side in ("left", "right") for n in one.state_names),
        (replace(left, tool=(3, 6)), *one.parts[1:], replace(right, tool=(10, 13)), *shift[1:]),
        (*one.state_parts, measured),
    )
    (a, s), (b, t) = walk("axis_angle", 3), walk("axis_angle", 4)
    chunk, state = np.concatenate([a, b], axis=2), np.concatenate([s, t], axis=1)
    found = both.to_network(chunk, state)
    expected = [one.to_network(a, s), one.to_network(b, t)]
    np.testing.assert_array_equal(found, np.concatenate(expected, axis=2))
    back = both.from_network(found, state)
    same_commands("axis_angle", back[..., :7], a)
    same_commands("axis_angle", back[..., 7:], b)
    with pytest.raises(ValueError, match=r"left_x, left_y.*\(3, 6\), \(10, 13\) and tool=None"):
        replace(both, parts=(left, *both.parts[1:]))


def test_joints_are_subtracted():
    parts = (
        ActionPart("joints", (0, 2), "chunk_relative", (1, 3)),
        ActionPart("joints", (2, 4), "delta", (3, 5)),
        ActionPart("other", (4, 5)),
    )
    space = ActionSpace(names("a", 5), names("s", 6), parts)
    random = np.random.default_rng(0)
    chunk = random.normal(size=(4, 7, 5)).astype(np.float32)
    state = random.normal(size=(4, 6)).astype(np.float32)
    seen = space.to_network(chunk, state)
    np.testing.assert_allclose(seen[..., :2], chunk[..., :2] - state[:, None, 1:3], atol=1e-6)
    path = np.concatenate([state[:, None, 3:5], chunk[..., 2:4]], axis=1)
    np.testing.assert_allclose(seen[..., 2:4], np.diff(path, axis=1), atol=1e-6)
    np.testing.assert_array_equal(seen[..., 4], chunk[..., 4])
    np.testing.assert_allclose(space.from_network(seen, state), chunk, atol=1e-6)
    np.testing.assert_array_equal(space.state_to_network(state), state)


@pytest.mark.parametrize("name", GRIPPERS)
def test_grippers_open_the_same_way_round(name: str):
    gripper = GRIPPERS[name]
    values = np.array([[gripper.open_at], [gripper.closed_at]])
    np.testing.assert_array_equal(gripper.to_network(values, "gripper"), [[1], [0]])
    beyond = np.array([[1.5], [0.25], [-0.5]])
    np.testing.assert_allclose(gripper.to_network(gripper.from_network(beyond), ""), beyond)
    clipped = replace(gripper, clip=True).from_network(beyond)
    np.testing.assert_allclose(gripper.to_network(clipped, ""), [[1], [0.25], [0]])
    binary = replace(gripper, binary=True)
    np.testing.assert_array_equal(
        binary.from_network(np.array([0.7, 0.2, 9.0])),
        [gripper.open_at, gripper.closed_at, gripper.open_at],
    )
    assert np.isnan(binary.from_network(np.array([np.nan])))
    with pytest.raises(ValueError, match=r"grip: a binary gripper is recorded as .*binary=False"):
        binary.to_network(gripper.from_network(np.array([0.0, 0.5, 1.0])), "grip")


def test_panda_needs_nothing():
    robot = synthetic_embodiment()
    space = ActionSpace.of(robot)
    assert space.is_as_recorded and not UMI.is_as_recorded
    assert not replace(space, state_parts=(StatePart("hidden", (0, 1)),)).is_as_recorded
    episode = synthetic_episode(robot, 0, steps=6)
    chunk, state = episode.streams["action"][None], episode.streams["state"][:1]
    np.testing.assert_array_equal(space.to_network(chunk, state), chunk)
    np.testing.assert_array_equal(space.state_to_network(state), state)
    assert space.network_names == robot.action_names


P, R, G = UMI.parts


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((P, G), r"entries \(3, 6\) \(r0, r1, r2\) are in no part; add"),
        ((P, R), r"entries \(6, 7\) \(gripper\) are in no part"),
        ((P, replace(R, action=(2, 5)), G), r"\(2, 3\) \(z\) are in two parts"),
        ((R, P, G), r"\(0, 3\) \(x, y, z\) are in no part"),
        ((P, R, replace(G, action=(6, 8))), r"\(6, 8\) do not exist; there are 7: x, y"),
        ((replace(P, state=None), R, G), r"x, y, z\): chunk_relative needs the state entries"),
        ((replace(P, state=(6, 9)), R, G), r"state entries \(6, 9\) do not exist; there are 8"),
        ((replace(P, state=(0, 2)), R, G), r"3 entries, but 2 of the state \(x, y\)"),
        ((P, replace(R, rotation=None), G), r"say how this rotation is recorded.*rot6d"),
        ((P, replace(R, rotation="rot6d"), G), r"a rotation as rot6d has 6 entries, these are 3"),
        ((P, replace(R, state=(0, 4)), G), r"nothing says how the state entries \(0, 4\) record"),
        ((P, replace(R, mode="as_recorded"), G), r"turns with one rotation part.*there are none"),
        ((replace(P, tool=(0, 3)), R, G), r"there are \(3, 6\) and tool=\(0, 3\)"),
        ((P, R, replace(G, mode="delta", state=(7, 8))), r"as_recorded or absolute, got delta"),
        ((P, R, replace(G, gripper=None)), r"which values open and close.*percent_open_high"),
        ((replace(P, gripper=TOOL), R, G), r"convention is given, but its kind is 'position'"),
        ((replace(P, rotation="euler_xyz"), R, G), r"rotation='euler_xyz' is given, but its kind"),
    ],
)
def test_parts_that_do_not_fit(parts, why: str):
    with pytest.raises(ValueError, match=why):
        replace(UMI, parts=parts)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((StatePart("rotation", (3, 7)),), r"\(3, 7\) \(qx, .*say how this rotation is recorded"),
        ((StatePart("rotation", (3, 6), "quat_xyzw"),), "has 4 entries, these are 3"),
        ((StatePart("gripper", (7, 8)),), "which values open and close"),
        ((StatePart("hidden", (0, 4)), StatePart("hidden", (3, 8))), r"\(3, 4\) \(qx\) are in two"),
        ((StatePart("hidden", (0, 8)),), "every state entry is hidden"),
    ],
)
def test_state_parts_that_do_not_fit(parts, why: str):
    with pytest.raises(ValueError, match=why):
        ActionSpace(UMI.action_names, UMI.state_names, (ActionPart("other", (0, 7)),), parts)


def test_data_that_does_not_fit():
    chunk, state = walk("axis_angle", 5)
    with pytest.raises(ValueError, match=r"action: expected 7 entries \(x, y.*\(3, 6, 6\)"):
        UMI.to_network(chunk[..., :6], state)
    with pytest.raises(ValueError, match=r"expected 10 entries \(x, y, z, r0:rot6d\[0\]"):
        UMI.from_network(chunk, state)
    with pytest.raises(ValueError, match=r"state for 3 chunks: expected 8 .*got shape \(3, 7\)"):
        UMI.to_network(chunk, state[:, 1:])
    with pytest.raises(ValueError, match=r"state: expected 8"):
        UMI.state_to_network(state[:, 1:])
    state[1, 3:7] /= 3
    with pytest.raises(ValueError, match=r"\(qx, qy, qz, qw\): expected a rotation.*\(1,\)"):
        UMI.state_to_network(state)
    with pytest.raises(ValueError, match="open and closed are both 1.0"):
        Gripper(1.0, 1.0)
    robot = replace(synthetic_embodiment(), state_names=UMI.state_names, quaternion_order="wxyz")
    with pytest.raises(ValueError, match=r"says quat_xyzw, but .*in the order wxyz"):
        ActionSpace.of(robot, (), UMI.state_parts)
    with pytest.raises(ValueError, match="mode"):
        decode(ActionSpace, encode(UMI) | {"parts": [encode(P) | {"mode": "relative"}]})


# ---------------------------------------------------------------------- statistics


def umi_robot() -> Embodiment:
    return replace(
        synthetic_embodiment(cameras=()),
        state_names=UMI.state_names,
        action_names=UMI.action_names,
        action_low=(-9.0,) * 7,
        action_high=(9.0,) * 7,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path: Path = tmp_path_factory.mktemp("actions") / "umi.zarr"
    Store.create(path, umi_robot())
    with Writer(path) as writer:
        for seed, steps in enumerate((9, 14, 3)):
            chunk, state = walk("axis_angle", seed, batch=1, horizon=steps)
            back = UMI.from_network(UMI.to_network(chunk, state), state)
            turns = from_matrix(to_matrix(back[0, :, 3:6], "axis_angle"), "quat_xyzw")
            opening = np.linspace(0, 0.08, steps)[:, None]
            states = np.concatenate([back[0, :, :3], turns, opening], axis=1)
            states[1:] = states[:-1]  # measured lags behind commanded
            streams = {"state": states.astype(np.float32), "action": chunk[0]}
            writer.add_episode(Episode({}, streams, "go", "umi", seed, True))
    return Store.open(path)


@pytest.mark.parametrize("mode", ["chunk_relative", "delta", "absolute"])
def test_statistics_are_those_of_all_windows(store: Store, mode: Mode, monkeypatch):
    monkeypatch.setattr("ulna.datasets.action_stats._BLOCK_NUMBERS", 100)  # several blocks
    space, horizon, chosen = arm("axis_angle", mode), 5, [0, 2]
    states, ticks = [], []
    for index in chosen:
        state, action = store.read("state", index), store.read("action", index)
        states.append(space.state_to_network(state))
        for step in range(len(action)):
            chunk = action[None, step : step + horizon]  # shorter at the end: no padding at all
            ticks.append(space.to_network(chunk, state[None, step])[0])
    found = network_stats(store, chosen, space, horizon)
    for name, rows in (("state", states), ("action", ticks)):
        expected = stream_stats(np.concatenate(rows))
        stream = found.stream(name)
        for field in ("count", "min", "max", "q01", "q50", "q99", "buckets"):
            assert getattr(stream, field) == getattr(expected, field), (name, field)
        np.testing.assert_allclose(stream.mean, expected.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(stream.std, expected.std, rtol=1e-9, atol=1e-12)
    assert found.episodes == 2 and len(found.source) == 64
    assert found.source != network_stats(store, [0, 1], space, horizon).source
    longer = network_stats(store, chosen, space, horizon + 1)
    assert found.source != longer.source
    if mode == "chunk_relative":
        assert longer.stream("action").std[0] > found.stream("action").std[0]


def test_statistics_are_kept_and_found_again(store: Store, monkeypatch):
    first = network_stats(store, [0, 1], UMI, 4, keep=True)

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr("ulna.datasets.action_stats.sketch_rows", never)
    assert network_stats(store, [0, 1], UMI, 4) == first
    for other in ((UMI, 3), (arm("axis_angle", "delta"), 4)):
        with pytest.raises(AssertionError, match="computed again"):
            network_stats(store, [0, 1], *other)


def test_statistics_as_recorded_are_the_stores(store: Store):
    plain = ActionSpace.of(store.embodiment)
    assert network_stats(store, None, plain, 4) == kept_norm_stats(store)


def test_statistics_refusals(store: Store):
    with pytest.raises(ValueError, match=r"action entries are x, y, z.*the action space has dx"):
        network_stats(store, None, ActionSpace.of(synthetic_embodiment()), 4)
    with pytest.raises(ValueError, match="horizon 0 must be at least 1"):
        network_stats(store, None, UMI, 0)
    with pytest.raises(ValueError, match="no episodes"):
        network_stats(store, [], UMI, 4)
    shifted = replace(
        UMI,
        parts=(P, replace(R, state=(1, 5)), G),
        state_parts=(StatePart("rotation", (1, 5), "quat_wxyz"),),
    )
    with pytest.raises(ValueError, match=r"umi.zarr: state entries \(1, 5\).*length is not 1"):
        network_stats(store, [0], shifted, 4)
