"""Videos, cache and weights in a bucket, against a real S3 endpoint on loopback."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ophnet_ray.config import Config
from ophnet_ray.data.annotations import find_missing_videos, read_annotations
from ophnet_ray.data.cache.block_reader import read_blocks
from ophnet_ray.data.cache.fill import decode_in_threads, fill_cache
from ophnet_ray.data.cache.inventory import prune, read_inventory
from ophnet_ray.data.cache.read_ahead import fetch_shard
from ophnet_ray.data.cache.segment_keys import FORMAT_VERSION
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video import blocks
from ophnet_ray.data.video.blocks import decode_segments
from ophnet_ray.data.video.container import VideoError
from ophnet_ray.errors import UserError
from ophnet_ray.inference.video_names import find_videos
from ophnet_ray.inference.window_stream import local_copy
from ophnet_ray.models.network import SurgicalPhaseClassificationModel
from ophnet_ray.settings_file import read_config
from ophnet_ray.storage.files import (
    list_objects,
    upload,
    write_object,
)
from tests.helpers.bucket_videos import (
    NUM_VIDEOS,
    SEGMENTS_A_VIDEO,
    WINDOWS,
    fill,
    segments_of,
)
from tests.helpers.processes import READY, start_ready
from tests.helpers.videos import grey_frames, write_variant, write_video

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def videos(tmp_path_factory, bucket):
    """Local file of a video of flat greys, and the URI of a folder with eight of it."""
    file = write_video(tmp_path_factory.mktemp("grey") / "v.mp4", grey_frames(60, 320), gop=10)
    for i in range(NUM_VIDEOS):
        variant = write_variant(file, file.with_name(f"v{i}.mp4"), i)
        upload(variant, bucket.uri(f"videos/v{i}.mp4"))
    return file, bucket.uri("videos")


def assert_right(entries):
    """Frame k is a flat grey 2k; the blocks are the 16 middle frames of 20."""
    for i in range(SEGMENTS_A_VIDEO):
        means = read_blocks(entries[f"v0:{i}"], 0, np.empty((2, 32, 32, 3), np.uint8))
        first = 20 * i + 2
        np.testing.assert_allclose(
            means.mean(axis=(1, 2, 3)), [2 * (first + 3.5), 2 * (first + 11.5)], atol=3
        )


def test_a_video_in_a_bucket_is_read_as_from_disk_and_travels_once(bucket, videos):
    file, folder = videos
    segments = segments_of(folder)[:SEGMENTS_A_VIDEO]
    bucket.count()
    there = list(decode_segments(segments[0].video, segments, WINDOWS))
    assert bucket.count()["sent_bytes"] <= 1.01 * file.stat().st_size
    here = list(decode_segments(str(file), segments, WINDOWS))
    assert len(there) == len(here) == SEGMENTS_A_VIDEO
    for (_, ours), (_, theirs) in zip(there, here, strict=True):
        assert not ours.reason
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)


def test_a_video_in_a_bucket_is_fetched_into_the_local_cache_folder(
    bucket, videos, tmp_path, monkeypatch
):
    """The system's temporary folder is often memory, and smaller than a video."""
    cache = BlockCache(tmp_path / "cache", WINDOWS, str(tmp_path / "local"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    filled = fill(cache, segments_of(videos[1])[:SEGMENTS_A_VIDEO])
    assert [entry.reason for entry in filled.entries.values()] == [""] * SEGMENTS_A_VIDEO


def test_a_bucket_that_refuses_for_a_moment_costs_no_row(bucket, videos, monkeypatch):
    monkeypatch.setattr(blocks, "RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    segments = segments_of(videos[1])[:SEGMENTS_A_VIDEO]
    bucket.count()
    bucket.fail_gets(2)
    read = dict(decode_segments(segments[0].video, segments, WINDOWS))
    assert bucket.count()["failed"] == 2
    assert [one.reason for one in read.values()] == [""] * SEGMENTS_A_VIDEO


def test_what_is_no_video_or_gone_is_a_reason_not_an_error(bucket):
    write_object(bucket.uri("videos/broken.mp4"), b"broken")
    for name, is_permanent in (("broken", True), ("gone", False)):
        segment = Segment("s", "c", bucket.uri(f"videos/{name}.mp4"), 0.0, 1.0, "a")
        ((_, read),) = decode_segments(segment.video, [segment], WINDOWS)
        assert "cannot be opened" in read.reason
        assert read.is_permanent == is_permanent


def test_a_table_and_its_videos_are_found_by_one_listing_a_folder(bucket, videos):
    rows = [f"v{i},{s},{s + 2},a" for i in range(NUM_VIDEOS + 1) for s in (0, 2, 4)]
    write_object(
        bucket.uri("videos/t.csv"), "\n".join(["video_id,start,end,phase", *rows]).encode()
    )
    segments = read_annotations(bucket.uri("videos/t.csv"))
    assert segments[0].video == bucket.uri("videos/v0.mp4")
    bucket.count()
    assert find_missing_videos(segments) == [bucket.uri(f"videos/v{NUM_VIDEOS}.mp4")]
    assert bucket.count()["requests"] == 1


def test_weights_are_read_from_a_bucket_and_from_a_file_uri(bucket, tmp_path):
    first = SurgicalPhaseClassificationModel(2, "test_resnet", pretrained=False, image_size=32)
    torch.save(first.image_encoder.state_dict(), tmp_path / "encoder.pt")
    upload(tmp_path / "encoder.pt", bucket.uri("encoder.pt"))
    for uri in (bucket.uri("encoder.pt"), f"file://{tmp_path}/encoder.pt"):
        model = SurgicalPhaseClassificationModel(
            2, "test_resnet", image_size=32, backbone_weights=uri
        )
        for name, tensor in model.image_encoder.state_dict().items():
            assert torch.equal(tensor, first.image_encoder.state_dict()[name]), name
    with pytest.raises(UserError, match=r"--backbone_weights s3://surgery/none\.pt does not exist"):
        SurgicalPhaseClassificationModel(
            2, "test_resnet", image_size=32, backbone_weights=bucket.uri("none.pt")
        )


def test_settings_are_read_from_a_bucket(bucket):
    write_object(bucket.uri("settings.yaml"), b"lr: 0.5\n")
    assert read_config(bucket.uri("settings.yaml"), Config()).training.lr == 0.5


def test_a_cache_in_a_bucket_is_decoded_once_and_fetched_once_a_machine(bucket, videos, tmp_path):
    """Two machines are two local folders."""
    segments = segments_of(videos[1])
    first = BlockCache(bucket.uri("cache"), WINDOWS, str(tmp_path / "one"))
    filled = fill(first, segments)
    assert filled.decoded_videos == NUM_VIDEOS
    assert_right(filled.entries)
    second = BlockCache(bucket.uri("cache"), WINDOWS, str(tmp_path / "two"))
    again = fill(second, segments)
    assert again.decoded_videos == 0
    needed_bytes = sum(2 * 32 * 32 * 3 for _ in segments)
    bucket.count()
    for entry in again.entries.values():
        fetch_shard(entry.path, entry.source)
    fetched = bucket.count()["sent_bytes"]
    print(f"fetched {fetched} bytes, {fetched / needed_bytes:.3f} of what is needed")
    assert_right(again.entries)
    assert bucket.count()["sent_bytes"] == 0


def test_a_decoder_keeps_to_the_limit_of_its_machine_without_listing_the_folder_per_shard(
    bucket, videos, tmp_path, monkeypatch
):
    limit, listed, scan = 50_000, [], os.scandir
    monkeypatch.setattr("ophnet_ray.storage.copy_room.LISTING_PAUSE", 1e9)
    cache = BlockCache(bucket.uri("limited"), WINDOWS, str(tmp_path), limit)

    def decode(cache, tasks):
        with monkeypatch.context() as patch:
            patch.setattr("os.scandir", lambda path: listed.append(path) or scan(path))
            yield from decode_in_threads(1)(cache, tasks)

    filled = fill_cache(cache, segments_of(videos[1]), 2, decode)
    assert len({entry.path for entry in filled.entries}) == NUM_VIDEOS
    left = [each.stat().st_size for each in cache.folder.iterdir() if each.is_file()]
    assert 0.5 * limit < sum(left) <= limit
    assert listed.count(cache.folder) == 1


def test_a_copy_of_a_video_in_another_folder_of_the_bucket_is_not_decoded_again(
    bucket, videos, tmp_path
):
    for i in range(NUM_VIDEOS):
        upload(videos[0].with_name(f"v{i}.mp4"), bucket.uri(f"copies/v{i}.mp4"))
    cache = bucket.uri("copied")
    assert fill(BlockCache(cache, WINDOWS, str(tmp_path)), segments_of(videos[1])).decoded_videos
    bucket.count()
    copies = BlockCache(cache, WINDOWS, str(tmp_path))
    assert fill(copies, segments_of(bucket.uri("copies"))).missing_videos == 0
    first = bucket.count()["requests"]
    assert fill(copies, segments_of(bucket.uri("copies"))).missing_videos == 0
    assert bucket.count()["requests"] <= first - NUM_VIDEOS, "an unchanged object is asked again"


def test_a_reader_fetches_what_its_machine_lacks(bucket, videos, tmp_path):
    segments = segments_of(videos[1])
    filled = fill(BlockCache(bucket.uri("lazy"), WINDOWS, str(tmp_path / "one")), segments)
    other = fill(BlockCache(bucket.uri("lazy"), WINDOWS, str(tmp_path / "two")), segments)
    assert not Path(other.entries["v0:0"].path).exists()
    assert_right(other.entries)
    assert filled.decoded_videos == NUM_VIDEOS


def test_a_shard_that_is_not_whole_in_the_bucket_is_decoded_anew(bucket, videos, tmp_path):
    segments = segments_of(videos[1])
    filled = fill(BlockCache(bucket.uri("torn"), WINDOWS, str(tmp_path / "one")), segments)
    write_object(filled.entries["v0:0"].source, b"half")
    again = fill(BlockCache(bucket.uri("torn"), WINDOWS, str(tmp_path / "two")), segments)
    assert 0 < again.decoded_videos < NUM_VIDEOS
    assert_right(again.entries)


FILL = f"""
from ophnet_ray.data.cache.store import BlockCache
from tests.helpers.bucket_videos import WINDOWS, fill, segments_of
{READY}
filled = fill(BlockCache(sys.argv[1], WINDOWS, sys.argv[2]), segments_of(sys.argv[3]))
print(filled.decoded_videos, len(filled.entries))
"""


@pytest.mark.parametrize("machines", [1, 2])
def test_two_first_runs_at_once_share_the_work(bucket, videos, tmp_path, machines):
    """On one machine by claims: each video once. On two, who meets what is done leaves it."""
    cache = bucket.uri(f"together-{machines}")
    programs = [(FILL, cache, str(tmp_path / str(i % machines)), videos[1]) for i in range(2)]
    runs = start_ready(*programs)
    for process in runs:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=300)[0].split() for process in runs]
    decoded = [int(answer[0]) for answer in answers]
    print(f"{machines} machines: decoded {decoded} of {NUM_VIDEOS} videos")
    assert [int(answer[1]) for answer in answers] == [len(segments_of(videos[1]))] * 2
    assert sum(decoded) == NUM_VIDEOS if machines == 1 else sum(decoded) >= NUM_VIDEOS
    again = fill(BlockCache(cache, WINDOWS, str(tmp_path / "third")), segments_of(videos[1]))
    assert again.decoded_videos == 0
    assert_right(again.entries)


def test_the_command_lists_and_prunes_the_cache_of_a_bucket(bucket, videos, tmp_path):
    cache = bucket.uri("listed")
    fill(BlockCache(cache, WINDOWS, str(tmp_path)), segments_of(videos[1]))
    command = [sys.executable, "-m", "ophnet_ray", "cache", "--cache_dir", cache]
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True)
    _, row, _ = listed.stdout.splitlines()
    num_segments = NUM_VIDEOS * SEGMENTS_A_VIDEO
    counts = [str(NUM_VIDEOS), str(num_segments), "0"]
    assert row.split()[:8] == ["32", "8", "64", "spread", "mean", *counts]
    pruned = subprocess.run([*command, "--prune"], capture_output=True, text=True, check=True)
    assert pruned.stdout.startswith("removed 0 shards not used for 30 days")
    hasty = subprocess.run(
        [*command, "--prune", "--days", "0"], capture_output=True, text=True, check=False
    )
    assert hasty.returncode == 2
    assert "a bucket does not show whether a run is using it" in hasty.stderr


