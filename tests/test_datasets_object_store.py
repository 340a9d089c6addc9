"""A store in a bucket: written, read, verified and streamed as one on a disk is."""

import logging
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ulna.datasets import commits, shards
from ulna.datasets.chunks import DamagedData
from ulna.datasets.image_codec import Clip, ImageCodec, Jpeg
from ulna.datasets.loader import WindowLoader, WindowSpec
from ulna.datasets.schema import Embodiment
from ulna.datasets.storage import LocalFolder, ObjectStore, Storage, copy_files
from ulna.datasets.store import Store
from ulna.datasets.store_header import create_header
from ulna.datasets.synthetic import synthetic_embodiment, synthetic_episode
from ulna.datasets.verify import verify
from ulna.datasets.writer import Writer, checkpoint

moto = pytest.importorskip("moto.server")
pytest.importorskip("obstore")

ROBOT = synthetic_embodiment(16)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3-compatible server of this process, with one bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{address}/robots", method="PUT")).close()
    yield address
    server.stop()


def bucket(endpoint: str, path: str, **options: Any) -> ObjectStore:
    known = {
        "endpoint": endpoint,
        "access_key_id": "test",
        "secret_access_key": "test",
        "region": "us-east-1",
        "client_options": {"allow_http": True},
    }
    return ObjectStore(f"s3://{path}", **(known | options))


@pytest.fixture
def remote(endpoint: str, request: pytest.FixtureRequest) -> ObjectStore:
    """A place in the bucket for one test."""
    return bucket(endpoint, f"robots/{request.node.name}")


def filled(storage: Storage, seeds: range, codec: ImageCodec | None = None) -> Store:
    if not storage.exists("zarr.json"):
        assert create_header(storage, ROBOT)
    with Writer(storage, codec or Jpeg()) as writer:
        for seed in seeds:
            writer.add_episode(synthetic_episode(ROBOT, seed, steps=6 + seed))
    return Store.on(storage)


