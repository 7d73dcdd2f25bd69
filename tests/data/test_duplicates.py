"""Videos that are the same whatever they are called."""

import os
from collections import Counter

import pytest

from ophnet_ray.config import DataConfig, WindowConfig
from ophnet_ray.data.cache.inventory import prune
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.duplicates import find_known_videos, find_same_videos, read_content_ids
from ophnet_ray.data.run_data import read_run_data
from ophnet_ray.data.segments import Segment
from ophnet_ray.storage.contents import END_BYTES

pytestmark = pytest.mark.unit


def test_files_of_equal_content_are_found_whatever_their_names(tmp_path):
    long = b"x" * (3 * END_BYTES)
    files = {
        "a.mp4": b"12",
        "b.mp4": b"21",
        "c/a.mp4": b"12",
        "d.mp4": long,
        "e.mp4": long[:-1] + b"y",
        "f.mp4": long,
        "g.mp4": b"",
        "h.mp4": b"",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in [*files, "missing.mp4"]]
    assert find_same_videos(paths) == [
        (str(tmp_path / "a.mp4"), str(tmp_path / "c/a.mp4")),
        (str(tmp_path / "d.mp4"), str(tmp_path / "f.mp4")),
    ]


def test_contents_that_were_seen_elsewhere_are_known(tmp_path):
    for name, content in {"a": b"12", "b": b"21", "c": b"123"}.items():
        (tmp_path / name).write_bytes(content)
    seen = read_content_ids([str(tmp_path / "a"), str(tmp_path / "c")]).values()
    (tmp_path / "a").rename(tmp_path / "d")
    videos = [str(tmp_path / name) for name in "abcd"]
    assert find_known_videos(videos, seen) == [str(tmp_path / "c"), str(tmp_path / "d")]
    assert find_known_videos(videos, ()) == []


def test_the_same_content_in_a_bucket_is_found_too(bucket):
    from ophnet_ray.storage.files import write_object

    uris = [bucket.uri(f"twins/{name}.mp4") for name in "abc"]
    for uri, content in zip(uris, [b"12", b"34", b"12"], strict=True):
        write_object(uri, content)
    assert find_same_videos(uris) == [(uris[0], uris[2])]


def test_a_start_asks_for_the_state_of_each_video_once(tmp_path, monkeypatch):
    """To find them, to compare their contents, to identify the run and to look into the cache."""
    videos = [tmp_path / f"case_{i}.mp4" for i in range(40)]
    for i, video in enumerate(videos):
        video.write_bytes(b"x" * (10 + i))
    rows = [f"{video.stem},0,5,{i % 2}" for i, video in enumerate(videos)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["video_id,start,end,phase_id", *rows]))
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=32))
    asked, stat = Counter(), os.stat

    def count(path, **options):
        asked[str(path)] += 1
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", count)
    data = read_run_data(str(table), DataConfig(), 0, lambda _: None)
    cache.look_up(data.segments, data.files)
    cache.identify_ends(map(str, videos), data.files)
    assert [asked[str(video)] for video in videos] == [1] * len(videos)


def test_a_training_video_is_read_once_for_its_content_id_until_it_changes(tmp_path):
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=32))
    video = tmp_path / "a.mp4"
    video.write_bytes(b"12")
    os.utime(video, ns=(1, 1))
    first = cache.identify_ends([str(video)])
    assert first == read_content_ids([str(video)])
    for memo in cache.folder.glob(".video-*"):
        os.utime(memo, (0, 0))
    prune(tmp_path / "cache", 0)  # the memo is no leftover
    video.write_bytes(b"21")
    os.utime(video, ns=(1, 1))
    assert cache.identify_ends([str(video)]) == first  # same size and time: it is not read
    os.utime(video, ns=(2, 2))
    assert cache.identify_ends([str(video)]) == read_content_ids([str(video)]) != first


def test_reading_a_video_for_its_keys_tells_its_content_id_too(tmp_path):
    cache = BlockCache(tmp_path / "cache", WindowConfig(image_size=32))
    video, empty = tmp_path / "a.mp4", tmp_path / "empty.mp4"
    video.write_bytes(bytes(range(256)) * 4000)
    empty.touch()
    os.utime(video, ns=(1, 1))
    cache.keys_of([Segment(f"{v}", "a", str(v), 0.0, 1.0, "x") for v in (video, empty)])
    told = read_content_ids([str(video)])
    video.write_bytes(bytes(256) * 4000)
    os.utime(video, ns=(1, 1))
    assert cache.identify_ends([str(video), str(empty)]) == told  # it is not read again
