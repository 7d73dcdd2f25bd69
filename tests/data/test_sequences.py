"""Whole videos as sequences: their order, the shares of workers, and resuming inside an epoch."""

import numpy as np
import pytest

from ophnet_ray.data.samplers import TrainingSampler, ValidationSampler
from ophnet_ray.data.sequence_module import SequenceDataModule
from ophnet_ray.data.sequences import (
    ONE_WINDOW,
    HeldValues,
    LabelledSequence,
    SequenceLoader,
    count_passes,
    measure_sequences,
)

pytestmark = pytest.mark.unit

NUM_VIDEOS = 7


def make_videos(num_videos=NUM_VIDEOS):
    """Video i has i + 2 frames of value i; the last one is not annotated."""
    return [
        LabelledSequence(
            f"video {i}",
            f"case {i // 2}",
            np.array([i % 3] * (i + 1) + [-1]),
            HeldValues(np.full((i + 2, 1), i, dtype=np.float32)),
        )
        for i in range(num_videos)
    ]


def training_loader(rank=0, num_replicas=1, seed=5):
    videos = make_videos()
    ids = [video.sequence_id for video in videos]
    sampler = TrainingSampler(
        ids, [ONE_WINDOW] * len(ids), 1, 1, seed, rank=rank, num_replicas=num_replicas
    )
    return SequenceLoader(videos, sampler)


def order_of(loader):
    return [int(batch["values"][0, 0, 0]) for batch in loader]


def test_each_epoch_takes_every_video_once_in_an_order_of_its_own():
    loader, again = training_loader(), training_loader()
    orders = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        orders.append(order_of(loader))
    again.sampler.set_epoch(2)
    assert order_of(again) == orders[2]
    assert all(sorted(order) == list(range(NUM_VIDEOS)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_an_epoch_takes_few_videos_as_often_as_gives_20_steps():
    data = SequenceDataModule(make_videos(3), [], seed=5)
    order = order_of(data.train_dataloader())
    assert [order.count(video) for video in range(3)] == [7, 7, 7]
    assert order != order[:3] * 7
    # a step is one video per worker
    assert [count_passes(*each) for each in ((1, 1), (20, 1), (20, 4), (300, 4))] == [20, 1, 4, 1]


def test_workers_take_turns_in_the_order_of_one():
    whole = order_of(training_loader())
    first, second = (order_of(training_loader(rank, 2)) for rank in (0, 1))
    # the last of seven is left out, as windows are that fill no step
    assert [first, second] == [whole[0:6:2], whole[1:6:2]]


def test_a_resumed_epoch_goes_on_at_its_position():
    loader, resumed = training_loader(), training_loader()
    whole = order_of(loader)
    iterator = iter(loader)
    seen = [int(next(iterator)["values"][0, 0, 0]) for _ in range(3)]
    resumed.load_state_dict(loader.state_dict())
    assert seen + order_of(resumed) == whole
    assert order_of(resumed) == whole  # the next epoch starts at 0


def test_validation_counts_every_video_once_whatever_the_workers():
    videos = make_videos()
    batches = [
        batch
        for rank in range(2)
        for batch in SequenceLoader(
            videos,
            ValidationSampler([ONE_WINDOW] * len(videos), 1, 1, rank=rank, num_replicas=2),
        )
    ]
    valid = [int(batch["values"][0, 0, 0]) for batch in batches if bool(batch["valid"])]
    assert sorted(valid) == list(range(NUM_VIDEOS))
    assert len(batches) == 8
    cases = {int(b["values"][0, 0, 0]): int(b["case"]) for b in batches if bool(b["valid"])}
    assert cases == {i: i // 2 for i in range(NUM_VIDEOS)}


def test_a_damaged_frame_has_no_label():
    values = np.array([[1.0], [np.nan], [3.0]], dtype=np.float32)
    video = LabelledSequence("v", "c", np.array([0, 0, 1]), HeldValues(values))
    sampler = ValidationSampler([ONE_WINDOW], 1, 1)
    (batch,) = SequenceLoader([video], sampler)
    assert batch["label"].tolist() == [[0, -1, 1]]
    measured = measure_sequences([video], 2)
    assert (measured.mean, measured.deviation) == (2, 1)
    assert measured.counts.tolist() == [1, 1]


def test_frames_of_each_phase_are_counted_without_those_between_segments():
    assert measure_sequences(make_videos(4), 3).counts.tolist() == [1 + 4, 2, 3]
