"""Identity by content: equal for equal contents, and for no others that a video can have."""

import pytest

from ophnet_ray.storage.contents import END_BYTES, NUM_PROBES, hash_ends, identify_content
from ophnet_ray.storage.files import stat_files, write_object

pytestmark = pytest.mark.unit


def id_of(path):
    return identify_content(str(path), stat_files([str(path)])[str(path)])


@pytest.fixture
def large(tmp_path):
    """A file that is read in samples."""
    path = tmp_path / "large.mp4"
    path.write_bytes(bytes(range(251)) * (12 * END_BYTES // 251))
    return path


def test_neither_name_nor_time_matters(large, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(large.read_bytes())
    assert id_of(copy) == id_of(large)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 0.93, 0.985])
def test_a_change_of_a_65th_of_the_file_is_noticed_wherever_it_is(large, share):
    before = id_of(large)
    content = bytearray(large.read_bytes())
    first, length = int(share * len(content)), len(content) // (NUM_PROBES + 1) + 1
    content[first : first + length] = bytes(min(length, len(content) - first))
    large.write_bytes(content)
    assert id_of(large) != before


@pytest.mark.parametrize("size_bytes", [1, 100, 2 * END_BYTES])
def test_one_byte_of_a_small_file_is_noticed(tmp_path, size_bytes):
    path = tmp_path / "small.mp4"
    path.write_bytes(bytes(size_bytes))
    before = id_of(path)
    path.write_bytes(bytes(size_bytes // 2) + b"x" + bytes(size_bytes - size_bytes // 2 - 1))
    assert id_of(path) != before


def test_an_object_of_a_bucket_is_known_by_its_etag_and_not_read(bucket):
    uris = [bucket.uri(f"ids/{name}.mp4") for name in "abc"]
    for uri, text in zip(uris, [b"12" * 10_000, b"12" * 10_000, b"34" * 10_000], strict=True):
        write_object(uri, text)
    bucket.count()
    first, second, third = (id_of(uri) for uri in uris)
    assert bucket.count()["sent_bytes"] < 10_000
    assert first == second != third


def test_both_ends_of_an_object_and_of_its_copy_are_the_same(bucket, large):
    write_object(bucket.uri("ids/large.mp4"), large.read_bytes())
    size_bytes = large.stat().st_size
    assert hash_ends(bucket.uri("ids/large.mp4"), size_bytes) == hash_ends(str(large), size_bytes)
