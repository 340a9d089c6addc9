"""The contract of `Env` as a check that any implementation, real or fake, can be put through.

Next: `envs/env.py` (the contract in words).
"""

from collections.abc import Callable

import numpy as np

from .env import Env


def check_env(env: Env, seed: int = 7, steps: int = 3) -> None:
    """Raise AssertionError that says which promise of `Env` is broken. Leaves `env` reset."""
    _check_words(env)
    _check_reset(env, seed, steps)
    _check_observation(env, seed)
    _check_step(env, seed, steps)
    _check_restore(env, seed, steps)
    env.reset(seed)


def _check_words(env: Env) -> None:
    body = env.embodiment
    _require(bool(env.task), "task has no name")
    _require(env.max_steps >= 1, f"max_steps is {env.max_steps}, expected 1 or more")
    _require(len(env.instructions) >= 1, "instructions is empty")
    _require(
        len(set(env.instructions)) == len(env.instructions),
        f"instructions repeat themselves: {env.instructions}",
    )
    _require(
        len(body.action_low) == len(body.action_high) == body.action_dim,
        f"{body.action_dim} action names but {len(body.action_low)} low and "
        f"{len(body.action_high)} high limits",
    )
    _require(
        bool(np.all(np.less(body.action_low, body.action_high))),
        "an action limit is not low < high",
    )


def _check_reset(env: Env, seed: int, steps: int) -> None:
    env.reset(seed)
    first, command = env.simulator_state(), env.instruction
    _require(command in env.instructions, f"instruction {command!r} is not in instructions")
    _require(not env.success(), "success() is True right after reset")
    env.reset(seed + 1)
    _require(not np.array_equal(first, env.simulator_state()), "two seeds gave the same placement")
    for action in _actions(env, steps):
        env.step(action)
    env.observe()
    env.reset(seed)
    _same(first, env.simulator_state(), "reset(seed) depends on what ran before")
    _require(env.instruction == command, "the instruction drawn by a seed changed")
    for instruction in env.instructions:
        env.reset(seed, instruction)
        _require(env.instruction == instruction, f"reset did not take {instruction!r}")
        _same(first, env.simulator_state(), "naming the instruction moved the scene")
    _refuses(lambda: env.reset(seed, "no such instruction"), "reset took an unknown instruction")


def _check_observation(env: Env, seed: int) -> None:
    env.reset(seed)
    before = env.simulator_state()
    observation = env.observe()
    _same(before, env.simulator_state(), "observe() changed the simulator state")
    _require(
        set(observation.images) == {camera.name for camera in env.embodiment.cameras},
        f"observe() gave the cameras {sorted(observation.images)}",
    )
    for camera in env.embodiment.cameras:
        _is_frame(observation.images[camera.name], camera.height, camera.width, camera.name)
        again = env.render(camera.name, camera.height, camera.width)
        _same(observation.images[camera.name], again, f"render({camera.name!r}) is not repeatable")
        _is_frame(env.render(camera.name, 48, 96), 48, 96, camera.name)
    _refuses(lambda: env.render("no such camera", 8, 8), "render took an unknown camera")
    _require(
        observation.state.shape == (env.embodiment.state_dim,)
        and observation.state.dtype == np.float32
        and bool(np.isfinite(observation.state).all()),
        f"state is {observation.state.dtype} {observation.state.shape}, expected finite float32 "
        f"({env.embodiment.state_dim},)",
    )
    _same(observation.state, env.state(), "state() and observe().state differ")
    _require(observation.instruction == env.instruction, "observe() has another instruction")


def _check_step(env: Env, seed: int, steps: int) -> None:
    low, high = np.array(env.embodiment.action_low), np.array(env.embodiment.action_high)
    ends = []
    for beyond in (0.0, 3.0):
        env.reset(seed)
        for action in _actions(env, steps):
            env.step(np.where(action > 0, high, low) * (1 + beyond))
        ends.append(env.simulator_state())
    _same(ends[0], ends[1], "an action beyond the limits is not clipped to them")
    _require(isinstance(env.outcome(), str), "outcome() is no string")


def _check_restore(env: Env, seed: int, steps: int) -> None:
    env.reset(seed)
    actions = _actions(env, 2 * steps)
    for action in actions[:steps]:
        env.step(action)
    middle, command, seen = env.simulator_state(), env.instruction, env.observe()
    _require(middle.dtype == np.float64, f"simulator_state is {middle.dtype}, expected float64")
    for action in actions[steps:]:
        env.step(action)
    end = env.simulator_state()
    env.reset(seed + 1)
    env.restore(middle, command)
    _same(middle, env.simulator_state(), "restore() does not give back the state it was given")
    again = env.observe()
    _same(seen.state, again.state, "state() differs after restore()")
    for camera, frame in seen.images.items():
        _same(frame, again.images[camera], f"pixels of {camera!r} differ after restore()")
    for action in actions[steps:]:
        env.step(action)
    _same(end, env.simulator_state(), "physics goes on differently after restore()")
    _refuses(lambda: env.restore(middle[:-1], command), "restore() took a state of another size")


def _actions(env: Env, count: int) -> np.ndarray:
    low, high = env.embodiment.action_low, env.embodiment.action_high
    return np.random.default_rng(0).uniform(low, high, (count, env.embodiment.action_dim))


def _is_frame(frame: np.ndarray, height: int, width: int, camera: str) -> None:
    _require(
        frame.shape == (height, width, 3) and frame.dtype == np.uint8,
        f"camera {camera!r} gave {frame.dtype} {frame.shape}, "
        f"expected uint8 ({height}, {width}, 3)",
    )


def _require(promise: bool, broken: str) -> None:
    if not promise:
        raise AssertionError(f"environment contract: {broken}")


def _same(expected: np.ndarray, got: np.ndarray, broken: str) -> None:
    if not np.array_equal(expected, got):
        difference = np.abs(expected.astype(float) - got.astype(float)).max()
        raise AssertionError(f"environment contract: {broken} (by up to {difference:.3g})")


def _refuses(call: Callable[[], object], broken: str) -> None:
    try:
        call()
    except ValueError:
        return
    raise AssertionError(f"environment contract: {broken}; expected ValueError")
