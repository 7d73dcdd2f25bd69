"""Ids of videos: file names without suffix, and paths where two files share a name."""

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.inference.video_names import find_videos

pytestmark = pytest.mark.unit


def test_two_videos_of_one_name_keep_apart(tmp_path):
    for name in ("a/1.mp4", "b/1.MOV", "b/2.mkv", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_videos([str(tmp_path / "a/1.mp4"), str(tmp_path / "b")])
    assert list(found) == [str(tmp_path / "a/1.mp4"), str(tmp_path / "b/1.MOV"), "2"]
    with pytest.raises(UserError, match="none does not exist"):
        find_videos(["none"])


def test_a_folder_without_videos_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"--videos: no \.mp4, .* file in"):
        find_videos([str(tmp_path)])
