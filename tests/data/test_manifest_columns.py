"""A manifest as columns, in memory and in a mapped file: the orders and entries of its rows."""

import hashlib
import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.shards import CacheEntry
from ophnet_ray.data.datasets import ManifestDataModule
from ophnet_ray.data.manifest import Manifest
from ophnet_ray.data.manifest_columns import ManifestColumns
from ophnet_ray.data.manifest_file import read_columns, read_facts, write_columns
from ophnet_ray.data.manifest_rows import ManifestItem
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.text_column import TextColumn
from ophnet_ray.sampling_config import SamplingConfig

pytestmark = pytest.mark.unit

PHASES = ("0", "2", "3", "5", "11")
LAYOUTS = [(4, 4), (8,), (1,), (3,), (2, 5), (1, 1), (6, 1, 1), (4, 4)]


def make_item(i):
    """A segment of a case whose name is no ASCII; seven segments a video, 26 a shard."""
    split = ("train", "val", "train", "train", "train")[(i // 7) % 5]
    phase = ("3", "0", "11", "2", "5")[(i * i) % 5]
    start = (i % 7) * 20.0
    end = start + 1 + i % 13 * 1.7
    segment_id = f"case{i // 7}:{start:.10g}-{end:.10g}:{phase}"
    case_id, video = f"cäse {i // 7 * 37 % 200}", f"/v/{i // 7}.mp4"
    segment = Segment(segment_id, case_id, video, start, end, phase, split)
    entry = CacheEntry(
        f"{i:032x}", f"/c/{i // 26}.arrow", 584 + i % 26 * 999, LAYOUTS[i % len(LAYOUTS)]
    )
    return ManifestItem(segment, PHASES.index(phase), entry)


def make_manifest(change=lambda i, entry: entry):
    items = [make_item(i) for i in range(997)]
    changed = [replace(item, entry=change(i, item.entry)) for i, item in enumerate(items)]
    return Manifest(PHASES, WindowConfig(image_size=32), tuple(changed))


def through_file(manifest, folder):
    stored = write_columns(folder / "manifest.arrow", ManifestColumns.of_manifest(manifest))
    return read_columns(pa.memory_map(stored.path))


class Worker(ManifestDataModule):
    """Data of one of several workers, without a trainer."""

    def __init__(self, manifest, rank, num_replicas, begun_with=None, **sampling):
        super().__init__(manifest, 8, 42, begun_with, sampling=SamplingConfig(**sampling))
        self._own = rank, num_replicas

    @property
    def _rank(self):
        return self._own[0]

    @property
    def _num_replicas(self):
        return self._own[1]


def digest(steps):
    found = hashlib.sha256()
    for values in itertools.chain.from_iterable((step.windows, step.draws) for step in steps):
        content = np.ascontiguousarray(values).tobytes()
        found.update(content + str((values.dtype, values.shape)).encode())
    return found.hexdigest()[:16]


def read_epochs(sampler):
    """The steps of three epochs, each whole and from its sixth step on."""
    for epoch in (0, 1, 7):
        sampler.set_epoch(epoch)
        yield from sampler.steps(0)
        yield from sampler.steps(5)


@pytest.mark.parametrize(
    ("sampler", "windows_per_segment", "rank", "num_replicas", "begun_with", "expected"),
    [
        ("segment", 1, 0, 1, None, "9560e060c3819858"),
        ("segment", 1, 1, 3, None, "a4e85301b5e8f3b8"),
        ("segment", 3, 0, 2, None, "80420052086bee37"),
        ("segment", 5, 1, 2, 4, "d2726b107343cc60"),
        ("balanced", 1, 0, 1, None, "d726f797426d5f10"),
        ("balanced", 2, 1, 2, None, "f29fd8b7dd4e2038"),
        ("seconds", 1, 0, 1, None, "8f67f843a9259654"),
        ("seconds", 4, 2, 3, None, "47a4431958c302fc"),
    ],
)
def test_training_windows_are_those_of_earlier_versions_whatever_holds_them(
    sampler, windows_per_segment, rank, num_replicas, begun_with, expected, tmp_path
):
    """Digests of commit 51774da, which kept an object per segment: windows and draws."""
    manifest = make_manifest()
    for data in (manifest, through_file(manifest, tmp_path)):
        worker = Worker(
            data,
            rank,
            num_replicas,
            begun_with,
            sampler=sampler,
            windows_per_segment=windows_per_segment,
        )
        assert digest(read_epochs(worker.train_dataloader().sampler)) == expected


@pytest.mark.parametrize(
    ("rank", "num_replicas", "expected"),
    [(1, 3, "9b49daf3340ba81f"), (0, 2, "32670503b31cb978"), (2, 3, "ff80754cc25826d5")],
)
def test_validation_windows_are_those_of_earlier_versions(rank, num_replicas, expected, tmp_path):
    """Digests of the same commit."""
    worker = Worker(through_file(make_manifest(), tmp_path), rank, num_replicas)
    sampler = worker.val_dataloader().sampler
    assert sampler.num_windows == 834
    assert digest(sampler) == expected


@pytest.mark.parametrize("sampler", ["segment", "balanced", "seconds"])
def test_phases_count_as_in_the_rows(sampler, tmp_path):
    manifest = make_manifest()
    expected = manifest.training_counts(sampler).tolist()
    assert sum(expected) > 0
    assert through_file(manifest, tmp_path).training_counts(sampler).tolist() == expected


def some_checksums(i, entry):
    """Two of three shards lie in a bucket; one segment of 50 is older than checksums."""
    source = f"s3://b/{entry.path[3:]}?region=x" if (i // 26) % 3 else ""
    num_blocks = sum(entry.snippet_lengths)
    checksums = b"" if i % 50 == 3 else bytes(j % 256 for j in range(i, i + 4 * num_blocks))
    return replace(entry, source=source, checksums=checksums)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(some_checksums, id="some in a bucket, some without checksums"),
        pytest.param(lambda i, entry: entry, id="none has checksums"),
        pytest.param(lambda i, entry: replace(entry, offset=2**40 + i), id="far into a file"),
    ],
)
def test_a_segment_has_the_entry_of_its_row(change, tmp_path):
    manifest = make_manifest(change)
    columns = through_file(manifest, tmp_path)
    assert columns.phases == manifest.phases
    assert columns.windows == manifest.windows
    for split in ("train", "val", "test"):
        rows, segments = manifest.of_split(split), columns.of_split(split)
        assert columns.count(split) == len(segments) == len(rows)
        assert columns.cases_of(split) == manifest.cases_of(split)
        for i, row in enumerate(rows):
            assert segments.read_entry(i) == replace(row.entry, key="")
            assert segments.labels[i] == row.label
            assert columns.cases_of(split)[segments.cases[i]] == row.segment.case_id
        in_bucket = {(i.entry.path, i.entry.source) for i in rows if i.entry.source}
        assert set(segments.locate_shards(np.arange(len(rows)))) == in_bucket


def test_a_segment_takes_at_most_64_bytes_with_the_checksums_of_its_eight_blocks(tmp_path):
    """With the names of cases and shards; the rest of the file does not grow."""
    items = [
        ManifestItem(
            Segment(f"s{i}", f"case_{i // 20:06d}", "v.mp4", i, i + 1.0, "a", "train"),
            i % 52,
            CacheEntry(
                "k", f"/c/{i // 26:024x}.arrow", i * 9999, (4, 4), checksums=i.to_bytes(4) * 8
            ),
        )
        for i in range(20_000)
    ]
    phases = tuple(map(str, range(52)))
    sizes = []
    for rows in (items, items[:10_000]):
        columns = ManifestColumns.of_manifest(Manifest(phases, WindowConfig(), tuple(rows)))
        stored = write_columns(tmp_path / f"{len(rows)}.arrow", columns)
        sizes.append((tmp_path / f"{len(rows)}.arrow").stat().st_size)
        assert stored.count("train") == len(rows)
    assert (sizes[0] - sizes[1]) / 10_000 <= 64


def test_equal_rows_give_equal_files_and_a_file_in_use_stays(tmp_path):
    columns = ManifestColumns.of_manifest(make_manifest())
    first = write_columns(tmp_path / "a.arrow", columns, {"some": [1.5, "é"]})
    inode = (tmp_path / "a.arrow").stat().st_ino
    again = write_columns(tmp_path / "a.arrow", columns, {"some": [1.5, "é"]})
    assert again == first
    assert (tmp_path / "a.arrow").stat().st_ino == inode
    other = write_columns(tmp_path / "a.arrow", columns, {"some": [2.5]})
    assert other.sha256 != first.sha256
    assert read_facts(pa.memory_map(other.path)) == {"some": [2.5]}


def test_a_file_is_that_of_earlier_versions_to_the_bit(tmp_path):
    """Hash of commit 5afbbf7, which kept an object per entry; the first rows are of validation."""
    manifest = make_manifest(some_checksums)
    manifest = replace(manifest, items=[*manifest.items[7:14], *manifest.items])
    splits = manifest.rows.segments.splits.rename(str)
    other = TextColumn(splits.texts[::-1], len(splits.texts) - 1 - splits.numbers)
    other_rows = replace(manifest.rows, segments=manifest.rows.segments.with_splits(other))
    for same in (manifest, replace(manifest, items=other_rows)):
        stored = write_columns(tmp_path / "a.arrow", ManifestColumns.of_manifest(same))
        assert stored.sha256[:16] == "498959096c346c59"


def test_durations_of_validation_segments_come_through_the_file(tmp_path):
    manifest = make_manifest()
    assert through_file(manifest, tmp_path).of_split("val").durations is None
    durations = np.arange(manifest.count("val")) * 1000 + 1
    columns = through_file(replace(manifest, val_durations=durations), tmp_path)
    assert columns.of_split("val").durations.tolist() == durations.tolist()
    assert columns.of_split("train").durations is None


def test_paths_of_shards_stay_few_when_threads_have_made_too_many(monkeypatch):
    columns = ManifestColumns.of_manifest(make_manifest()).of_split("train")
    shards = [columns.read_entry(i).path for i in range(len(columns))]
    assert len(columns._known_shards) > 16
    monkeypatch.setattr("ophnet_ray.data.segment_columns.MAX_KNOWN_SHARDS", 8)
    columns._known_shards.pop(int(columns.shards[0]))
    assert columns.read_entry(0).path == shards[0]
    assert len(columns._known_shards) <= 8
