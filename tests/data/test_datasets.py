"""The public classes of the seed, over the same cache, without Ray."""

import threading
from collections import Counter
from pathlib import Path

import lightning as L  # noqa: N812
import numpy as np
import pandas as pd
import pytest
import torch

import ophnet_ray
from ophnet_ray.data import loader as loading
from ophnet_ray.data.annotations import read_annotations
from ophnet_ray.data.cache.block_reader import read_blocks
from ophnet_ray.data.cache.inventory import read_inventory
from ophnet_ray.errors import UserError
from tests.helpers.fits import quiet_trainer
from tests.helpers.videos import write_color_dataset

pytestmark = pytest.mark.unit

PHASES = {"blue": 0, "green": 1, "red": 2}


@pytest.fixture
def table(color_csv):
    return pd.read_csv(color_csv)


def make_dataset(table, color_csv, tmp_path, **options):
    return ophnet_ray.OphNetSurgicalDataset(
        table,
        PHASES,
        video_dir=color_csv.parent,
        image_size=32,
        cache_dir=tmp_path / "cache",
        **options,
    )


def test_an_item_is_an_image_its_masks_and_a_one_hot_label(table, color_csv, tmp_path):
    dataset = make_dataset(table, color_csv, tmp_path, mean=(0, 0, 0), std=(1, 1, 1))
    assert len(dataset) == 18
    item = dataset[0]
    assert item["label"].tolist() == [0, 0, 1]
    assert item["image"].shape == (3, 32, 32)
    assert (item["image"].mean((1, 2)) * 255).tolist() == pytest.approx([200, 40, 30], abs=6)
    torch.testing.assert_close(item["mask"], item["image"][:2])


def test_the_window_of_an_item_is_a_function_of_seed_epoch_and_segment(table, color_csv, tmp_path):
    dataset = make_dataset(table, color_csv, tmp_path)
    first = [dataset[i]["image"] for i in range(len(dataset))]
    again = make_dataset(table, color_csv, tmp_path)
    assert all(torch.equal(a, again[i]["image"]) for i, a in enumerate(first))
    again.set_epoch(1)
    assert not all(torch.equal(a, again[i]["image"]) for i, a in enumerate(first))


def test_training_and_the_data_set_give_the_same_pixels(table, color_csv, tmp_path):
    """For the same (seed, epoch, segment); with one block per window, segments have several."""
    options = {"window_size": 8, "seed": 5}
    dataset = make_dataset(table, color_csv, tmp_path, mean=(0, 0, 0), std=(1, 1, 1), **options)
    module = ophnet_ray.OphNetDataModule(
        color_csv, PHASES, batch_size=1, image_size=32, cache_dir=tmp_path / "cache", **options
    )
    module.setup()
    rows = {segment.segment_id: i for i, segment in enumerate(read_annotations(color_csv))}
    items = module.manifest.of_split("train")
    assert min(sum(item.entry.snippet_lengths) for item in items) > 1, "else there is no choice"
    loader = module.train_dataloader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        dataset.set_epoch(epoch)
        for step, batch in zip(loader.sampler, loader, strict=True):
            (index,) = step.windows[:, 0]
            ours = dataset[rows[items[index].segment.segment_id]]["image"]
            torch.testing.assert_close(ours, batch["pixels"][0] / 255)


def test_what_cannot_be_read_is_left_out_and_listed(table, color_csv, tmp_path):
    late = pd.DataFrame([{"video_id": "v0", "start": 100, "end": 101, "phase": "red"}])
    dataset = make_dataset(pd.concat([table, late]), color_csv, tmp_path)
    assert len(dataset) == 18
    assert [r.reason for r in dataset.rejects] == ["starts at 100 s; the video ends at 8.90 s"]


@pytest.mark.parametrize("labels", [{"red": 5, "green": 7, "blue": 9}, {"red": 0, "green": 0}])
def test_labels_that_are_not_0_to_k_are_refused(table, color_csv, labels):
    with pytest.raises(UserError, match="the labels must be 0 to K-1"):
        ophnet_ray.OphNetSurgicalDataset(table, labels, video_dir=color_csv.parent)


def test_an_unknown_phase_is_refused(table, color_csv, tmp_path):
    with pytest.raises(UserError, match="without a label in phase2idx: red"):
        ophnet_ray.OphNetSurgicalDataset(table, {"blue": 0, "green": 1}, video_dir=color_csv.parent)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [({"image_size": 100}, "not a multiple of 32"), ({"stride": 300}, "must be 1 to 256")],
)
def test_windows_that_cannot_be_used_are_refused(table, color_csv, setting, reason):
    with pytest.raises(UserError, match=reason):
        ophnet_ray.OphNetSurgicalDataset(table, PHASES, video_dir=color_csv.parent, **setting)