@pytest.fixture(scope="module")
def both(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """The same eight episodes on the disk and in the bucket."""
    local = LocalFolder(tmp_path_factory.mktemp("local"))
    # Two writers each, so two segments.
    for storage in (local, bucket(endpoint, "robots/both")):
        filled(storage, range(5))
        filled(storage, range(5, 8))
    return Store.on(local), Store.on(bucket(endpoint, "robots/both"))


def test_every_verb_does_what_a_folder_does(remote: ObjectStore, tmp_path: Path):
    for storage in (remote, LocalFolder(tmp_path)):
        storage.make_folder("a/b")
        storage.write("a/one", b"0123456789")
        storage.write("a/b/two", b"old")
        storage.write("a/b/two", b"new")
        assert storage.put_if_absent("a/three", b"3") and not storage.put_if_absent("a/one", b"x")
        storage.link("a/one", "a/four")
        with pytest.raises(FileExistsError):
            storage.link("a/one", "a/three")
        storage.sync(["a", "a/b"])
        parts = [(0, None), (3, None), (-4, None), (2, 5), (2, 2), (4, 99)]
        read = [storage.read("a/four", *part) for part in parts]
        assert read == [b"0123456789", b"3456789", b"6789", b"234", b"", b"456789"]
        assert storage.names("a") == ["b", "four", "one", "three"]
        assert storage.names("a", after="four") == ["one", "three"]
        assert storage.names("a", after="zzz") == storage.names("nothing") == []
        assert storage.names("") == ["a"]
        assert storage.exists("a/one") and not storage.exists("a/none")
        sizes = {file.name: file.size for file in storage.walk("a")}
        assert sizes == {"a/one": 10, "a/b/two": 3, "a/three": 1, "a/four": 10}
        assert all(abs(f.modified_s - time.time()) < 3600 for f in storage.walk("a"))
        assert {file.name for file in storage.walk("")} == set(sizes)
        storage.delete("a/one")
        storage.delete("a/one")
        assert not storage.exists("a/one")
        with pytest.raises(FileNotFoundError):
            storage.read("a/one")
        storage.remove_empty_folders("a", 0.0)


def test_what_we_put_ourselves_is_ours(remote: ObjectStore):
    """A put whose answer was lost is sent again, and then finds its own object."""
    assert remote.put_if_absent("record", b"mine")
    assert remote.put_if_absent("record", b"mine")
    assert not remote.put_if_absent("record", b"theirs")


def test_episodes_are_those_of_the_folder(both: tuple[Store, Store]):
    local, remote = both
    assert [r.seed for r in remote.episodes] == [r.seed for r in local.episodes]
    for index in range(8):
        one, two = local.read_episode(index), remote.read_episode(index)
        for name in one.streams:
            np.testing.assert_array_equal(one.streams[name], two.streams[name])
        for camera in one.images:
            np.testing.assert_array_equal(one.images[camera], two.images[camera])
        part = remote.read("images/front", index, 2, 5)
        np.testing.assert_array_equal(part, one.images["front"][2:5])
        assert (
            remote.read_encoded("wrist", index).chunks == local.read_encoded("wrist", index).chunks
        )
    assert verify(remote) == []
    with pytest.raises(ValueError, match="not a folder of this machine; copy it"):
        _ = remote.path


def test_many_writers_at_once_lose_nothing(remote: ObjectStore):
    assert create_header(remote, ROBOT) and not create_header(remote, ROBOT)
    reader = Store.on(remote)

    def record(part: int) -> list[str]:
        with Writer(remote) as writer:
            seeds = range(part * 2, part * 2 + 2)
            return [writer.add_episode(synthetic_episode(ROBOT, seed, 4)) for seed in seeds]

    with ThreadPoolExecutor(4) as threads:
        uids = [uid for part in threads.map(record, range(4)) for uid in part]
    assert len(reader.episodes) == 0
    reader.refresh()
    assert {r.uid for r in reader.episodes} == set(uids) and len(uids) == 8
    assert commits.numbers(remote) == list(range(8))
    assert verify(reader) == []


def test_a_checkpoint_is_read_and_the_log_from_there(remote: ObjectStore):
    store = filled(remote, range(3))
    checkpoint(remote, always=True)
    filled(remote, range(3, 5))
    assert commits.numbers(remote, after=2) == [3, 4]
    again = Store.on(remote)
    assert again.operations_since_checkpoint == 2
    assert [r.seed for r in again.episodes] == [0, 1, 2, 3, 4]
    assert again.episodes.index_of(store.episodes[1].uid) == 1
    assert len(Store.on(remote, version=0).episodes) == 1


def windows_of(loader: WindowLoader) -> Counter[bytes]:
    """What one epoch holds, whatever the order."""
    found: Counter[bytes] = Counter()
    for _ in range(len(loader)):
        batch = next(loader)
        arrays = [batch.state, batch.action_chunk, batch.action_is_pad, *batch.images.values()]
        for window in range(len(batch.state)):
            found[b"".join(array[window].tobytes() for array in arrays)] += 1
    loader.close()
    return found


@pytest.mark.parametrize("history", [1, 2])
def test_every_mode_gives_the_windows_of_the_folder(both: tuple[Store, Store], history: int):
    local, remote = both
    spec = WindowSpec(4, history=history, cameras=("front", "wrist")[:history])
    size = 4  # 76 windows: none is left over
    expected = windows_of(WindowLoader(local, spec, size, seed=0, cache="none"))
    assert expected.total() == 76
    for mode in ("random", "clip", "stream"):
        prefetch = 2 if mode == "stream" else history - 1
        loader = WindowLoader(
            remote, spec, size, 0, mode=mode, cache="none", prefetch=prefetch, pool=3
        )
        assert windows_of(loader) == expected


def test_the_order_does_not_depend_on_where_the_store_is(both: tuple[Store, Store]):
    for mode in ("random", "stream"):
        loaders = [WindowLoader(store, 4, 6, seed=2, mode=mode, pool=2) for store in both]
        for _ in range(2 * len(loaders[0]) + 1):  # into the third epoch
            one, two = (next(loader) for loader in loaders)
            np.testing.assert_array_equal(one.state, two.state)
            np.testing.assert_array_equal(one.images["front"], two.images["front"])
        state = loaders[0].state_dict()
        fresh = WindowLoader(both[1], 4, 6, seed=9, mode=mode, pool=2)
        fresh.load_state_dict(state)
        np.testing.assert_array_equal(next(fresh).state, next(loaders[0]).state)
        for loader in (*loaders, fresh):
            loader.close()


def test_stream_fetches_each_file_once_an_epoch(both: tuple[Store, Store]):
    _, remote = both
    loader = WindowLoader(remote, 4, 4, seed=0, mode="stream", prefetch=0, pool=2)
    for _ in range(len(loader)):
        next(loader)
    # Two cameras of eight episodes, and the first pool of the next epoch.
    assert 16 <= loader.gather.shards.fetches <= 16 + 4
    loader.close()


def test_clips_are_fetched_by_the_chunk(remote: ObjectStore, tmp_path: Path):
    local = LocalFolder(tmp_path)
    stores = [filled(local, range(3), Clip(frames=4))]
    # Uploaded as it is: a bucket holds the same files.
    assert copy_files(local, remote, [file.name for file in local.walk("")]) > 0
    stores.append(Store.on(remote))
    found = [
        windows_of(WindowLoader(store, 3, 3, seed=0, mode="clip", cache="none", pool=4))
        for store in stores
    ]
    assert found[0] == found[1] and found[0].total() == 21
    assert verify(stores[1]) == []


def test_chunks_kept_in_memory_are_bounded(
    both: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shards, "CHUNK_BYTES_KEPT", 10_000)
    spec = WindowSpec(4, cameras=("front",))
    loader = WindowLoader(both[1], spec, 4, seed=0, cache="none", prefetch=0)
    for _ in range(len(loader)):
        next(loader)
    cache = loader.gather.shards
    wait(list(cache._chunks.values()))
    kept = sum(len(future.result()) for future in cache._chunks.values())
    loader.close()
    assert 0 < kept < 20_000 < cache.fetched_bytes
    assert cache._chunk_bytes == kept


def test_damage_in_a_bucket_is_named(remote: ObjectStore):
    store = filled(remote, range(2))
    name = store.stream_files("images/front", store.episodes[1])[0]
    data = bytearray(remote.read(name))
    data[40] ^= 1
    remote.write(name, bytes(data))
    for mode in ("random", "stream"):
        loader = WindowLoader(store, 3, 13, seed=0, mode=mode, cache="none", prefetch=0)
        with pytest.raises(DamagedData, match=r"episode 1 \(uid .*images/front.*checksum"):
            next(loader)
        loader.close()
    remote.delete(name)
    loader = WindowLoader(store, 3, 13, seed=0, cache="none", prefetch=0)
    with pytest.raises(DamagedData, match="no such object"):
        next(loader)
    loader.close()
    assert [(p.episode, p.stream) for p in verify(store) if p.severity == "error"]


def test_refusals_say_what_to_do(endpoint: str):
    missing = bucket(endpoint, "robots/nothing-here")
    with pytest.raises(ValueError, match="s3://robots/nothing-here is not an Ulna store"):
        Store.on(missing)
    nowhere = bucket(endpoint, "no-such-bucket/store")
    for call in (
        lambda: nowhere.read("zarr.json"),
        lambda: nowhere.write("zarr.json", b""),
        lambda: nowhere.put_if_absent("zarr.json", b""),
        lambda: nowhere.names("commits"),
        lambda: list(nowhere.walk("")),
    ):
        with pytest.raises(OSError, match="the bucket does not exist; make it first"):
            call()
    with pytest.raises((ValueError, OSError), match="the bucket does not exist"):
        Store.on(nowhere)
    quick = {"retry_config": {"max_retries": 0}}
    silent = bucket("http://127.0.0.1:9", "robots/x", **quick)
    with pytest.raises(OSError, match="is AWS_ENDPOINT the right server, and reachable"):
        silent.read("zarr.json")
    plain = bucket(endpoint, "robots/x", client_options={}, **quick)
    with pytest.raises(OSError, match="AWS_ALLOW_HTTP=true"):
        plain.read("zarr.json")
    with pytest.raises(ValueError, match="count both ends from the start"):
        missing.read("zarr.json", -4, 9)


def test_wrong_credentials_say_what_to_do():
    """Moto accepts any key, so this server refuses as Amazon's does."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<Error><Code>InvalidAccessKeyId</Code><Message>unknown key</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        store = bucket(f"http://127.0.0.1:{server.server_port}", "robots/x")
        for call in (lambda: store.read("zarr.json"), lambda: store.names("commits")):
            with pytest.raises(PermissionError, match="set AWS_ACCESS_KEY_ID.*SKIP_SIGNATURE"):
                call()
        server.shutdown()


def test_embodiment_travels(both: tuple[Store, Store]):
    assert isinstance(both[1].embodiment, Embodiment) and both[1].embodiment == both[0].embodiment
    assert both[0].uuid != both[1].uuid
