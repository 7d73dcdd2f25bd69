"""The order of trials, their intervals and ties, and the choice of the winner; no Ray."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from ophnet_ray.errors import UserError
from ophnet_ray.metrics.bootstrap import Interval
from ophnet_ray.train.epoch_counts import EpochCounts
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.ranking import (
    MAX_FINALISTS,
    choose_finalists,
    choose_winner,
    compare_with,
    f1_by_phase,
    format_table,
    rank_trials,
)
from ophnet_ray.tune.trial import Trial, best_record
from ophnet_ray.tune.trial_counts import select_counts
from tests.helpers.searches import epoch_record, write_trial

pytestmark = pytest.mark.unit

GOOD = np.array([14, 15, 16, 17, 18, 14, 15, 16, 17, 18, 16, 16])
LUCK = np.array([2, -2, 3, -3, 1, -1, 2, -2, 0, 0, 2, -1])


@pytest.fixture
def search(tmp_path):
    """Write five trials: 0 and 2 alike but for luck, 1 worse in every case, 3 stopped, 4 torn."""
    folder = SearchDirectory(tmp_path)
    write_trial(folder, 0, GOOD)
    write_trial(folder, 1, GOOD - 4)
    write_trial(folder, 2, GOOD + LUCK)
    write_trial(folder, 3, np.full(len(GOOD), 20), "stopped", epochs=1)
    write_trial(folder, 4, GOOD, "unfinished")
    return folder


def test_trials_within_the_noise_are_tied_and_those_behind_are_not(search):
    ranked = rank_trials(search.trials(), "val_macro_f1")
    assert [row.trial.number for row in ranked] == [2, 0, 1, 3, 4]
    assert [row.is_tied for row in ranked[:3]] == [False, True, False]
    assert all(row.interval.low <= row.score <= row.interval.high for row in ranked[:3])
    assert ranked[2].gain.low > 0


def test_a_stopped_trial_is_ranked_but_cannot_win(search):
    ranked = rank_trials(search.trials(), "val_macro_f1")
    stopped = next(row for row in ranked if row.trial.state == "stopped")
    assert len(stopped.trial.history) == 1, "an epoch after the decision does not count"
    assert choose_winner(ranked, [], "val_macro_f1").trial.number == 2
    assert choose_winner([stopped], [], "val_macro_f1") is None


def test_other_seeds_decide_between_finalists(search, tmp_path):
    ranked = rank_trials(search.trials(), "val_macro_f1")

    def repeat(number, f1):
        run = search.trial_run(number, 43)
        return Trial(number, {}, "finished", (epoch_record(0, f1),), run, seed=43)

    repeats = [repeat(0, 0.9), repeat(2, 0.8)]
    assert choose_winner(ranked, repeats, "val_macro_f1").trial.number == 0
    assert choose_winner(ranked, [repeat(1, 0.99)], "val_macro_f1").trial.number == 2


def test_only_seeds_that_all_finalists_have_decide(search):
    """A finalist with one lucky repeat does not beat one that was repeated three times."""
    ranked = rank_trials(search.trials(), "val_macro_f1")

    def repeat(number, seed, f1):
        run = search.trial_run(number, seed)
        return Trial(number, {}, "finished", (epoch_record(0, f1),), run, seed=seed)

    lucky = [repeat(0, 43, 0.88)]
    steady = [repeat(2, 43, 0.9), repeat(2, 44, 0.8), repeat(2, 45, 0.8)]
    assert choose_winner(ranked, [*lucky, *steady], "val_macro_f1").trial.number == 2
    apart = [repeat(0, 46, 0.99), repeat(2, 43, 0.5)]
    assert choose_winner(ranked, apart, "val_macro_f1").trial.number == 2, "the first, as without"


def test_a_repeat_that_diverges_counts_as_the_lowest_score(search):
    ranked = rank_trials(search.trials(), "val_macro_f1")
    run = search.trial_run(2, 43)
    diverged = Trial(2, {}, "diverged", (epoch_record(0, 0.99),), run, seed=43)
    sound = Trial(0, {}, "finished", (epoch_record(0, 0.5),), search.trial_run(0, 43), seed=43)
    assert choose_winner(ranked, [diverged, sound], "val_macro_f1").trial.number == 0


def test_ties_are_those_of_the_winner(search):
    """Trial 0 wins by its repeats: the ranking's first is tied with it, and it not with itself."""
    ranked = rank_trials(search.trials(), "val_macro_f1")
    winner = ranked[1]
    compared = compare_with(ranked, winner, "val_macro_f1")
    assert [row.trial.number for row in compared] == [2, 0, 1, 3, 4]
    assert [row.is_tied for row in compared] == [True, False, False, False, False]
    assert compared[0].gain.low < 0 < compared[0].gain.high
    assert compared[1].gain is None


def test_a_difference_of_nothing_has_an_interval_around_nothing(tmp_path):
    search = SearchDirectory(tmp_path)
    write_trial(search, 0, GOOD)
    write_trial(search, 1, GOOD)
    first, second = rank_trials(search.trials(), "val_macro_f1")
    assert first.trial.number == 0, "equal scores: the earlier trial is first"
    assert second.gain == Interval(0.0, 0.0)
    assert second.is_tied


