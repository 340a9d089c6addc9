"""The policy's border: batches and observations, as numpy has them, to what the network sees.

Everything that can be wrong with an observation is said here, before anything is computed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..datasets.schema import Batch, Camera, Observation, unknown_name
from .embodiment_slots import EmbodimentSlots
from .image_transforms import resize_with_pad
from .observation_encoder import Seen
from .policy_config import PolicyConfig


class Border:
    """Shapes, devices, sizes and scales of what comes in."""

    def __init__(
        self, config: PolicyConfig, slots: EmbodimentSlots, cameras: Sequence[Camera]
    ) -> None:
        self._config, self._slots = config, slots
        self._sizes = {camera.name: (camera.height, camera.width) for camera in cameras}
        # A pretrained backbone resizes as it was pretrained with.
        self._keep_sizes = config.backbone is not None

    def batch(self, batch: Batch, slot: int = 0) -> Seen:
        images = {
            name: torch.from_numpy(batch.images[name]).to(self._slots.device)
            for name in self._sizes
            if name in batch.images
        }
        state = torch.from_numpy(batch.state)
        if self._config.history == 1:
            images = {name: frames[:, None] for name, frames in images.items()}
            state = state[:, None]
        state = self._slots.normalize_state(state, slot)
        return Seen(self._resized(images), state, batch.instructions, {})

    def observations(self, observations: Sequence[Observation], slot: int) -> Seen:
        robot = self._slots.embodiments[slot]
        images, present = {}, {}
        for camera in robot.cameras:
            name = camera.name
            shape = (self._config.history, camera.height, camera.width, 3)
            there = [name in o.images for o in observations]
            if not any(there):
                continue
            frames = [
                o.images[name].reshape(shape) if name in o.images else np.zeros(shape, np.uint8)
                for o in observations
            ]
            images[name] = torch.from_numpy(np.stack(frames)).to(self._slots.device)
            if not all(there):
                present[name] = torch.tensor(there, device=self._slots.device)
        state = torch.from_numpy(np.stack([o.state for o in observations]))
        state = self._slots.normalize_state(
            state[:, None] if self._config.history == 1 else state, slot
        )
        words = tuple(o.instruction for o in observations)
        return Seen(self._resized(images), state, words, present)

    def _resized(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Frames (batch, history, height, width, 3) in the sizes the policy sees."""
        return {
            name: frames
            if self._keep_sizes or frames.shape[2:4] == self._sizes[name]
            else resize_with_pad(frames.flatten(0, 1), *self._sizes[name]).unflatten(
                0, frames.shape[:2]
            )
            for name, frames in images.items()
        }

    def future_images(self, batch: Batch) -> dict[str, Tensor]:
        images = {
            name: torch.from_numpy(batch.future_images[name]).to(self._slots.device)[:, None]
            for name in self._sizes
        }
        return {name: frames[:, 0] for name, frames in self._resized(images).items()}

    def check(self, observation: Observation, slot: int) -> None:
        history, robot = self._config.history, self._slots.embodiments[slot]
        before = () if history == 1 else (history,)
        names = [camera.name for camera in robot.cameras]
        if not set(names) & set(observation.images):
            raise unknown_name("camera", names[0], observation.images)
        for camera in robot.cameras:
            if camera.name not in observation.images:
                if self._config.camera_dropout:
                    continue
                raise unknown_name("camera", camera.name, observation.images)
            shape = observation.images[camera.name].shape
            expected = (*before, camera.height, camera.width, 3)
            if shape != expected:
                raise ValueError(
                    f"image {camera.name!r}: expected {expected} as in training, got {shape}; "
                    "render or resize to the policy's size"
                )
            if observation.images[camera.name].dtype != np.uint8:
                raise ValueError(
                    f"image {camera.name!r}: expected uint8 RGB, got "
                    f"{observation.images[camera.name].dtype}"
                )
        if observation.state.shape != (*before, robot.state_dim):
            raise ValueError(
                f"state: expected {robot.state_dim} entries "
                f"({', '.join(robot.state_names)}), got shape {observation.state.shape}"
            )
