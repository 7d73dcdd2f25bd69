"""Shards of a bucket are fetched ahead of the reads, once, within the bytes that they may take."""

import logging
import os
import pickle
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import disk_usage

import numpy as np
import pytest

from ophnet_ray.config import Config
from ophnet_ray.data.cache import block_reader
from ophnet_ray.data.cache import read_ahead as read_ahead_module
from ophnet_ray.data.cache.block_reader import read_blocks
from ophnet_ray.data.cache.bucket import CacheBucket
from ophnet_ray.data.cache.read_ahead import fetch_shard
from ophnet_ray.data.cache.shards import DecodedSegment, write_shard
from ophnet_ray.data.video.blocks import SegmentBlocks
from ophnet_ray.errors import UserError
from ophnet_ray.storage.copy_folder import copies_in
from ophnet_ray.storage.copy_room import PART
from ophnet_ray.storage.files import list_objects, upload, write_object
from ophnet_ray.storage.paths import join
from ophnet_ray.storage.unfinished import unfinished_name
from ophnet_ray.train.disk_space import check_copy_limit
from tests.helpers.processes import READY, killed_after, start_ready
from tests.helpers.shards import PER_SHARD, SHARD_BYTES, WINDOWS, Node, move_to, write_shards
from tests.helpers.small_disk import small_disk
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.unit

NUM_SHARDS = 24
FEW = 8 * SHARD_BYTES
FAR_AHEAD = 3
"""Steps that no reader takes while a thread handles an error."""
BY_SHARD = {"shuffle": "shard", "shuffle_shards": 4}


@pytest.fixture(scope="module")
def shards(bucket, tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("ahead"), bucket.uri("ahead"), NUM_SHARDS)


@pytest.fixture(scope="module")
def expected(shards, tmp_path_factory):
    """The batches of both orders, read without a limit."""
    machine = tmp_path_factory.mktemp("all")
    orders = {"shard": BY_SHARD, "global": {}}
    return {
        name: list(Node(move_to(shards, machine), **order).read(None))
        for name, order in orders.items()
    }


def size_of(folder):
    sizes = []
    for path in Path(folder).iterdir():
        with suppress(FileNotFoundError):  # renamed meanwhile
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return sum(sizes)


def read_within(node, limit, folder):
    """Read an epoch; return the batches and the most bytes that the folder held."""
    batches, most = [], 0
    for batch in node.read(limit):
        batches.append(batch)
        most = max(most, size_of(folder))
    return batches, most


def names_in(folder):
    return {path.name for path in folder.glob("*.arrow")}


def is_free(copies, name):
    """Return True if no other process needs a copy."""
    with copies.pins.free(name) as free:
        return free


def test_a_shard_wise_epoch_fetches_each_shard_once_in_a_third_of_their_room(
    bucket, shards, expected, tmp_path
):
    whole = NUM_SHARDS * SHARD_BYTES
    assert sum(status.size_bytes for status in list_objects(bucket.uri("ahead")).values()) <= whole
    bucket.count()
    batches, most = read_within(Node(move_to(shards, tmp_path), **BY_SHARD), FEW, tmp_path)
    sent = bucket.count()["sent_bytes"]
    np.testing.assert_array_equal(batches, expected["shard"])
    assert most <= FEW
    # where lanes meet, a shard is read by both
    assert 0.9 * whole < sent <= 1.15 * whole
    for _ in range(2):  # in a second epoch, too, what lies there is deleted for what is needed
        _, most = read_within(Node(move_to(shards, tmp_path), **BY_SHARD), FEW, tmp_path)
        assert most <= FEW


def test_two_nodes_fetch_what_their_own_workers_read(bucket, shards, tmp_path):
    sent = {}
    for name, order in (("shard", BY_SHARD), ("global", {})):
        for rank in range(2):
            machine = tmp_path / f"{name}-{rank}"
            bucket.count()
            list(Node(move_to(shards, machine), rank, 2, **order).read(None))
            sent[name, rank] = bucket.count()["sent_bytes"] / (NUM_SHARDS * SHARD_BYTES)
    assert sent["shard", 0] <= 0.6
    assert sent["shard", 1] <= 0.6
    assert min(sent["global", 0], sent["global", 1]) > 0.8


