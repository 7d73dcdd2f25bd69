"""Features of videos: written once, read whole or not at all, found wherever the video lies."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from ophnet_ray.data.features.encoding import Encoding
from ophnet_ray.data.features.sequence import FeatureSequence
from ophnet_ray.data.features.store import FeatureStore, MissingFeaturesError
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import list_objects, read_bytes, write_object
from ophnet_ray.storage.paths import join

pytestmark = pytest.mark.unit

ENCODING = Encoding(
    backbone="test_vit",
    weights_hash="ab" * 32,
    image_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    mask="none",
    pooling="class_and_patches",
    window_size=16,
    stride=8,
    frame_rate=1.0,
    causal=False,
)


def sequence(content_id="1-a", num_times=5, num_classes=3, seed=0):
    """Features of so many seconds; the frames of the second one are damaged."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(num_times, 4)).astype(np.float16)
    log_probs = -random.exponential(size=(num_times, num_classes)).astype(np.float16)
    features[1], log_probs[1] = np.nan, np.nan
    return FeatureSequence(content_id, np.arange(num_times) / 1.0, features, log_probs)


def file_of(store):
    (file,) = store.folder.glob("*.npz")
    return file


def assert_equal(found, written):
    assert found.content_id == written.content_id
    for name in ("times_s", "features", "log_probs"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
        assert getattr(found, name).dtype == getattr(written, name).dtype


@pytest.mark.parametrize("num_classes", [3, 0])
def test_what_is_written_is_read_by_another_process_and_by_numpy(tmp_path, num_classes):
    written = sequence(num_classes=num_classes)
    FeatureStore(str(tmp_path), ENCODING).write(written)
    store = FeatureStore(str(tmp_path), Encoding.from_dict(ENCODING.to_dict()))
    assert store.find(["1-a", "2-b"]) == {"1-a"}
    assert_equal(store.read("1-a"), written)
    assert store.read("1-a").is_damaged.tolist() == [False, True, False, False, False]
    with np.load(file_of(store)) as arrays:
        np.testing.assert_array_equal(arrays["features"], written.features)


def test_features_of_another_encoder_rate_or_input_are_others(tmp_path):
    FeatureStore(str(tmp_path), ENCODING).write(sequence())
    for change in (
        {"weights_hash": "cd" * 32},
        {"backbone": "test_vit2"},
        {"frame_rate": 2.0},
        {"causal": True},
        {"window_size": 8},
        {"window_image": "center"},
        {"stride": 4},
        {"image_size": 32},
        {"mask": "rg"},
        {"pooling": "patches"},
        {"mean": (0.0, 0.0, 0.0)},
        {"std": (1.0, 1.0, 1.0)},
    ):
        other = FeatureStore(str(tmp_path), replace(ENCODING, **change))
        assert other.find(["1-a"]) == set(), change
        with pytest.raises(MissingFeaturesError, match="1-a"):
            other.read("1-a")


def test_features_of_means_are_found_where_earlier_versions_stored_them():
    # of commit 15deeaf, which knew means alone
    assert (
        replace(ENCODING, std=(0.25,) * 3, pooling="all").key == "18031b3b669c724a7821b01f0d67dcf0"
    )
    assert "window_image" not in ENCODING.to_dict()
    assert Encoding.from_dict(ENCODING.to_dict()) == ENCODING


def test_no_flipped_bit_and_no_cut_gives_other_values(tmp_path, caplog):
    store = FeatureStore(str(tmp_path), ENCODING)
    store.write(sequence())
    file = file_of(store)
    whole = file.read_bytes()
    damaged = [whole[: len(whole) * i // 20] for i in range(20)]
    for position in range(0, len(whole), 7):
        flipped = bytes([whole[position] ^ 1 << position % 8])
        damaged.append(whole[:position] + flipped + whole[position + 1 :])
    for content in damaged:
        file.write_bytes(content)
        caplog.clear()
        assert store.find(["1-a"]) == set()
        assert str(file) in caplog.text
        with pytest.raises(MissingFeaturesError):
            store.read("1-a")


def test_a_damaged_file_is_written_again_and_a_whole_one_is_kept(tmp_path):
    store = FeatureStore(str(tmp_path), ENCODING)
    store.write(sequence())
    file_of(store).write_bytes(b"PK")
    assert store.find(["1-a"]) == set()
    store.write(sequence())
    assert store.find(["1-a"]) == {"1-a"}
    # the last bits of a GPU's features differ each time: a head that resumes must see the same
    store.write(sequence(seed=1))
    assert_equal(store.read("1-a"), sequence())


def test_a_file_under_the_name_of_another_video_is_not_believed(tmp_path):
    store, other = (FeatureStore(str(tmp_path / name), ENCODING) for name in "ab")
    store.write(sequence("1-a"))
    other.write(sequence("2-b"))
    shutil.copy(file_of(other), file_of(store))
    assert store.find(["1-a"]) == set()


def test_equal_sequences_give_equal_files(tmp_path):
    stores = [FeatureStore(str(tmp_path / name), ENCODING) for name in "ab"]
    for store in stores:
        store.write(sequence())
    first, second = (file_of(store).read_bytes() for store in stores)
    assert first == second


def test_a_video_is_known_by_its_content(tmp_path):
    store = FeatureStore(str(tmp_path / "cache"), ENCODING)
    for name, content in [("a.mp4", b"1"), ("b.mp4", b"1"), ("c.mp4", b"2")]:
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / f"{name}.mp4") for name in "abcd"]
    ids = store.identify(paths)
    assert list(ids) == paths[:3]
    assert ids[paths[0]] == ids[paths[1]] != ids[paths[2]]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    store = FeatureStore(str(tmp_path / "file"), ENCODING)
    for write in (store.check_writable, lambda: store.write(sequence())):
        with pytest.raises(UserError, match="file"):
            write()


def test_machines_share_features_through_a_bucket(bucket, tmp_path):
    uri = bucket.uri("features/shared")
    stores = [FeatureStore(uri, ENCODING, str(tmp_path / name)) for name in ("one", "two")]
    stores[0].check_writable()
    assert stores[0].find(["1-a"]) == set()
    stores[0].write(sequence())
    assert stores[1].find(["1-a", "2-b"]) == {"1-a"}
    assert_equal(stores[1].read("1-a"), sequence())
    # a damaged copy of one machine is fetched again
    file_of(stores[1]).write_bytes(b"PK")
    assert_equal(stores[1].read("1-a"), sequence())


def test_a_damaged_object_of_a_bucket_counts_as_absent_and_is_replaced(bucket, tmp_path):
    uri = bucket.uri("features/damaged")
    stores = [FeatureStore(uri, ENCODING, str(tmp_path / name)) for name in ("one", "two")]
    stores[0].write(sequence())
    folder = join(join(uri, "features-v1"), ENCODING.key)
    (name,) = (name for name in list_objects(folder) if name.endswith(".npz"))
    whole = read_bytes(join(folder, name))
    write_object(join(folder, name), whole[:-1])
    assert stores[1].find(["1-a"]) == set()
    stores[1].write(sequence())
    assert read_bytes(join(folder, name)) == whole


def test_features_on_one_machine_alone_are_not_shared(bucket, tmp_path):
    store = FeatureStore(bucket.uri("features/alone"), ENCODING, str(tmp_path))
    bucket.fail_puts(100, status=403)
    with pytest.raises(UserError, match="features/alone"):
        store.write(sequence())
    bucket.fail_puts(0)
    assert store.find(["1-a"]) == set()
    store.write(sequence())
    assert store.find(["1-a"]) == {"1-a"}


def test_of_two_machines_that_encode_a_video_all_read_the_first_ones_features(bucket, tmp_path):
    uri = bucket.uri("features/twice")
    one, two, three = (
        FeatureStore(uri, ENCODING, str(tmp_path / name)) for name in ("one", "two", "three")
    )
    one.write(sequence(seed=0))
    two.write(sequence(seed=1))
    for store in (one, two, three):
        assert_equal(store.read("1-a"), sequence(seed=0))
