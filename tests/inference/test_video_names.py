"""Ids of videos: file names without suffix, after their folders where two share a name."""

import os

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.inference.video_names import find_videos, name_videos

pytestmark = pytest.mark.unit


def test_two_videos_of_one_name_keep_apart(tmp_path):
    for name in ("a/1.mp4", "b/1.MOV", "b/2.mkv", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_videos([str(tmp_path / "a/1.mp4"), str(tmp_path / "b")])
    assert {name: path.removeprefix(str(tmp_path)) for name, path in found.items()} == {
        "a/1": "/a/1.mp4",
        "b/1": "/b/1.MOV",
        "2": "/b/2.mkv",
    }
    with pytest.raises(UserError, match="none does not exist"):
        find_videos(["none"])


@pytest.mark.parametrize(
    ("videos", "ids"),
    [
        (["/x/a/b/1.mp4", "/x/c/b/1.mp4"], ["a/b/1", "c/b/1"]),
        (["/b/1.mp4", "/x/b/1.mp4"], ["b/1", "x/b/1"]),
        (["/x/1.mp4", "/x/1.mkv"], ["x/1.mp4", "x/1.mkv"]),
        (["s3://a/x/1.mp4?region=r", "/x/1.mp4"], ["a/x/1", "x/1"]),
        (["s3://a/1.mp4", "gs://a/1.mp4"], ["s3://a/1.mp4", "gs://a/1.mp4"]),
    ],
)
def test_an_id_names_no_more_folders_than_needed(videos, ids):
    assert name_videos(videos) == dict(zip(ids, videos, strict=True))


def test_a_folder_without_videos_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"--videos: no \.mp4, .* file in"):
        find_videos([str(tmp_path)])


@pytest.mark.parametrize(
    ("name", "says"),
    [(b"\xe9l\xe8ve.mp4", "is not UTF-8; rename it"), (b"a\x1b[2J.mp4", "control character")],
)
def test_a_name_that_cannot_be_written_is_refused_before_hours_of_prediction(tmp_path, name, says):
    (tmp_path / os.fsdecode(name)).touch()
    with pytest.raises(UserError, match=f"^--videos .*{says}") as refused:
        find_videos([str(tmp_path)])
    assert str(refused.value).isprintable()


def test_a_path_that_no_file_can_have_does_not_exist():
    with pytest.raises(UserError, match="does not exist"):
        find_videos(["a" * 300])