def test_too_few_bytes_for_the_order_cost_time_and_no_window(shards, expected, tmp_path, caplog):
    """Each batch reads about four shards, and there is room for two."""
    with caplog.at_level(logging.WARNING):
        batches, most = read_within(Node(move_to(shards, tmp_path)), 2 * SHARD_BYTES, tmp_path)
    np.testing.assert_array_equal(batches, expected["global"])
    assert any(f"--local_cache_bytes {2 * SHARD_BYTES} is too small" in r for r in caplog.messages)
    assert most <= 7 * SHARD_BYTES


def test_a_reader_that_waits_near_its_end_takes_no_room_from_the_next_one(shards, tmp_path, caplog):
    """Lightning keeps the iterator of an epoch while it validates."""
    node = Node(move_to(shards, tmp_path), **BY_SHARD)
    first = node.read(FEW)
    for _ in range(NUM_SHARDS - 1):
        next(first)
    with caplog.at_level(logging.WARNING):
        for _ in node.read(FEW, epoch=1):
            assert size_of(tmp_path) <= FEW
    assert not caplog.messages
    assert len(list(first)) == 1


def test_a_full_disk_is_a_limit(shards, expected, tmp_path):
    with small_disk(tmp_path / "disk", FEW) as machine:
        batches, _ = read_within(Node(move_to(shards, machine), **BY_SHARD), None, machine)
    np.testing.assert_array_equal(batches, expected["shard"])


def test_a_shard_that_another_process_deletes_before_it_is_opened_is_fetched_again(
    shards, tmp_path, monkeypatch
):
    entry = move_to(shards, tmp_path).items[0].entry
    blocks = np.empty((1, 32, 32, 3), np.uint8)
    expected = read_blocks(entry, 0, blocks).copy()
    Path(entry.path).unlink()
    fetched = []

    def fetch_and_lose(path, source):
        fetch_shard(path, source)
        fetched.append(path)
        if len(fetched) < 3:
            Path(path).unlink()

    monkeypatch.setattr(block_reader, "fetch_shard", fetch_and_lose)
    np.testing.assert_array_equal(read_blocks(entry, 0, blocks * 0), expected)
    assert len(fetched) == 3


def test_what_an_outage_kept_away_is_fetched_ahead_once_the_bucket_answers(
    shards, expected, tmp_path, monkeypatch, caplog
):
    failed, by_reader = [], []

    def fetch_in_outage(path, source, **of_threads):
        # far ahead: a step that has begun meanwhile fetches its shards itself
        if (of_threads.get("before") or 0) > FAR_AHEAD and len(failed) < 3:
            failed.append(path)
            raise OSError("the bucket does not answer")
        if not of_threads:
            by_reader.append(path)
        fetch_shard(path, source, **of_threads)

    monkeypatch.setattr(read_ahead_module, "fetch_shard", fetch_in_outage)
    with caplog.at_level(logging.WARNING):
        batches = list(Node(move_to(shards, tmp_path), **BY_SHARD).read(None))
    np.testing.assert_array_equal(batches, expected["shard"])
    assert len(failed) == 3
    assert not by_reader
    assert len([text for text in caplog.messages if "cannot be fetched now" in text]) == 1


def test_a_copy_that_makes_room_while_its_reader_ends_is_no_error(
    bucket, shards, tmp_path, monkeypatch
):
    unpin, deleted = read_ahead_module._unpin, []

    def make_room_first(path):
        before, copies = names_in(tmp_path), copies_in(tmp_path)
        copies.max_bytes = 1
        copies.add_written([], bucket.uri("ahead"))
        deleted.extend(before - names_in(tmp_path))
        unpin(path)

    own = Node(move_to(shards, tmp_path)).read(None)
    next(own)
    monkeypatch.setattr(read_ahead_module, "_unpin", make_room_first)
    own.close()
    assert deleted