def test_trials_that_cut_other_windows_are_compared_by_segments(tmp_path):
    """Twice the windows of one phase change the score of windows, and not that of segments."""
    search = SearchDirectory(tmp_path)
    segments = np.array([[[3.0, 1.0], [2.0, 2.0]]] * 3)
    for number, windows_per_segment in enumerate(([[4], [4]], [[4], [8]])):
        counts = (segments * windows_per_segment).astype(np.int64)
        write_trial(search, number, [0], counts=counts, segments=segments)
    by_windows = rank_trials(search.trials(), "val_macro_f1")
    assert by_windows[0].score > by_windows[1].score
    by_segments = rank_trials(search.trials(), "val_segment_macro_f1")
    assert by_segments[0].score == by_segments[1].score
    assert by_segments[1].gain == Interval(0.0, 0.0)


def test_trials_that_lost_another_case_each_are_not_paired(tmp_path):
    """Equal numbers of cases, but not the same ones: long windows lost a, short ones e."""
    search = SearchDirectory(tmp_path)
    write_trial(search, 0, GOOD[:4], cases="abcd")
    write_trial(search, 1, GOOD[:4], cases="bcde")
    write_trial(search, 2, GOOD[:4], cases="abcd")
    ranked = rank_trials(search.trials(), "val_macro_f1")
    assert [row.trial.number for row in ranked] == [0, 1, 2]
    assert [row.gain for row in ranked] == [None, None, Interval(0.0, 0.0)]
    assert [row.is_tied for row in ranked] == [False, False, True]


def test_a_single_validation_case_gives_no_interval_and_no_tie(tmp_path):
    search = SearchDirectory(tmp_path)
    write_trial(search, 0, GOOD[:1])
    write_trial(search, 1, GOOD[:1])
    ranked = rank_trials(search.trials(), "val_macro_f1")
    assert [row.interval for row in ranked] == [None, None]
    assert not any(row.is_tied for row in ranked)


def test_finalists_are_the_first_trial_and_its_ties_but_few(search):
    ranked = rank_trials(search.trials(), "val_macro_f1")
    assert [row.trial.number for row in choose_finalists(ranked)] == [2, 0]
    for number in (5, 6, 7):
        write_trial(search, number, GOOD + LUCK)
    ranked = rank_trials(search.trials(), "val_macro_f1")
    assert len(choose_finalists(ranked)) == MAX_FINALISTS


def test_f1_of_a_phase_counts_the_windows_of_all_cases(search):
    ranked = rank_trials(search.trials(), "val_macro_f1")
    scores = f1_by_phase(ranked[1], ["a", "b"])
    right = GOOD.sum() / (20 * len(GOOD))
    assert scores == {"a": pytest.approx(right), "b": pytest.approx(right)}
    assert f1_by_phase(ranked[-1], ["a", "b"]) is None


def test_the_table_has_one_row_per_trial_in_the_order_of_the_ranking(search):
    ranked = rank_trials(search.trials(), "val_macro_f1")
    table = format_table(ranked, "val_macro_f1", ["lr"]).decode().splitlines()
    rows = list(csv.DictReader(table))
    assert [row["trial"] for row in rows] == ["2", "0", "1", "3", "4"]
    assert [row["tied"] for row in rows] == ["", "yes", "", "", ""]
    assert [row["state"] for row in rows[2:]] == ["finished", "stopped", "unfinished"]
    assert [row["epochs"] for row in rows] == ["2", "2", "2", "1", "2"]
    assert float(rows[0]["val_macro_f1"]) == ranked[0].score
    assert float(rows[0]["lr"]) == pytest.approx(0.003)
    assert rows[3]["low"] == ""


def test_a_score_of_frames_is_that_of_the_milliseconds_of_the_epoch_it_chose(tmp_path):
    run, windows = RunDirectory(tmp_path / "trial_0003"), np.ones((2, 2, 2), dtype=np.int64)
    milliseconds = np.full((2, 2, 2), 1500.0)
    counts = EpochCounts(("a", "b"), windows, windows.astype(float), milliseconds)
    assert select_counts(counts, "val_frame_macro_f1", run) is milliseconds
    assert select_counts(counts, "val_macro_f1", run) is windows
    temporal = EpochCounts(("a", "b"), windows)
    assert select_counts(temporal, "val_frame_acc", run) is windows
    # counts of another unit would rank the trial by another score
    with pytest.raises(UserError, match=r"trial_0003: no counts of the unit of val_segment_acc"):
        select_counts(temporal, "val_segment_acc", run)
    with pytest.raises(UserError, match=r"of val_frame_acc; .* delete this folder"):
        select_counts(replace(counts, milliseconds=None), "val_frame_acc", run)
    early = epoch_record(0, 0.9) | {"epoch_score": 0.5}
    late = epoch_record(1, 0.6) | {"epoch_score": 0.7}
    assert best_record([early, late]) is late
