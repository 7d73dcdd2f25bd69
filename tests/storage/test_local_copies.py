"""Copies of bucket objects on one machine: private, fetched once, by version."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import delete_object, write_object
from ophnet_ray.storage.local_copies import fetch_once, fetch_version, local_folder
from tests.helpers.processes import READY, start_ready

pytestmark = pytest.mark.unit

FETCH = f"""
from pathlib import Path
from ophnet_ray.storage.local_copies import fetch_once
{READY}
fetch_once(sys.argv[1], Path(sys.argv[2]))
"""


def test_a_bucket_folder_has_one_private_folder_however_it_is_reached(tmp_path):
    root = tmp_path / "copies"
    folder = local_folder("s3://b/runs/cache?region=x", str(root))
    assert folder.is_dir()
    assert folder == local_folder("s3://b/runs/cache?region=y", str(root))
    assert folder.name.startswith("cache-")
    assert folder != local_folder("s3://b/other/cache", str(root))
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_created_is_named_with_its_flag(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--local_cache_dir .*/file cannot be written: "):
        local_folder("s3://b/cache", str(tmp_path / "file"))


def test_processes_of_a_machine_fetch_an_object_once(bucket, tmp_path):
    content = bytes(2_000_000)
    uri, target = bucket.uri("copies/shard"), tmp_path / "here" / "shard"
    write_object(uri, content)
    processes = start_ready(*[(FETCH, uri, str(target))] * 3)
    bucket.count()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda process: process.communicate("\n", timeout=120), processes))
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert target.read_bytes() == content
    assert len(content) <= bucket.count()["sent_bytes"] < 1.1 * len(content)


def test_a_present_copy_is_not_fetched_again(bucket, tmp_path):
    uri, target = bucket.uri("copies/kept"), tmp_path / "kept"
    write_object(uri, b"content")
    fetch_once(uri, target)
    bucket.count()
    assert fetch_once(uri, target) == target
    assert bucket.count()["requests"] == 0


def test_an_object_that_changes_gets_another_copy(bucket, tmp_path):
    uri = bucket.uri("copies/weights.pt")
    write_object(uri, b"old")
    old = fetch_version(uri, str(tmp_path))
    assert fetch_version(uri, str(tmp_path)) == old
    write_object(uri, b"newer")
    new = fetch_version(uri, str(tmp_path))
    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"newer")
    assert old.name == new.name == "weights.pt"


def test_an_object_that_is_gone_is_named_without_its_options(bucket, tmp_path):
    uri = bucket.uri("copies/gone.pt")
    write_object(uri, b"content")
    fetch_version(uri, str(tmp_path))
    delete_object(uri)
    with pytest.raises(FileNotFoundError, match=r"^s3://surgery/copies/gone\.pt does not exist$"):
        fetch_version(uri, str(tmp_path))