def test_a_folder_that_cannot_be_made_is_the_error_of_the_read(shards, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        list(Node(move_to(shards, tmp_path / "file" / "copies")).read(None))


def test_what_is_not_in_the_bucket_is_never_deleted(shards, tmp_path):
    """A shard that this machine decodes and has not sent yet."""
    for suffix in (".arrow", ".json"):
        (tmp_path / f"own{suffix}").write_bytes(bytes(1000))
    os.utime(tmp_path / "own.arrow", (0, 0))
    list(Node(move_to(shards, tmp_path), **BY_SHARD).read(FEW))
    assert (tmp_path / "own.arrow").exists()


def test_a_shard_that_is_fetched_again_is_checked_again(bucket, tmp_path, monkeypatch):
    """A shard that this machine or another process evicts may come back damaged."""
    uri, machine = bucket.uri("again"), tmp_path / "machine"
    node = Node(move_to(write_shards(tmp_path / "written", uri, 2), machine))
    loader = node.train_dataloader()
    before = [batch["pixels"].numpy() for batch in loader]
    with monkeypatch.context() as patch:
        patch.setattr("ophnet_ray.data.loader.check_blocks", lambda *_: pytest.fail("needless"))
        np.testing.assert_array_equal([batch["pixels"].numpy() for batch in loader], before)
    copy = next(machine.glob("*.arrow"))
    content = bytearray(copy.read_bytes())
    content[1000:-1000] = bytes(255 - value for value in content[1000:-1000])
    copy.unlink()
    copy.with_suffix(".json").unlink()
    write_object(join(uri, copy.name), bytes(content))
    with pytest.raises(OSError, match=f"{copy.name} is damaged: a block differs"):
        list(loader)


def test_a_shard_that_is_evicted_between_its_two_uploads_is_whole_in_the_bucket(
    bucket, tmp_path, monkeypatch
):
    blocks = np.zeros((8, 32, 32, 3), np.uint8)
    row = DecodedSegment("0" * 32, "v", SegmentBlocks(tuple(blocks), (4, 4)))
    (entry,) = write_shard(tmp_path, [row], WINDOWS)
    uri, name = bucket.uri("evicted"), Path(entry.path).name

    def upload_then_evict(path, target):
        upload(path, target)
        copies = copies_in(tmp_path)
        copies.max_bytes = 0
        copies.add_written([], uri)

    monkeypatch.setattr("ophnet_ray.data.cache.bucket.upload", upload_then_evict)
    assert CacheBucket(uri, tmp_path).upload(Path(entry.path)) == join(uri, name)
    assert not (tmp_path / name).exists()
    (index,) = CacheBucket(uri, tmp_path / "other").read_indexes()
    assert [(each.key, each.offset) for each in index.entries] == [(entry.key, entry.offset)]


READ = f"""
import ophnet_ray
import pickle
from pathlib import Path
from ophnet_ray.storage.copy_room import PART
from ophnet_ray.storage.unfinished import unfinished_name
from tests.helpers.shards import Node, move_to
{READY}
manifest = pickle.loads(Path(sys.argv[1]).read_bytes())
limit, rank, num_workers, num_open = map(int, sys.argv[3:])
moved = move_to(manifest, Path(sys.argv[2]))
node = Node(moved, rank, num_workers, shuffle="shard", shuffle_shards=num_open)
batches = node.read(limit or None)
first = next(batches)
print(unfinished_name(PART), flush=True)
sys.stdin.readline()
print(pickle.dumps([first, *batches]).hex(), flush=True)
"""


@contextmanager
def start_reader(shards, folder, machine, limit, rank=0, num_workers=2, num_open=4):
    """Start a worker, and let it read its first batch; yield it and its line."""
    (folder / "manifest").write_bytes(pickle.dumps(shards))
    numbers = map(str, (limit, rank, num_workers, num_open))
    program = (READ, str(folder / "manifest"), str(machine), *numbers)
    with killed_after(*start_ready(program)) as other:
        other.stdin.write("\n")
        other.stdin.flush()
        yield other, other.stdout.readline().strip()


def test_workers_of_a_node_share_the_room_and_a_killed_one_leaves_it(bucket, shards, tmp_path):
    machine, limit = tmp_path / "machine", 10 * SHARD_BYTES
    with start_reader(shards, tmp_path, machine, limit) as (_, name):
        killed = machine / name
        copies = copies_in(machine)
        own = Node(move_to(shards, machine), 1, 2, **BY_SHARD).read(limit)
        next(own)
        assert copies.pins.count_sharing() == 2

        def find_needed():
            return {name for name in names_in(machine) if not is_free(copies, name)}

        wait_until(lambda: len(find_needed()) <= 5, "the other one leaves half of the room")
        needed = find_needed()
        assert needed
        for _ in range(4):
            next(own)
            assert size_of(machine) <= limit
        assert needed <= names_in(machine)
    killed.write_bytes(bytes(5 * SHARD_BYTES))
    alive, nameless = machine / unfinished_name(PART), machine / f"{PART}nameless.arrow"
    for part in (alive, nameless):
        part.write_bytes(b"")
    os.utime(nameless, (0, 0))
    assert copies.pins.count_sharing() == 1
    assert len(list(own)) == NUM_SHARDS * PER_SHARD // 8 - 5
    bucket.count()
    batches, most = read_within(Node(move_to(shards, machine), 0, 2, **BY_SHARD), limit, machine)
    assert len(batches) == NUM_SHARDS * PER_SHARD // 8
    assert most <= limit
    assert not killed.exists()
    assert not nameless.exists()
    assert alive.exists()
    assert all(is_free(copies, name) for name in needed)


def test_workers_of_a_node_finish_on_a_disk_that_one_of_them_has_filled(shards, tmp_path):
    """Three processes, each with two shards open at a time."""
    two_open = {"shuffle": "shard", "shuffle_shards": 2}
    all_copies = move_to(shards, tmp_path / "all")
    expected = [list(Node(all_copies, rank, 3, **two_open).read(None)) for rank in range(3)]
    # room for what all read at a time, not for all that the first one is about to read
    with small_disk(tmp_path / "disk", 8 * SHARD_BYTES) as machine, ExitStack() as readers:
        others = []
        for rank in (0, 2):
            start = start_reader(shards, tmp_path, machine, 0, rank, 3, 2)
            others.append(readers.enter_context(start)[0])
            wait_until(lambda: disk_usage(machine).free < SHARD_BYTES, "the disk is full")
        own = Node(move_to(shards, machine), 1, 3, **two_open).read(None)
        first = next(own)
        for other in others:
            other.stdin.write("\n")  # all three at the same time
            other.stdin.flush()
        np.testing.assert_array_equal([first, *own], expected[1])
        answers = [other.communicate(timeout=300)[0] for other in others]
    for answer, wanted in zip(answers, (expected[0], expected[2]), strict=True):
        np.testing.assert_array_equal(pickle.loads(bytes.fromhex(answer)), wanted)


HOLD = f"""
from ophnet_ray.storage.copy_folder import copies_in
from ophnet_ray.storage.paths import name_of
class Now:
    def next_use(self, name):
        return 0
{READY}
copies = copies_in(sys.argv[1])
copies.begin(Now())
try:
    for uri in sys.argv[2:]:
        copies.fetch(uri, uri.replace(".arrow?", ".json?"))
        copies.pin(name_of(uri))
except Exception as error:
    print(type(error).__name__, flush=True)
sys.stdin.readline()
"""


def test_what_has_no_place_beside_files_that_others_read_now_is_read_in_the_bucket(
    shards, expected, tmp_path, caplog
):
    sources = dict.fromkeys(item.entry.source for item in shards.items)
    with small_disk(tmp_path / "disk", FEW) as machine, caplog.at_level(logging.WARNING):
        with killed_after(*start_ready((HOLD, str(machine), *sources))) as other:
            other.stdin.write("\n")
            other.stdin.flush()
            assert other.stdout.readline() == "FullDiskError\n"
            own = Node(move_to(shards, machine), **BY_SHARD).read(None)
            batches = [next(own) for _ in range(3)]
            other.communicate("\n", timeout=300)
        batches += own
    np.testing.assert_array_equal(batches, expected["shard"])
    assert len([text for text in caplog.messages if f"{machine}: the disk is full" in text]) == 1


def test_a_disk_without_room_for_one_shard_is_named_with_its_bytes_and_the_cure(shards, tmp_path):
    with small_disk(tmp_path / "disk", SHARD_BYTES // 2) as machine:
        cure = r"\([\d,]+ bytes are free\); free some space there, or give a --local_cache_dir"
        with pytest.raises(OSError, match=f"{cure} on a larger disk: '{machine}'"):
            list(Node(move_to(shards, machine), **BY_SHARD).read(None))


def test_a_limit_that_cannot_hold_the_files_of_a_batch_is_refused(shards, tmp_path):
    config = Config().replace_flat(image_size=32, batch_size=4)
    check_copy_limit(config.replace_flat(local_cache_bytes="500 kB"), shards)
    with pytest.raises(
        UserError,
        match=r"^--local_cache_bytes 0\.3MB: the 4 windows of a batch .* of 402,016 bytes; ",
    ):
        check_copy_limit(config.replace_flat(local_cache_bytes="0.3MB"), shards)
    check_copy_limit(config, shards)
