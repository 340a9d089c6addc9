"""A LeRobotDataset of many short episodes without images, for `store_growth.py`.

LeRobot's own recorder writes the first ones. It needs 10 ms and more for each, so the tables are
then made longer: the same columns, types and row groups, with the numbers of further episodes.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ulna.datasets.schema import Embodiment

RECORDED = 3


def build_lerobot(path: Path, lengths: list[int], robot: Embodiment) -> None:
    """A dataset at `path` with episodes of these lengths."""
    _record(path, lengths[:RECORDED], robot)
    steps = np.array(lengths)
    ends = np.cumsum(steps)
    data_file = next((path / "data").glob("*/*.parquet"))
    episodes_file = next((path / "meta/episodes").glob("*/*.parquet"))
    data, episodes = pq.read_table(data_file), pq.read_table(episodes_file)
    random = np.random.default_rng(0)
    total = int(ends[-1])
    frame = np.concatenate([np.arange(n) for n in lengths])
    values: dict[str, np.ndarray] = {
        "observation.state": random.normal(size=(total, robot.state_dim)),
        "action": random.normal(size=(total, robot.action_dim)),
        "timestamp": frame / robot.control_hz,
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(lengths)), steps),
        "index": np.arange(total),
        "task_index": np.zeros(total, np.int64),
    }
    grown = pa.table([_as(values[f.name], f) for f in data.schema], data.schema)
    with pq.ParquetWriter(data_file, data.schema, compression="snappy") as writer:
        for end, count in zip(ends.tolist(), lengths, strict=True):
            writer.write_table(grown.slice(end - count, count))  # LeRobot's row group per episode
    rows = episodes.take(pa.array(np.arange(len(lengths)) % len(episodes)))
    columns: dict[str, np.ndarray] = {
        "episode_index": np.arange(len(lengths)),
        "length": steps,
        "dataset_from_index": ends - steps,
        "dataset_to_index": ends,
    }
    for name, column in columns.items():
        field = rows.schema.field(name)
        rows = rows.set_column(rows.schema.names.index(name), field, _as(column, field))
    pq.write_table(rows, episodes_file)
    info_file = path / "meta/info.json"
    info: dict[str, Any] = json.loads(info_file.read_text())
    info |= {
        "total_episodes": len(lengths),
        "total_frames": total,
        "splits": {"train": f"0:{len(lengths)}"},
    }
    info_file.write_text(json.dumps(info))


def _record(path: Path, lengths: list[int], robot: Embodiment) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    shutil.rmtree(path, ignore_errors=True)
    vector = {"dtype": "float32", "names": None}
    dataset = LeRobotDataset.create(
        "growth/growth",
        fps=int(robot.control_hz),
        root=path,
        features={
            "observation.state": vector | {"shape": (robot.state_dim,)},
            "action": vector | {"shape": (robot.action_dim,)},
        },
        use_videos=False,
    )
    for steps in lengths:
        for _ in range(steps):
            state = np.zeros(robot.state_dim, np.float32)
            action = np.zeros(robot.action_dim, np.float32)
            dataset.add_frame({"observation.state": state, "action": action, "task": "move"})
        dataset.save_episode()
    dataset.finalize()


def _as(values: np.ndarray, field: pa.Field) -> pa.Array:
    """The values as a column of this type."""
    if values.ndim == 1:
        return pa.array(values).cast(field.type, safe=False)
    flat = pa.array(values.reshape(-1)).cast(field.type.value_type, safe=False)
    if pa.types.is_fixed_size_list(field.type):
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)
