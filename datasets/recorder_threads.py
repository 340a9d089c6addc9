"""The threads of a Recorder: they code and store while recording goes on.

        full blocks --coders--> coded blocks --one thread, in order--> files --> commit
        (numbers need no coder)

Everything handed over has a number, and is stored in that order whichever coder is done first; so
the end of one episode and the beginning of the next need no waiting. A block goes back to the
caller when it is stored: if the disk falls behind, the caller runs out of blocks and is told.

Next: `growing_stream.py` (the files), `writer.py` (the commit).
"""

import itertools
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue

import numpy as np

from .commits import Add, EpisodeRecord
from .growing_stream import GrowingStream
from .layout import Layout
from .recorder_queue import Block, Discard, Finish, Recorded, Run
from .writer import Writer, new_segment, new_uid

_DISK_THREADS = 4
"""They wait for the disk; syncing several files at once lets it sort them."""


@dataclass(frozen=True)
class _Coded:
    """One stream of a block came back from a coder."""

    block: Block
    stream: str
    payloads: list[bytes]


class RecorderThreads:
    """Any thread may hand something over; nothing here makes the caller wait."""

    def __init__(self, writer: Writer, layouts: Mapping[str, Layout], coders: int) -> None:
        """`layouts` of all streams an episode may have."""
        self._writer = writer
        self._layouts = dict(layouts)
        self._numbers = itertools.count()
        self._uncoded: SimpleQueue[tuple[Block, str] | None] = SimpleQueue()
        self._arrived: SimpleQueue[tuple[int, Block | Finish | Discard | None] | _Coded] = (
            SimpleQueue()
        )
        self._segment = ""
        self._next_row = dict.fromkeys(layouts, 0)
        self._streams: dict[Run, dict[str, GrowingStream]] = {}
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="ulna-recorder-disk")
        self._threads = [
            threading.Thread(target=self._code, name=f"ulna-recorder-coder-{k}", daemon=True)
            for k in range(coders)
        ]
        self._threads.append(
            threading.Thread(target=self._store, name="ulna-recorder-store", daemon=True)
        )
        for thread in self._threads:
            thread.start()

    def submit(self, block: Block) -> None:
        """Rows of a running episode."""
        block.number = next(self._numbers)
        coded = [name for name in block.arrays if _is_frames(name)]
        block.uncoded = len(coded)
        for name in coded:
            self._uncoded.put((block, name))
        if not coded:
            self._arrived.put((block.number, block))

    def order(self, order: Finish | Discard) -> None:
        """What is to happen when everything handed over before is done."""
        self._arrived.put((next(self._numbers), order))

    def close(self) -> None:
        """Finish everything handed over, then stop."""
        self._arrived.put((next(self._numbers), None))
        self._threads[-1].join()
        for _ in self._threads[:-1]:
            self._uncoded.put(None)
        for thread in self._threads[:-1]:
            thread.join()
        self._disk.shutdown()

    def _code(self) -> None:
        """A coder."""
        while (item := self._uncoded.get()) is not None:
            block, name = item
            run = block.run
            assert run is not None
            layout = self._layouts[name]
            payloads = []
            try:
                if run.error is None and not run.unwanted:
                    payloads = layout.encode_all(block.arrays[name][: block.rows])
            except Exception as error:  # of whatever library: the caller is told
                run.error = error
            self._arrived.put(_Coded(block, name, payloads))

    def _store(self) -> None:
        """The one thread that brings everything into order and to the disk."""
        waiting: dict[int, Block | Finish | Discard | None] = {}
        turn = 0
        while True:
            item = self._arrived.get()
            if isinstance(item, _Coded):
                block = item.block
                block.payloads[item.stream] = item.payloads
                block.uncoded -= 1
                if block.uncoded:
                    continue
                waiting[block.number] = block
            else:
                waiting[item[0]] = item[1]
            while turn in waiting:
                item = waiting.pop(turn)
                turn += 1
                match item:
                    case Block():
                        self._add(item)
                    case Finish():
                        self._finish(item)
                    case Discard():
                        self._discard(item.run)
                    case None:
                        return

    def _add(self, block: Block) -> None:
        run = block.run
        assert run is not None
        try:
            if run.error is None and not run.unwanted:
                for name, array in block.arrays.items():
                    self._add_rows(run, block, name, array[: block.rows])
        except Exception as error:  # of whatever storage: the caller is told
            self._fail(run, error)
        finally:
            block.release()

    def _add_rows(self, run: Run, block: Block, name: str, rows: np.ndarray) -> None:
        stream = self._stream(run, name)
        if not _is_frames(name):
            stream.add_rows(rows)
            return
        size = stream.layout.chunk_rows
        for number, payload in enumerate(block.payloads[name]):
            stream.add_chunk(payload, rows[number * size : (number + 1) * size])

    def _stream(self, run: Run, name: str) -> GrowingStream:
        """Where a stream of an episode grows; a sensor that gives nothing has none."""
        streams = self._streams.setdefault(run, {})
        if name not in streams:
            if not streams:
                self._keep_segment()
            streams[name] = GrowingStream(
                self._writer.storage,
                f"segments/{self._segment}/{name}",
                self._layouts[name],
                self._next_row[name],
                _own_rate(name),
                self._disk,
            )
        return streams[name]

    def _keep_segment(self) -> None:
        """Have a segment to write to. Once all its episodes are packed, `gc` removes one that was
        long left alone."""
        storage = self._writer.storage
        if not (self._segment and storage.exists(f"segments/{self._segment}/zarr.json")):
            self._segment = new_segment(storage, self._writer.embodiment, self._layouts)
            self._next_row = dict.fromkeys(self._layouts, 0)

    def _finish(self, order: Finish) -> None:
        run, ending = order.run, order.ending
        record = None
        try:
            if run.error is None:
                record = self._record(order)
        except Exception as error:  # of whatever storage: whoever asks the ending is told
            self._fail(run, error)
        if record is None:
            self._discard(run)
            ending.future.set_exception(run.error)
            return
        try:
            self._writer.commit([Add(record)])
        except Exception as error:
            # Nothing is removed: the commit may have taken effect before it failed.
            self._leave(run)
            ending.future.set_exception(error)
            return
        self._leave(run)
        self._writer.episodes_added += 1
        ending.future.set_result(
            Recorded(
                uid=record.uid,
                steps=run.steps,
                dropped_steps=run.dropped_steps,
                samples=dict(run.samples),
                dropped_samples=dict(run.dropped_samples),
                fullest_queue=run.fullest_queue,
            )
        )

    def _record(self, order: Finish) -> EpisodeRecord:
        """What the log will say; everything it speaks of is on the disk then."""
        run = order.run
        streams = dict(sorted(self._streams[run].items()))
        for stream in streams.values():
            stream.flush()
        jobs = {name: self._disk.submit(stream.finish) for name, stream in streams.items()}
        wait(jobs.values())
        records = {name: job.result() for name, job in jobs.items()}
        record = EpisodeRecord(
            uid="",
            task=run.task,
            instruction=run.instruction,
            seed=run.seed,
            steps=run.steps,
            success=order.success,
            segment=self._segment,
            start=streams["action"].start,
            streams=records,
            info=order.info,
            paraphrases=run.paraphrases,
            subgoals=order.subgoals,
        )
        return replace(record, uid=new_uid(record))

    def _fail(self, run: Run, error: Exception) -> None:
        self._discard(run)
        if isinstance(error, OSError):
            told = self._writer.not_stored(run.seed, error)
            told.__cause__ = error
            error = told
        run.error = error

    def _discard(self, run: Run) -> None:
        for stream in self._leave(run):
            # Nothing refers to the files: what cannot be removed now is left to `gc`.
            with suppress(OSError):
                stream.discard()

    def _leave(self, run: Run) -> list[GrowingStream]:
        """An episode grows no more; its rows are never used again. Gives its streams."""
        streams = self._streams.pop(run, {})
        steps = [stream.stop for name, stream in streams.items() if not _own_rate(name)]
        for name in self._next_row:
            if not _own_rate(name):
                self._next_row[name] = max(steps, default=self._next_row[name])
            elif name in streams:
                self._next_row[name] = streams[name].stop
        return list(streams.values())


def _is_frames(stream: str) -> bool:
    return stream.startswith(("images/", "depth/"))


def _own_rate(stream: str) -> bool:
    return stream.startswith("sensors/")
