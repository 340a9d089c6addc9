"""Several robots in one policy: each has a slot with its own statistics, and all share one width.

    slot 0   x y z r r r g . .        entries as the network sees them, normalised; dots are 0
    slot 1   j j j j j j j j g        valid: which entries are a robot's own

Padded entries neither teach nor count: what goes into the network there is 0 (multiply noise and
noisy actions by `valid` too, in training *and* in sampling), and `masked_mean` leaves them out. So
the loss of a padded policy is that of one which was made for the robot alone. (openpi lets padded
entries count: its loss falls with the padding.)

Next: `normalizer.py`, `datasets/actions.py`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..datasets.actions import ActionSpace
from ..datasets.norm_stats import NormStats, StreamStats
from ..datasets.schema import Camera, Embodiment, require_same_embodiment, unknown_name
from .normalizer import NormalizationConfig, Normalizer


class EmbodimentSlots(nn.Module):
    """Between what robots record and what the network sees: form, scale and width."""

    def __init__(
        self,
        embodiments: Sequence[Embodiment],
        stats: Sequence[NormStats],
        spaces: Sequence[ActionSpace] | None = None,
        normalization: NormalizationConfig | None = None,
        state_width: int | None = None,
        action_width: int | None = None,
    ) -> None:
        """`stats`: of the network's form, per robot (`network_stats`). `spaces` None: all as
        recorded. Widths None: the largest (pi0 and SmolVLA take 32)."""
        super().__init__()
        self.embodiments = tuple(embodiments)
        self.spaces = tuple(spaces or (ActionSpace.of(robot) for robot in embodiments))
        if not self.embodiments or not len(self.embodiments) == len(stats) == len(self.spaces):
            raise ValueError(
                f"{len(self.embodiments)} embodiments, {len(stats)} statistics and "
                f"{len(self.spaces)} action spaces; give one of each per robot, at least one"
            )
        for slot, (robot, space) in enumerate(zip(self.embodiments, self.spaces, strict=True)):
            if robot in self.embodiments[:slot]:
                raise ValueError(f"the embodiment {robot.name!r} is given twice; merge its stores")
            if (space.action_names, space.state_names) != (robot.action_names, robot.state_names):
                raise ValueError(
                    f"the action space of {robot.name!r} is of other entries: "
                    f"{', '.join(space.action_names)} instead of {', '.join(robot.action_names)}, "
                    f"state {', '.join(space.state_names)} instead of "
                    f"{', '.join(robot.state_names)}"
                )
        self.state_width = _width("state", state_width, [s.network_state_dim for s in self.spaces])
        self.action_width = _width("action", action_width, [s.network_dim for s in self.spaces])
        how = normalization or NormalizationConfig()
        self.state_normalizers, self.action_normalizers = nn.ModuleList(), nn.ModuleList()
        for robot, space, known in zip(self.embodiments, self.spaces, stats, strict=True):
            state, action = known.stream("state"), known.stream("action")
            _require_entries(robot, "state", state, space.network_state_dim)
            _require_entries(robot, "action", action, space.network_dim)
            self.state_normalizers.append(
                Normalizer.of(state, how.state, how.state_floor, f"state of {robot.name}")
            )
            self.action_normalizers.append(
                Normalizer.of(action, how.action, how.action_floor, f"action of {robot.name}")
            )

    @property
    def device(self) -> torch.device:
        normalizer = self.state_normalizers[0]
        assert isinstance(normalizer, Normalizer)
        return normalizer.mean.device

    def index(self, embodiment: Embodiment, where: str = "this robot") -> int:
        """The slot of a robot. Raises ValueError that says how it differs from those known."""
        if embodiment in self.embodiments:
            return self.embodiments.index(embodiment)
        namesakes = [robot for robot in self.embodiments if robot.name == embodiment.name]
        if len(self.embodiments) == 1 or len(namesakes) == 1:
            require_same_embodiment((namesakes or self.embodiments)[0], embodiment, where)
        raise ValueError(
            f"{where} ({embodiment.name!r}) is none of the embodiments this policy was trained "
            f"for: {', '.join(repr(robot.name) for robot in self.embodiments)}; use one of them, "
            "or train on data of this one"
        )

    def normalize_state(
        self, state: Float[Tensor, "*rows state_dim"], slot: int
    ) -> Float[Tensor, "*rows state_width"]:
        """Recorded states, or histories, as the network sees them; on this module's device."""
        space = self._space(slot)
        if space.state_parts:
            state = torch.from_numpy(space.state_to_network(_numpy(state)))
        seen = self._normalizer(self.state_normalizers, slot).normalize(state.to(self.device))
        return _pad(seen, self.state_width)

    def normalize_chunk(
        self,
        chunk: Float[Tensor, "batch horizon action_dim"],
        state: Float[Tensor, "batch *history state_dim"],
        slot: int,
    ) -> tuple[Float[Tensor, "batch horizon action_width"], Bool[Tensor, " action_width"]]:
        """Recorded chunks as the network is to predict them, and which entries are its own.

        `state` is the recorded one at the chunk's start (the last of a history). Both may
        lie anywhere; the loader's are on the CPU, where what a space changes is computed. The
        result is on this module's device.
        """
        space = self._space(slot)
        if not space.is_as_recorded:
            state = state.reshape(len(state), -1, state.shape[-1])[:, -1]
            chunk = torch.from_numpy(space.to_network(_numpy(chunk), _numpy(state)))
        seen = self._normalizer(self.action_normalizers, slot).normalize(chunk.to(self.device))
        return _pad(seen, self.action_width), self.valid_actions(slot)

    def unnormalize_chunk(
        self,
        padded: Float[Tensor, "batch horizon action_width"],
        state: Float[Tensor, "batch *history state_dim"],
        slot: int,
    ) -> Float[Tensor, "batch horizon action_dim"]:
        """The robot's commands, float32, within its limits, on the device of `padded`; `state` as
        for `normalize_chunk`. Padded entries are not looked at."""
        if padded.shape[-1] != self.action_width:
            raise ValueError(
                f"action: expected the policy's width {self.action_width}, got shape "
                f"{tuple(padded.shape)}"
            )
        space, robot = self._space(slot), self.embodiments[slot]
        own = padded[..., : space.network_dim].to(self.device)
        chunk = self._normalizer(self.action_normalizers, slot).unnormalize(own)
        if not space.is_as_recorded:
            state = state.reshape(len(state), -1, state.shape[-1])[:, -1]
            chunk = torch.from_numpy(space.from_network(_numpy(chunk), _numpy(state)))
        chunk = chunk.to(padded.device)
        low = torch.tensor(robot.action_low, dtype=torch.float32, device=chunk.device)
        high = torch.tensor(robot.action_high, dtype=torch.float32, device=chunk.device)
        return chunk.clamp(low, high)

    def valid_actions(self, slot: int) -> Bool[Tensor, " action_width"]:
        """Which of the network's action entries are this robot's."""
        own = self._space(slot).network_dim
        return torch.arange(self.action_width, device=self.device) < own

    def _space(self, slot: int) -> ActionSpace:
        if not 0 <= slot < len(self.spaces):
            raise ValueError(
                f"slot {slot} does not exist; this policy has {len(self.spaces)}: "
                f"{', '.join(robot.name for robot in self.embodiments)}"
            )
        return self.spaces[slot]

    def _normalizer(self, normalizers: nn.ModuleList, slot: int) -> Normalizer:
        normalizer = normalizers[slot]
        assert isinstance(normalizer, Normalizer)
        return normalizer


