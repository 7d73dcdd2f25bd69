"""Videos that are the same whatever they are called."""

import pytest

from ophnet_ray.data.duplicates import find_known_videos, find_same_videos, read_content_ids
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
