"""The Parquet and JSON files of a LeRobotDataset, read piece by piece.

Rows are counted over all data files in the order of their names, which is how LeRobot itself finds
them; only footers are read when a dataset is opened, and one row group at a time after that.

Next: `import_lerobot.py`, which makes episodes of them.
"""

import json
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped

CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30"


@dataclass(frozen=True)
class VideoFile:
    """Where the frames of one camera in one episode are."""

    path: Path
    from_s: float


class Tables:
    """What `meta/` and `data/` of a dataset say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info = read_info(root)
        self.fps = float(self.info["fps"])
        self.features: dict[str, dict[str, Any]] = self.info["features"]
        self.tasks = _read_tasks(root)
        self.stats: dict[str, Any] = {}
        if (root / "meta/stats.json").exists():
            self.stats = json.loads((root / "meta/stats.json").read_bytes())
        self._episodes = _read_episodes(root)
        self._number_to_row = {
            int(number): row for row, number in enumerate(self._column("episode_index"))
        }
        self.rows = Rows(sorted((root / "data").glob("*/*.parquet")), root)

    @property
    def episode_numbers(self) -> list[int]:
        return sorted(self._number_to_row)

    def episode(self, number: int) -> pa.Table:
        """The rows of an episode. Raises ValueError if they are not what the tables say they are:
        a gap in the numbers silently shifts every later episode in LeRobot's own reader."""
        if number not in self._number_to_row:
            raise ValueError(f"{self.root} has no episode {number}")
        row = self._number_to_row[number]
        first, stop = (int(self._column(f"dataset_{end}_index")[row]) for end in ("from", "to"))
        table = self.rows.read(first, stop)
        for name, expected in (
            ("episode_index", np.full(len(table), number)),
            ("frame_index", np.arange(len(table))),
            ("index", np.arange(first, stop)),
        ):
            found = column_array(table, name, (), np.dtype(np.int64))
            if not np.array_equal(found, expected):
                at = int(np.argmax(found != expected))
                raise ValueError(
                    f"episode {number}: row {at} has {name} {found[at]}, expected {expected[at]}; "
                    "the tables of the dataset do not fit together"
                )
        return table

    def video_file(self, number: int, key: str) -> VideoFile:
        """Where the frames of feature `key` in episode `number` are."""
        row = self._number_to_row[number]

        def value(name: str) -> float:
            column = f"videos/{key}/{name}"
            if column not in self._episodes.column_names:
                raise ValueError(
                    f"the episode table in {self.root / 'meta/episodes'} has no column {column!r}, "
                    "so the frames cannot be found; download the dataset again"
                )
            return float(self._column(column)[row])

        path = self.info["video_path"].format(
            video_key=key,
            chunk_index=int(value("chunk_index")),
            file_index=int(value("file_index")),
        )
        if not (self.root / path).exists():
            raise ValueError(f"{self.root / path} is missing; download the dataset again")
        return VideoFile(self.root / path, float(value("from_timestamp")))

    def _column(self, name: str) -> np.ndarray:
        return self._episodes.column(name).to_numpy()


class Rows:
    """Rows of several Parquet files, one after the other, without loading them all."""

    def __init__(self, files: list[Path], root: Path) -> None:
        if not files:
            raise ValueError(f"{root / 'data'} holds no Parquet files; download the dataset again")
        self.root = root
        self._groups: list[tuple[Path, int]] = []
        self._starts = [0]
        for file in files:
            footer = pq.read_metadata(file)
            for group in range(footer.num_row_groups):
                self._groups.append((file, group))
                self._starts.append(self._starts[-1] + footer.row_group(group).num_rows)
        self._cached: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, first: int, stop: int) -> pa.Table:
        """Rows `first:stop` with all their columns."""
        if not 0 <= first < stop <= len(self):
            raise ValueError(
                f"{self.root}: the episode table points at rows {first} to {stop}, and the data "
                f"files hold {len(self)}; the dataset is damaged or only partly downloaded"
            )
        pieces = []
        while first < stop:
            group = bisect_right(self._starts, first) - 1
            begin, end = self._starts[group], min(self._starts[group + 1], stop)
            pieces.append(self._group(group).slice(first - begin, end - first))
            first = end
        return pa.concat_tables(pieces)

    def extent(self, key: str, dims: int) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest value of each entry of a column, over all rows."""
        low, high = np.full(dims, np.inf), np.full(dims, -np.inf)
        for file, group in self._groups:
            with pq.ParquetFile(file) as opened:
                table = opened.read_row_group(group, columns=[key])
            rows = column_array(table, key, (dims,), np.dtype(np.float64))
            low, high = np.minimum(low, rows.min(0)), np.maximum(high, rows.max(0))
        return low, high

    def _group(self, number: int) -> pa.Table:
        # Converted datasets have one large group per file: episodes that share it share the read.
        if self._cached is None or self._cached[0] != number:
            file, group = self._groups[number]
            self._cached = None
            with pq.ParquetFile(file) as opened:
                self._cached = number, opened.read_row_group(group)
        return self._cached[1]


def column_array(
    table: pa.Table, key: str, shape: tuple[int, ...], dtype: np.dtype
) -> Shaped[np.ndarray, "rows ..."]:
    """A column of numbers or of nested lists as `(rows, *shape)`."""
    array = plain(table.column(key))
    while isinstance(array.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        if array.null_count:
            break
        array = array.flatten()
    if array.null_count:
        raise ValueError(f"feature {key!r} has {array.null_count} missing values")
    values = array.to_numpy(zero_copy_only=False)
    if values.size != len(table) * int(np.prod(shape)):
        raise ValueError(
            f"feature {key!r} has {values.size} numbers in {len(table)} rows; info.json says shape "
            f"{shape}"
        )
    return np.ascontiguousarray(values.reshape(len(table), *shape), dtype)


def plain(column: pa.ChunkedArray) -> pa.Array:
    """In one piece, without the extension types that other libraries register."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], array.type)
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def is_dataset(root: Path) -> bool:
    """Whether a folder is a LeRobotDataset, of any version."""
    if not (root / "meta/info.json").is_file():
        return False
    try:
        info = json.loads((root / "meta/info.json").read_bytes())
    except ValueError:
        return False
    return isinstance(info, dict) and "codebase_version" in info and "features" in info


