"""Objects are copied whole to a folder, within the room that this process may take."""

import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from ophnet_ray.storage.copy_folder import CopyFolder
from ophnet_ray.storage.copy_room import PART, FullDiskError, NoRoomError
from ophnet_ray.storage.files import write_object
from ophnet_ray.storage.paths import name_of, parent_of
from tests.helpers.small_disk import small_disk

pytestmark = pytest.mark.unit

SIZE = 65_000


class Uses(dict[str, float]):
    """Steps until the next use of files."""

    def next_use(self, name):
        return self.get(name, math.inf)

    def lose(self, name):
        pass


@pytest.fixture
def objects(bucket, request):
    """Three objects of one size."""
    folder = request.node.name[:50].replace("_", "-").strip("-")
    uris = [bucket.uri(f"{folder}/{name}.arrow") for name in "abc"]
    for uri in uris:
        write_object(uri, bytes([1]) * SIZE)
    return uris


def folder_of(tmp_path, **uses):
    copies = CopyFolder(tmp_path)
    copies.begin(Uses({f"{name}.arrow": use for name, use in uses.items()}))
    return copies


def names_in(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {"claims"}


def test_an_object_that_fits_is_fetched_ahead_in_less_room_than_two_of_it(objects, tmp_path):
    copies = folder_of(tmp_path, a=5, b=6)
    copies.max_bytes = int(1.9 * SIZE)
    assert copies.fetch(objects[0], before=5).stat().st_size == SIZE
    copies.pin(name_of(objects[0]))
    with pytest.raises(NoRoomError):
        copies.fetch(objects[1], before=6)


def test_what_is_used_now_waits_for_room_until_what_is_used_later_has_come(objects, tmp_path):
    copies, has_room = folder_of(tmp_path, a=5, b=0), Event()
    copies.max_bytes = int(1.9 * SIZE)

    def come_slowly():
        has_room.set()
        time.sleep(0.3)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(copies.fetch, objects[0], before=5, on_room=come_slowly)
        assert has_room.wait(60)
        copies.fetch(objects[1])
        ahead.result()
    assert names_in(tmp_path) == {"b.arrow"}


def test_a_full_disk_is_tried_once_a_second_and_when_files_were_deleted(
    objects, tmp_path, monkeypatch
):
    """Each window that is read in the bucket asks for its copy."""
    listed = []
    monkeypatch.setattr("ophnet_ray.storage.copy_folder.SHARING_S", 0.3)
    with small_disk(tmp_path / "disk", int(1.8 * SIZE)) as folder:
        copies, other = folder_of(folder, a=0, b=0, c=0), folder_of(folder)
        copies.fetch(objects[0])
        monkeypatch.setattr(
            "os.scandir", lambda path, scan=os.scandir: listed.append(path) or scan(path)
        )
        with pytest.raises(FullDiskError):
            copies.fetch(objects[1])
        for _ in range(3):
            listed.clear()
            for _ in range(50):
                with pytest.raises(FullDiskError):
                    copies.fetch(objects[1])
            assert len(listed) <= 1
            time.sleep(0.3)
        with pytest.raises(FullDiskError):
            copies.fetch(objects[1])
        other.max_bytes = SIZE // 2
        other.add_written([], parent_of(objects[0]))
        assert copies.fetch(objects[1]).stat().st_size == SIZE


def test_a_disk_without_room_for_an_index_alone_is_full_and_gives_other_copies_up(
    objects, tmp_path
):
    """A disk gives whole pages: it has the bytes for the shard and its index, but no page."""
    indexes = [uri.replace(".arrow", ".json") for uri in objects]
    for uri in indexes:
        write_object(uri, b"{}")
    page = os.sysconf("SC_PAGE_SIZE")
    pages = 2 * math.ceil(SIZE / page) + 2  # two shards, one index, the running total
    with small_disk(tmp_path / "disk", pages * page) as folder:
        copies = folder_of(folder, a=0, b=0)
        copies.fetch(objects[0], indexes[0])
        with pytest.raises(FullDiskError):
            copies.fetch(objects[1], indexes[1])
        assert names_in(folder) == {"a.arrow", "a.json"}
        other = folder_of(folder, b=0)  # needs the first one no more
        assert other.fetch(objects[1], indexes[1]).stat().st_size == SIZE
        assert names_in(folder) == {"b.arrow", "b.json"}


@pytest.mark.parametrize("num_bytes", [SIZE - 1, SIZE + 1])
def test_an_object_of_another_size_than_the_bucket_said_is_no_copy(objects, tmp_path, num_bytes):
    """It was replaced, or its bytes ended early; the next attempt asks for its size again."""
    copies, content = folder_of(tmp_path), bytes([2]) * num_bytes
    with pytest.raises(OSError, match=rf"a\.arrow ended after {num_bytes:,} of {SIZE:,} bytes"):
        copies.fetch(objects[0], on_room=lambda: write_object(objects[0], content))
    assert not names_in(tmp_path)
    assert not list(tmp_path.glob(f"{PART}*"))
    assert copies.fetch(objects[0]).read_bytes() == content


def test_runs_of_an_earlier_version_and_of_this_one_leave_each_other_their_parts(objects, tmp_path):
    """That version takes each ``.fetch.NAME`` for a leftover when nobody claims the name NAME."""
    fresh, old = tmp_path / ".fetch.c.arrow", tmp_path / ".fetch.d.arrow"
    for part in (fresh, old):
        part.write_bytes(b"")
    os.utime(old, (0, time.time() - 3_700))
    names = []
    copies = folder_of(tmp_path)
    copies.max_bytes = 10 * SIZE
    copies.fetch(objects[0], on_room=lambda: names.extend(os.listdir(tmp_path)))  # noqa: PTH208
    assert [name for name in names if name.startswith(".fetch.")] == [fresh.name]
    assert fresh.exists()
