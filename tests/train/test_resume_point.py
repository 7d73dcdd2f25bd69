"""The resume point of several workers."""

import pickle
import threading

import pytest
import torch

from ophnet_ray.models.checkpoints import commit_checkpoint, temporary_file
from ophnet_ray.models.payload import PAYLOAD_KEY
from ophnet_ray.train.resume_point import ResumePoint, agree_on_resume_point, find_resume_point

pytestmark = pytest.mark.unit


def write_checkpoint(folder, epoch, step=0, weight=1.0, num_workers=0):
    file = temporary_file(folder, epoch, step)
    file.parent.mkdir(parents=True)
    content = {"state_dict": {"weight": torch.tensor([0.0, weight])}, PAYLOAD_KEY: {}}
    torch.save(content, file)
    return commit_checkpoint(folder, epoch, {"val_loss": 1.0}, step, num_workers=num_workers)


def test_a_new_run_starts_from_nothing(tmp_path):
    assert find_resume_point(tmp_path, 1) == ResumePoint()
    assert agree_on_resume_point(tmp_path, 1, lambda _: None) == ResumePoint()


def test_the_last_checkpoint_inside_the_unfinished_epoch_comes_first(tmp_path):
    whole = write_checkpoint(tmp_path, 0)
    assert find_resume_point(tmp_path, 1).last == whole
    inside = write_checkpoint(tmp_path, 1, step=5)
    point = find_resume_point(tmp_path, 1)
    assert (point.last, point.finished) == (inside, (whole,))


def test_a_worker_takes_the_choice_of_the_first_and_waits_until_it_sees_the_file(tmp_path):
    """Worker 1 sees epoch 0 alone: its listing of the shared folder is a minute old."""
    write_checkpoint(tmp_path, 0)
    newest = write_checkpoint(tmp_path, 1)
    sent = []
    own = agree_on_resume_point(tmp_path, 0, sent.append)
    assert own.last == newest
    assert len(pickle.dumps(sent[0])) < 1000  # Ray's limit
    hidden = tmp_path / "hidden"
    newest.folder.rename(hidden)

    def receive(given):
        assert given is None
        threading.Timer(0.1, hidden.rename, [newest.folder]).start()
        return sent[0]

    taken = agree_on_resume_point(tmp_path, 1, receive).last
    assert (taken.file, taken.epoch) == (newest.file, 1)
    assert newest.file.exists()


def test_a_folder_that_is_not_shared_is_named_with_its_flag(tmp_path):
    write_checkpoint(tmp_path / "here", 0)
    sent = []
    agree_on_resume_point(tmp_path / "here", 0, sent.append)
    with pytest.raises(OSError, match=r"worker 1 does not see .*--storage_path"):
        agree_on_resume_point(tmp_path / "there", 1, lambda _: sent[0], timeout_s=0)


def test_a_checkpoint_inside_an_epoch_serves_the_workers_whose_states_it_holds(tmp_path):
    whole = write_checkpoint(tmp_path, 0)
    inside = write_checkpoint(tmp_path, 1, 5, num_workers=2)
    assert find_resume_point(tmp_path, 2).last == inside
    assert find_resume_point(tmp_path, 1).last == whole


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_checkpoint_with_a_weight_that_is_not_finite_is_moved_away(tmp_path, weight):
    whole = write_checkpoint(tmp_path, 0)
    write_checkpoint(tmp_path, 1, weight=weight)
    write_checkpoint(tmp_path, 1, step=3, weight=weight)
    point = find_resume_point(tmp_path, 1)
    assert (point.last, point.finished) == (whole, (whole,))
    moved = [tmp_path / "damaged" / name for name in ("epoch=0001.1", "epoch=0001-step=000003.1")]
    assert list(point.damaged) == moved