def masked_mean(
    error: Float[Tensor, "batch horizon action_width"],
    keep: Bool[Tensor, "batch horizon"],
    valid: Bool[Tensor, "*batch action_width"],
) -> Float[Tensor, ""]:
    """Mean of `error` over the kept ticks, each tick the mean of its valid entries, so that a robot
    of few joints counts as much as one of many. `valid` is one for all rows or (batch,
    action_width). Raises ValueError if no tick is kept."""
    if not bool(keep.any()):
        raise ValueError("no tick of this batch is kept; leave out batches of padding alone")
    valid = valid.to(error.dtype)
    valid = valid[:, None] if valid.ndim == 2 else valid
    # Not `* valid`: what a network says of a padded entry may be infinite, and inf * 0 is NaN.
    error = torch.where(valid > 0, error, 0.0)
    ticks = error.sum(dim=-1) / valid.sum(dim=-1)
    return torch.where(keep, ticks, 0.0).sum() / keep.sum()


def resolve_cameras(
    embodiments: Sequence[Embodiment], image_sizes: Mapping[str, tuple[int, int]] | None = None
) -> tuple[Camera, ...]:
    """All cameras of the robots by name, in order of appearance, each at the policy's image size.

    `image_sizes` gives (height, width) by camera name, `""` for those not named. Without it robots
    that share a camera's name must agree on its size.
    """
    wanted = dict(image_sizes or {})
    own = {camera.name: camera for robot in reversed(embodiments) for camera in robot.cameras}
    for name in wanted:
        if name and name not in own:
            raise unknown_name("camera in the image sizes", name, own)
    order = dict.fromkeys(camera.name for robot in embodiments for camera in robot.cameras)
    sizes = {
        name: wanted.get(name, wanted.get("", (own[name].height, own[name].width)))
        for name in order
    }
    for robot in embodiments:
        for camera in robot.cameras:
            size = sizes[camera.name]
            sized = camera.name in wanted or "" in wanted
            if not sized and size != (camera.height, camera.width):
                raise ValueError(
                    f"camera {camera.name!r} is {camera.height}x{camera.width} on {robot.name!r} "
                    f"and {size[0]}x{size[1]} on another robot; give the policy's image size"
                )
    return tuple(Camera(name, height, width) for name, (height, width) in sizes.items())


def _width(what: str, wanted: int | None, dims: Sequence[int]) -> int:
    width = max(dims) if wanted is None else wanted
    if width < max(dims):
        raise ValueError(
            f"{what}_width {width} is less than the {max(dims)} entries of a robot's {what}; use "
            f"{max(dims)} or more"
        )
    return width


def _require_entries(robot: Embodiment, what: str, stats: StreamStats, expected: int) -> None:
    if len(stats.mean) != expected:
        raise ValueError(
            f"{robot.name}: statistics of {len(stats.mean)} {what} entries, the network sees "
            f"{expected}; compute them with network_stats for this action space"
        )


def _pad(x: Tensor, width: int) -> Tensor:
    return nn.functional.pad(x, (0, width - x.shape[-1]))


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
