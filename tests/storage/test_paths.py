"""Paths and URIs as text: joined, shortened, and refused where they hold a secret."""

import subprocess
import sys

import pytest

from ophnet_ray.config import Config
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.errors import UserError
from ophnet_ray.storage.paths import (
    absolute,
    bucket_path,
    check_location,
    is_remote,
    join,
    name_of,
    options_of,
    parent_of,
    plain_uri,
    stem_of,
)
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("folder", "name", "path"),
    [
        pytest.param("/data", "v.mp4", "/data/v.mp4", id="local"),
        pytest.param("/data", "/other/v.mp4", "/other/v.mp4", id="absolute name"),
        pytest.param("/data", "s3://b/v.mp4", "s3://b/v.mp4", id="URI as name"),
        pytest.param("s3://b", "v.mp4", "s3://b/v.mp4", id="bucket without a folder"),
        pytest.param("gs://b/x?scheme=http", "a/v", "gs://b/x/a/v?scheme=http", id="options last"),
    ],
)
def test_a_name_is_joined_to_a_folder(folder, name, path):
    assert join(folder, name) == path


def test_a_uri_gives_what_file_systems_take():
    uri = "s3://bucket/a%20b/v.mp4?endpoint_override=http%3A%2F%2Fh%3A1&region=x"
    assert bucket_path(uri) == "bucket/a b/v.mp4"
    assert options_of(uri) == {"endpoint_override": "http://h:1", "region": "x"}
    assert plain_uri(uri) == "s3://bucket/a%20b/v.mp4"


@pytest.mark.parametrize("name", ["a b.mp4", "a%20b.mp4", "a?b.mp4", "a#b.mp4", "ä.mp4"])
@pytest.mark.parametrize("folder", ["/data", "s3://b/x?region=y"])
def test_any_name_comes_back_from_a_joined_path(folder, name):
    path = join(folder, name)
    assert name_of(path) == name
    assert stem_of(path) == name.removesuffix(".mp4")
    assert parent_of(path) == folder


def test_only_uris_of_buckets_are_remote():
    assert [is_remote(p) for p in ("s3://b/x", "gs://b/x", "file:///x", "/s3://x", "x")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_local_paths_and_plain_uris_are_accepted(tmp_path):
    for path in (str(tmp_path), "relative/x.csv", "file:///data/x.csv", "s3://bucket/x?region=a"):
        check_location("--flag", path)


def test_a_place_in_a_bucket_keeps_its_endpoint_when_names_are_added():
    uri = "s3://b/videos/?endpoint_override=http%3A%2F%2F127.0.0.1%3A9&region=x"
    video = join(absolute(uri), "case 1/a#b?.mp4")
    assert video.startswith("s3://b/videos/case 1/a%23b%3F.mp4?endpoint_override=http%3A")
    assert (name_of(video), stem_of(video)) == ("a#b?.mp4", "a#b?")
    assert parent_of(parent_of(video)) == absolute(uri)
    assert join("s3://b", "x.csv") == "s3://b/x.csv"
    assert absolute("file:///data/a%20b/") == "/data/a b"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("s3://AKIA:hunter2@bucket/x", "credentials do not belong in a path"),
        ("s3://bucket/x?access_key=hunter2", "credentials do not belong in a path"),
        ("s3://bucket/x?secret_key=hunter2&region=a", "credentials do not belong in a path"),
        ("gs://hunter2@bucket/x", "credentials do not belong in a path"),
        ("s3://bucket/x?X-Amz-Credential=hunter2", "credentials do not belong in a path"),
        (
            "s3://bucket/x?endpoint_override=http%3A%2F%2Fu%3Ahunter2%40h",
            "credentials do not belong",
        ),
        ("s3://u:hunter2@[", "no valid URI"),
        ("s3://bucket/\x1b[2J", "holds the control character"),
        ("file:///x%00", "holds the control character"),
        ("Vid\udce9os", "is not UTF-8; rename it"),
        ("s3://bucket/x?endpoint=hunter2", "a URI takes endpoint_override, region, scheme"),
        ("http://host/hunter2", "http:// is not one of s3://, gs:// and file://"),
        ("file://host/hunter2", "a file URI is file:///absolute/path"),
        ("s3:///hunter2", "names no bucket"),
    ],
)
@pytest.mark.parametrize("flag", ["csv_path", "video_dir", "cache_dir", "storage_path"])
def test_a_uri_that_cannot_be_used_is_refused(flag, uri, says):
    with pytest.raises(UserError, match=f"--{flag}.*{says}") as caught:
        Config().replace_flat(**{flag: uri}).validate()
    if "credentials" in says:
        assert "hunter2" not in str(caught.value)


def test_no_flag_and_no_row_takes_a_secret(tmp_path):
    secret = "s3://bucket/x.mp4?access_key=hunter2"
    for command in (
        ["train.py", "--csv_path", secret, "--print_config"],
        ["train.py", "--config", secret],
        ["-m", "ophnet_ray", "cache", "--list", "--cache_dir", secret],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 2, command
        assert "credentials do not belong" in done.stderr
        assert "hunter2" not in done.stdout + done.stderr
    (tmp_path / "clips.csv").write_text(f"video_path,phase\n{secret},a\n")
    with pytest.raises(UserError, match="csv:2: video_path: credentials do not") as caught:
        read_annotations(tmp_path / "clips.csv")
    assert "hunter2" not in str(caught.value)