def read_info(root: Path) -> dict[str, Any]:
    """`meta/info.json` of a dataset that can be read here."""
    if not root.exists():
        raise ValueError(
            f"there is no folder {root}. If it is the name of a dataset on the Hugging Face Hub, "
            f"download it first: hf download {root} --repo-type dataset --local-dir FOLDER"
        )
    if not (root / "meta/info.json").exists():
        raise ValueError(f"{root} has no meta/info.json: not a LeRobotDataset")
    info = json.loads((root / "meta/info.json").read_bytes())
    missing = [key for key in ("codebase_version", "fps", "features") if key not in info]
    if missing:
        raise ValueError(f"{root / 'meta/info.json'} lacks {', '.join(missing)}")
    version = str(info["codebase_version"])
    if version.startswith(("v1", "v2")):
        raise ValueError(
            f"{root} is a LeRobotDataset {version}; this reads v3. Convert it with LeRobot's own "
            f"tool: {CONVERTER} --repo-id=NAME --root={root}"
        )
    if not version.startswith("v3"):
        raise ValueError(f"{root} is a LeRobotDataset {version}; this Ulna reads v3. Update Ulna")
    return info


def _read_tasks(root: Path) -> dict[int, str]:
    path = root / "meta/tasks.parquet"
    if not path.exists():
        raise ValueError(f"{path} is missing; download the dataset again")
    table = pq.read_table(path)
    # Pandas keeps the texts as its index: under the name `task`, or without one.
    kinds = (pa.string(), pa.large_string())
    texts = [name for name in table.column_names if table.schema.field(name).type in kinds]
    if "task" in texts:
        texts = ["task"]
    if len(texts) != 1 or "task_index" not in table.column_names:
        raise ValueError(
            f"{path} has the columns {', '.join(table.column_names)}; expected the text of each "
            "task and its task_index"
        )
    numbers = table.column("task_index").to_pylist()
    return dict(zip(numbers, table.column(texts[0]).to_pylist(), strict=True))


def _read_episodes(root: Path) -> pa.Table:
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise ValueError(
            f"{root / 'meta/episodes'} holds no Parquet files: the recording was not finished "
            "(LeRobot writes them in `finalize`), or only partly downloaded"
        )
    wanted = ["episode_index", "dataset_from_index", "dataset_to_index"]
    pieces = []
    for file in files:
        names = pq.read_schema(file).names
        lacking = sorted(set(wanted) - set(names))
        if lacking:
            raise ValueError(f"{file} lacks the columns {', '.join(lacking)}")
        videos = sorted(name for name in names if name.startswith("videos/"))
        pieces.append(pq.read_table(file, columns=[*wanted, *videos]))
    return pa.concat_tables(pieces, promote_options="permissive")


def picture_files(table: pa.Table, key: str, where: str) -> list[bytes]:
    """A column of pictures as the files they are."""
    files = plain(table.column(key)).field("bytes").to_pylist()
    if any(file is None for file in files):
        raise ValueError(
            f"{where}: step {files.index(None)} holds no picture; LeRobot puts them into the "
            "Parquet files when an episode is saved, so this recording was not finished"
        )
    return files


def coded_texts(table: pa.Table, key: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column of texts as numbers, and the texts they stand for."""
    texts = plain(table.column(key)).to_pylist()
    if any(text is None for text in texts):
        raise ValueError(f"feature {key!r} has missing texts")
    known = {text: code for code, text in enumerate(dict.fromkeys(texts))}
    return np.array([known[text] for text in texts], np.int32), tuple(known)