def test_pruning_a_bucket_removes_what_was_not_used(bucket, videos, tmp_path, monkeypatch):
    cache, segments = bucket.uri("pruned"), segments_of(videos[1])
    version = f"pruned/blocks-v{FORMAT_VERSION}"
    fill(BlockCache(cache, WINDOWS, str(tmp_path / "one")), segments)
    write_object(bucket.uri(f"{version}/killed.arrow"), b"its writer was killed")
    num_shards = len(read_inventory(cache).shards)
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 40 * 86_400)
    removed = prune(cache, unused_days=30)
    assert (len(removed.shards), len(removed.leftovers)) == (num_shards, 1)
    monkeypatch.undo()
    assert not [name for name in list_objects(bucket.uri(version)) if name[0] != "."]
    again = fill(BlockCache(cache, WINDOWS, str(tmp_path / "two")), segments)
    assert again.decoded_videos == NUM_VIDEOS


def test_videos_to_predict_are_found_in_a_bucket_and_copied_once(bucket, tmp_path):
    video = write_video(tmp_path / "v1.mp4", grey_frames(40))
    for name in ("v1.mp4", "v2.MP4", "notes.txt"):
        upload(video, bucket.uri(f"to-predict/{name}"))
    found = find_videos([bucket.uri("to-predict")])
    assert list(found) == ["v1", "v2"]
    assert find_videos([found["v1"]]) == {"v1": found["v1"]}
    bucket.count()
    with local_copy(found["v1"]) as path:
        assert Path(path).read_bytes() == video.read_bytes()
    assert bucket.count()["sent_bytes"] <= 1.01 * video.stat().st_size
    assert not Path(path).exists()
    with pytest.raises(VideoError, match="cannot be fetched"), local_copy(bucket.uri("none.mp4")):
        pass
