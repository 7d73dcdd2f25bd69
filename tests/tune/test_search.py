"""The score by which the trials of a search are compared."""

import pytest

from ophnet_ray.config import Config
from ophnet_ray.errors import UserError
from ophnet_ray.train.run import Run
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.search import Search
from ophnet_ray.tune.space import parse_search_space
from tests.helpers.searches import write_trial

pytestmark = pytest.mark.unit


def metric_of(folder, *items, **settings):
    space = parse_search_space(items, Config())
    directory = SearchDirectory(folder)
    run = Run(Config(), directory.run, None, None)
    return Search(TuneConfig().replace_flat(**settings), space, 1, 1, directory, run).metric


def test_trials_that_cut_other_windows_are_compared_by_segments(tmp_path):
    assert metric_of(tmp_path, "lr=choice(0.1,0.2)") == "val_macro_f1"
    assert metric_of(tmp_path, "window_size=choice(8,16)") == "val_segment_macro_f1"
    assert metric_of(tmp_path, "window_size=choice(8,16)", metric="val_acc") == "val_segment_acc"
    by_time = metric_of(tmp_path, "window_size=choice(8,16)", metric="val_frame_acc")
    assert by_time == "val_frame_acc"


def test_a_search_by_a_score_of_frames_chooses_its_epochs_by_it_and_by_no_other():
    config = TuneConfig().replace_flat(metric="val_frame_acc")
    assert config.base().training.checkpoint_metric == "val_frame_acc"
    assert TuneConfig().base() == Config()
    both = config.replace_flat(checkpoint_metric="val_acc")
    with pytest.raises(UserError, match="--checkpoint_metric val_acc: leave it out"):
        both.validate()


def test_a_search_that_is_older_than_scores_of_segments_keeps_those_of_windows(tmp_path):
    write_trial(SearchDirectory(tmp_path), 0, [15, 16])
    assert metric_of(tmp_path, "window_size=choice(8,16)") == "val_macro_f1"
