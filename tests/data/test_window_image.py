"""Pictures of windows: what the cache keeps for each kind, and what training is shown."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import ophnet_ray
from ophnet_ray.config import WindowConfig
from ophnet_ray.data.cache.fill import decode_in_threads, fill_cache
from ophnet_ray.data.cache.inventory import read_inventory
from ophnet_ray.data.cache.store import BlockCache
from ophnet_ray.data.segments import Segment
from ophnet_ray.data.video.decoder import decode_frames, read_video_index
from tests.helpers.fits import quiet_trainer
from tests.helpers.videos import grey_frames, write_video

pytestmark = pytest.mark.unit


def fill(folder, video, **settings):
    """Decode one segment, the first four seconds; return how many videos that took."""
    cache = BlockCache(folder, WindowConfig(image_size=32, **settings))
    segment = Segment("s", "c", str(video), 0.0, 4.0, "a", "train")
    return fill_cache(cache, [segment], 1, decode_in_threads(1)).decoded_videos


def make_dataset(folder, video, end_s, **settings):
    """The start of a video as one segment."""
    rows = pd.DataFrame([{"video_id": video.stem, "start": 0.0, "end": end_s, "phase": "a"}])
    return ophnet_ray.OphNetSurgicalDataset(
        rows,
        {"a": 0},
        video_dir=folder,
        cache_dir=folder / "cache",
        image_size=32,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        **settings,
    )


def show(folder, video, end_s, **settings):
    """The pictures that training picks from the start of a video in its first epochs."""
    dataset = make_dataset(folder, video, end_s, **settings)
    for epoch in range(8):
        dataset.set_epoch(epoch)
        # (3, H, W) in [0, 1] -> (H, W, 3) in [0, 255]
        yield (dataset[0]["image"] * 255).round().byte().permute(1, 2, 0).numpy()


def squares(*columns, brightness=200):
    """A dark frame with bright squares at these columns."""
    frame = np.full((32, 32, 3), 20, dtype=np.uint8)
    for column in columns:
        frame[8:16, column : column + 8] = brightness
    return frame


@pytest.fixture
def noise(tmp_path):
    """Frames of their own size in the cache, no two alike."""
    frames = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)
    return write_video(tmp_path / "noise.mp4", frames)


@pytest.fixture
def grey(tmp_path):
    return write_video(tmp_path / "grey.mp4", grey_frames(60))


def test_the_centre_of_a_window_is_the_decoded_frame_itself(tmp_path, noise):
    index = read_video_index(str(noise))
    decoded = {f.index: f.pixels for f in decode_frames(str(noise), index, np.arange(60))}
    shown = list(show(tmp_path, noise, 6.0, window_image="center"))
    # windows of 16 frames begin every 8 frames, and 56 of the 60 are whole blocks from frame 2 on
    middles = [2 + first + 8 for first in range(0, 41, 8)]
    found = [[i for i in middles if np.array_equal(decoded[i], image)] for image in shown]
    assert all(len(frames) == 1 for frames in found)
    assert len({frames[0] for frames in found}) > 1, "else epochs show one window"


@pytest.mark.parametrize(
    ("num_frames", "window_size", "frame"),
    [
        pytest.param(16, 16, 8, id="two blocks"),
        pytest.param(32, 32, 16, id="four blocks"),
        pytest.param(24, 24, 8, id="the first frame of the middle one of three blocks"),
        pytest.param(8, 8, 0, id="one block"),
        pytest.param(8, 16, 0, id="a segment of one block, shorter than a window"),
        pytest.param(5, 16, 2, id="a segment shorter than a block"),
    ],
)
def test_the_centre_lies_at_or_just_before_the_middle(
    tmp_path, grey, num_frames, window_size, frame
):
    """Frame k is grey 2k."""
    end_s = num_frames / 10
    shown = show(tmp_path, grey, end_s, window_image="center", window_size=window_size)
    assert next(shown).mean() == pytest.approx(2 * frame, abs=1.5)


def test_each_kind_is_decoded_once_and_leaves_the_other_as_it_is(tmp_path, noise):
    cache = tmp_path / "cache"
    assert fill(cache, noise) == 1
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.suffix}
    assert fill(cache, noise, window_image="center") == 1
    assert {path: path.read_bytes() for path in before} == before
    for window_size in (8, 16, 32):
        assert fill(cache, noise, window_size=window_size) == 0
        assert fill(cache, noise, window_size=window_size, window_image="center") == 0
    sizes = [shard.size_bytes for shard in read_inventory(cache).shards]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_the_index_of_means_is_that_of_earlier_versions(tmp_path, noise):
    assert fill(tmp_path / "cache", noise) == 1
    (index,) = (tmp_path / "cache").rglob("[!.]*.json")
    settings = json.loads(index.read_text())["windows"]
    assert set(settings) == {"window_size", "stride", "max_frames", "coverage", "image_size"}


def test_means_and_frames_are_equal_where_a_block_is_one_frame(tmp_path, noise):
    settings = {"window_size": 1, "stride": 1, "max_frames": 8}
    means = show(tmp_path, noise, 2.0, **settings)
    frames = show(tmp_path, noise, 2.0, window_image="center", **settings)
    for mean, frame in zip(means, frames, strict=True):
        np.testing.assert_array_equal(mean, frame)


def test_motion_costs_no_decoding_beside_means(tmp_path, noise):
    assert fill(tmp_path / "cache", noise, window_image="mean+motion") == 1
    assert fill(tmp_path / "cache", noise) == 0
    assert len(read_inventory(tmp_path / "cache").shards) == 1


def test_motion_is_where_something_moved(tmp_path):
    """A square at the left in the first block, and at the right in the second one."""
    video = write_video(tmp_path / "v.mp4", [squares(0)] * 8 + [squares(24)] * 8, qp="0")
    item = make_dataset(tmp_path, video, 1.6, window_image="mean+motion")[0]
    image, (red, green, motion) = item["image"], item["mask"]
    torch.testing.assert_close(torch.stack([red, green]), image[:2])
    moved = (squares(0, 24) > 100)[..., 0]
    np.testing.assert_allclose(motion[moved].numpy(), 180 / 255, atol=3 / 255)
    assert motion[~moved].max() <= 2 / 255
    alone = make_dataset(tmp_path, video, 1.6, window_image="mean+motion", mask="none")[0]
    assert torch.equal(alone["mask"], motion[None])


def test_a_still_video_has_no_motion(tmp_path, noise):
    frame = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    video = write_video(tmp_path / "v.mp4", [frame] * 16, qp="0")
    assert make_dataset(tmp_path, video, 1.6, window_image="mean+motion")[0]["mask"][2].max() == 0
    # nor has a segment of one block, whatever moves in it
    assert make_dataset(tmp_path, noise, 0.8, window_image="mean+motion")[0]["mask"][2].max() == 0


def test_the_mean_beside_motion_is_the_mean(tmp_path, noise):
    for settings in ({}, {"window_size": 32}):
        both = make_dataset(tmp_path, noise, 6.0, window_image="mean+motion", **settings)[0]
        mean = make_dataset(tmp_path, noise, 6.0, **settings)[0]
        assert torch.equal(both["image"], mean["image"])
        assert torch.equal(both["mask"][:2], mean["mask"])
        assert both["mask"][2].min() > 0


def test_phases_that_differ_by_motion_alone_are_told_apart(tmp_path):
    """A square that moves once, and one that is to and fro in each block: equal means."""
    rows = []
    for case in range(6):
        here, there = (squares(column, brightness=180 + 4 * case) for column in (0, 24))
        orders = {"moves": [here] * 8 + [there] * 8, "stays": ([here] * 4 + [there] * 4) * 2}
        for phase, frames in orders.items():
            write_video(tmp_path / f"{phase}{case}.mp4", frames, qp="0")
            split = "train" if case < 4 else "val"
            rows.append(f"{phase}{case},0,1.6,{phase},{split}")
    table = tmp_path / "segments.csv"
    table.write_text("\n".join(["video_id,start,end,phase,split", *rows]) + "\n")
    data = ophnet_ray.OphNetDataModule(
        table,
        batch_size=4,
        image_size=32,
        cache_dir=tmp_path / "cache",
        window_image="mean+motion",
    )
    torch.manual_seed(0)
    model = ophnet_ray.SurgicalPhaseClassificationModel(
        2, "test_resnet", False, 32, window_image="mean+motion"
    )
    module = ophnet_ray.SurgicalPhaseModule(2, lr=5e-3, model=model, lr_schedule="one_cycle")
    trainer = quiet_trainer(tmp_path, max_epochs=15)
    trainer.fit(module, data)
    assert module.epoch_metrics["val_acc"] == 1.0
    (batch,) = data.val_dataloader()
    moves, stays = batch["pixels"][:2, :3]
    assert torch.equal(moves, stays), "else colours tell the phases apart, too"
