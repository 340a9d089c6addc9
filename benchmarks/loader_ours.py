"""Ulna's loader as the benchmark sees it, in its modes; `overhead` decodes nothing.

Next: `ulna.datasets.loader` (what is measured), `loader_measure.py` (who measures).
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from loader_competitors import BATCH, Loader, Sample
from loader_data import read_raw

from ulna.datasets import image_codec
from ulna.datasets.loader import WindowLoader, WindowSpec
from ulna.datasets.store import Store


class Ulna:
    """A WindowLoader on one of the benchmark's stores."""

    def __init__(
        self,
        data: Path,
        sample: Sample,
        workers: int,
        store: str = "ulna_jpeg95",
        mode: Literal["random", "clip"] = "random",
        cache: Literal["none", "ram"] = "none",
        everything: bool = False,
    ) -> None:
        """`everything`: also what a window may ask for besides: other commands, other streams."""
        if everything:
            spec = WindowSpec(
                sample.horizon, sample.history, streams=("time_ns",), language="paraphrases"
            )
        else:
            spec = WindowSpec(sample.horizon, sample.history)
        self._store = Store.open(data / f"{store}.zarr")
        self._loader = WindowLoader(self._store, spec, BATCH, seed=0, mode=mode, cache=cache)
        if cache == "ram":
            for _ in range(len(self._loader)):  # an epoch: from then on all frames are in memory
                next(self._loader)
        # Rows count through the raw episodes, which a store sorts otherwise.
        raw = read_raw(data)
        place = {(e.task, e.seed): index for index, e in enumerate(self._store.episodes)}
        keys = zip(raw.tasks, raw.seeds, strict=True)
        self._episodes = [place[key] for key in keys]
        self._starts = raw.starts

    def batches(self) -> Iterator[int]:
        for batch in self._loader:
            yield len(batch.state)

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        owners = np.searchsorted(self._starts, rows, "right") - 1
        steps = rows - self._starts[owners]
        found = [
            self._store.read(f"images/{camera}", self._episodes[owner], step, step + 1)
            for owner, step in zip(owners.tolist(), steps.tolist(), strict=True)
        ]
        return np.concatenate(found)


class UlnaWithoutDecoding(Ulna):
    """All of the loader's own work: places, gathers, checksums, threads; pictures stay empty."""

    def __init__(self, data: Path, sample: Sample, workers: int) -> None:
        super().__init__(data, sample, workers, everything=True)
        decoder: Any = image_codec.simplejpeg
        decoder.decode_jpeg = _no_decoding


def _no_decoding(data: Any, buffer: np.ndarray) -> np.ndarray:
    return buffer


MAKERS: dict[str, Callable[[Path, Sample, int], Loader]] = {
    "ulna": Ulna,
    "ulna_jpeg90": partial(Ulna, store="ulna_jpeg90"),
    "ulna_jpeg80": partial(Ulna, store="ulna_jpeg80"),
    "ulna_lossless": partial(Ulna, store="ulna_lossless"),
    "ulna_clip": partial(Ulna, store="ulna_clip", mode="clip"),
    "ulna_ram": partial(Ulna, cache="ram"),
    "ulna_overhead": UlnaWithoutDecoding,
}