def test_the_data_module_trains_the_module_outside_ray(color_csv, tmp_path):
    data = ophnet_ray.OphNetDataModule(
        color_csv, PHASES, batch_size=4, image_size=32, cache_dir=tmp_path / "cache"
    )
    torch.manual_seed(0)
    model = ophnet_ray.SurgicalPhaseClassificationModel(3, "test_resnet", False, 32)
    module = ophnet_ray.SurgicalPhaseModule(3, lr=2e-3, model=model, lr_schedule="one_cycle")
    trainer = quiet_trainer(tmp_path, max_epochs=20)
    trainer.fit(module, data)
    val_cases = {item.segment.case_id for item in data.manifest.of_split("val")}
    train_cases = {item.segment.case_id for item in data.manifest.of_split("train")}
    assert val_cases
    assert not val_cases & train_cases
    assert module.epoch_metrics["val_acc"] == 1.0
    assert module.confusion_by_case.sum() == data.val_dataloader().sampler.num_windows
    assert module.segments_by_case.sum() == pytest.approx(len(data.manifest.of_split("val")))


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"sampler": "random"}, "choose from segment, balanced, seconds"),
        ({"windows_per_segment": 0}, "must be at least 1"),
        ({"shuffle": "shards"}, "choose from global, shard"),
        ({"shuffle_shards": 0}, "must be at least 1"),
        ({"batch_size": 0}, "--batch_size 0: must be at least 1"),
        ({"num_workers": 0}, "--num_workers 0: must be at least 1"),
        ({"stride": 300}, "must be 1 to 256"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_once(color_csv, setting, reason):
    with pytest.raises(UserError, match=reason):
        ophnet_ray.OphNetDataModule(color_csv, PHASES, **setting)


def test_the_share_of_validation_is_refused_only_where_a_split_is_drawn(
    color_csv, color_cache, tmp_path
):
    header, *rows = color_csv.read_text().split()
    splits = {row: "val" if number == 0 else "train" for number, row in enumerate(rows)}
    marked = tmp_path / "marked.csv"
    marked.write_text("\n".join([f"{header},split", *(f"{row},{splits[row]}" for row in rows)]))

    def set_up(csv):
        data = ophnet_ray.OphNetDataModule(
            csv, video_dir=color_csv.parent, val_fraction=0.0, image_size=32, cache_dir=color_cache
        )
        data.setup()
        return data

    assert len(set_up(marked).manifest.of_split("val")) == 1
    with pytest.raises(UserError, match=r"^val_fraction 0\.0: must be between 0 and 1"):
        set_up(color_csv)


class CountLabels(L.Callback):
    """The labels of each epoch's batches, and the optimiser steps of the whole fit."""

    def __init__(self):
        self.epochs = []

    def on_train_start(self, trainer, pl_module):
        self.num_steps = trainer.estimated_stepping_batches

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append([])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.epochs[-1] += batch["label"].tolist()


def test_a_balanced_fit_takes_as_many_windows_of_each_phase(color_csv, color_cache, tmp_path):
    """Of red a single segment is left, which gives a third of the windows."""
    header, *rows = color_csv.read_text().split()
    red = [row for row in rows if row.endswith(",red")]
    kept = [row for row in rows if row not in red[1:]]
    csv_path = tmp_path / "rare.csv"
    csv_path.write_text("\n".join([f"{header},split", *(f"{row},train" for row in kept)]))
    data = ophnet_ray.OphNetDataModule(
        csv_path,
        PHASES,
        batch_size=2,
        image_size=32,
        video_dir=color_csv.parent,
        cache_dir=color_cache,
        sampler="balanced",
        windows_per_segment=2,
    )
    counter = CountLabels()
    model = ophnet_ray.SurgicalPhaseClassificationModel(3, "test_resnet", False, 32)
    trainer = quiet_trainer(tmp_path, max_epochs=2, callbacks=[counter], limit_val_batches=0)
    trainer.fit(ophnet_ray.SurgicalPhaseModule(3, model=model), data)
    num_windows = 2 * len(data.manifest.of_split("train"))
    assert data.manifest.label_counts("train")[PHASES["red"]] == 1
    for labels in counter.epochs:
        by_phase = Counter(labels).values()
        assert sum(by_phase) == num_windows
        assert max(by_phase) - min(by_phase) <= 1
    assert counter.num_steps == trainer.global_step == 2 * num_windows // 2


def test_the_loader_gives_bytes_in_the_samplers_order(color_csv, tmp_path):
    data = ophnet_ray.OphNetDataModule(
        color_csv, batch_size=5, image_size=32, cache_dir=tmp_path / "cache"
    )
    data.setup()
    loader = data.train_dataloader()
    items = data.manifest.of_split("train")
    for step, batch in zip(loader.sampler, loader, strict=True):
        assert batch["pixels"].dtype == torch.uint8
        assert batch["pixels"].shape[1:] == (3, 32, 32)
        expected = [items[segment].label for segment in step.windows[:, 0]]
        assert batch["label"].tolist() == expected
        brightest = batch["pixels"].float().mean((2, 3)).argmax(1)
        names = [items[segment].segment.phase for segment in step.windows[:, 0]]
        assert [["red", "green", "blue"][i] for i in brightest] == names


def test_the_loader_goes_on_from_a_position_inside_the_epoch(color_csv, tmp_path):
    data = ophnet_ray.OphNetDataModule(
        color_csv, batch_size=2, image_size=32, cache_dir=tmp_path / "cache"
    )
    data.setup()
    loader = data.train_dataloader()
    whole = list(loader)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    position = loader.state_dict()
    resumed = data.train_dataloader()
    resumed.load_state_dict(position)
    rest = list(resumed)
    assert len(rest) == len(whole) - 3
    for ours, theirs in zip(rest, whole[3:], strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert len(list(resumed)) == len(whole), "the next epoch is a whole one"


def test_the_test_split_is_not_decoded_for_training(color_csv, tmp_path):
    header, *rows = color_csv.read_text().split()
    marked = [f"{row},{'test' if row.startswith('v5,') else 'train'}" for row in rows]
    csv_path = tmp_path / "marked.csv"
    csv_path.write_text("\n".join([f"{header},split", *marked]))
    data = ophnet_ray.OphNetDataModule(
        csv_path, image_size=32, video_dir=color_csv.parent, cache_dir=tmp_path / "cache"
    )
    data.setup()
    assert {item.segment.split for item in data.manifest.items} == {"train", "val"}
    shards = read_inventory(tmp_path / "cache").shards
    decoded = {Path(video).stem for shard in shards for video in shard.index.videos}
    assert decoded == {"v0", "v1", "v2", "v3", "v4"}


def test_a_bit_that_flipped_on_disk_stops_the_first_epoch(color_csv, tmp_path):
    data = ophnet_ray.OphNetDataModule(
        color_csv, batch_size=2, image_size=32, window_size=8, cache_dir=tmp_path / "cache"
    )
    data.setup()
    loader = data.train_dataloader()
    assert len(list(loader)) == len(loader)
    entry = data.manifest.of_split("train")[0].entry
    shard = Path(entry.path)
    content = bytearray(shard.read_bytes())
    for block in range(sum(entry.snippet_lengths)):
        content[entry.offset + block * 32 * 32 * 3 + 5] ^= 8
    shard.write_bytes(content)
    with pytest.raises(
        OSError, match=rf"{shard.name} is damaged: .* the next run decodes it again"
    ):
        list(data.train_dataloader())
    shard.unlink()
    again = ophnet_ray.OphNetDataModule(
        color_csv, batch_size=2, image_size=32, window_size=8, cache_dir=tmp_path / "cache"
    )
    again.setup()
    assert len(list(again.train_dataloader())) == len(loader)


def test_slow_storage_is_read_by_more_threads_from_the_next_epoch_on(
    color_csv, tmp_path, monkeypatch
):
    data = ophnet_ray.OphNetDataModule(
        color_csv, batch_size=1, image_size=32, cache_dir=tmp_path / "cache"
    )
    data.setup()
    fast = list(data.train_dataloader())
    loader = data.train_dataloader()
    never = threading.Event()
    readers = set()

    def read_slowly(*args):
        readers.add(threading.current_thread().name)
        never.wait(0.05)
        return read_blocks(*args)

    monkeypatch.setattr(loading, "read_blocks", read_slowly)
    num_readers = []
    for _ in range(4):
        readers.clear()
        slow = list(loader)
        num_readers.append(len(readers))
    assert num_readers[0] == 1
    assert min(num_readers[1:]) >= 2
    for ours, theirs in zip(slow, fast, strict=True):
        assert torch.equal(ours["pixels"], theirs["pixels"])


def test_rows_of_the_seeds_clip_table_make_a_dataset(tmp_path):
    csv_path = write_color_dataset(tmp_path / "clips", num_cases=1, columns="clips")
    segments = read_annotations(csv_path)
    assert {segment.case_id for segment in segments} == {"case0"}
    dataset = ophnet_ray.OphNetSurgicalDataset(
        pd.read_csv(csv_path),
        PHASES,
        video_dir=csv_path.parent,
        image_size=32,
        cache_dir=tmp_path / "cache",
    )
    assert np.asarray([dataset[i]["label"].argmax() for i in range(3)]).tolist() == [2, 1, 0]
