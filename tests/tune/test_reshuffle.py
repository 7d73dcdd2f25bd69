"""Holdouts of ``--reshuffle``: whole cases, other ones for each trial, the same after a kill."""

from dataclasses import replace

import pytest

from ophnet_ray.data.segment_table import as_table
from ophnet_ray.data.segments import Segment
from ophnet_ray.errors import UserError
from ophnet_ray.hashing import hash_holdout
from ophnet_ray.tune.config import TuneConfig
from ophnet_ray.tune.directory import SearchDirectory, search_identity
from ophnet_ray.tune.gain import measure_gain
from ophnet_ray.tune.ranking import choose_winner, rank_trials
from ophnet_ray.tune.reshuffle import Reshuffle
from ophnet_ray.tune.space import parse_search_space
from tests.helpers.searches import write_trial

pytestmark = pytest.mark.unit

PHASES = ("a", "b", "c")


def make_rows(num_cases=10):
    """Return three phases of each case; the CSV holds out the last two."""
    return tuple(
        Segment(
            segment_id=f"{case}-{phase}",
            case_id=f"case{case}",
            video=f"v{case}.mp4",
            start_s=float(start),
            end_s=start + 1.0,
            phase=phase,
            split="val" if case >= num_cases - 2 else "train",
        )
        for case in range(num_cases)
        for start, phase in enumerate(PHASES)
    )


def make_reshuffle(rows, seed=42, same_videos=()):
    return Reshuffle(as_table(rows), 0.2, seed, same_videos, {})


def held_out(reshuffle, number):
    return {row.case_id for row in reshuffle.split_rows(number) if row.split == "val"}


def test_each_trial_holds_out_whole_cases_of_its_own():
    reshuffle = make_reshuffle(make_rows())
    holdouts = [held_out(reshuffle, number) for number in range(12)]
    assert holdouts[0] == {"case8", "case9"}  # the split of train.py
    assert all(len(cases) == 2 for cases in holdouts)
    assert len({frozenset(cases) for cases in holdouts}) > 6
    sides = {(row.case_id, row.split) for row in reshuffle.split_rows(3)}
    assert len(sides) == 10


def test_a_holdout_follows_from_seed_and_trial_alone():
    rows = make_rows()
    one, again = make_reshuffle(rows), make_reshuffle(rows[::-1])
    assert [held_out(one, n) for n in range(8)] == [held_out(again, n) for n in range(8)]
    other = make_reshuffle(rows, seed=7)
    assert [held_out(one, n) for n in range(1, 8)] != [held_out(other, n) for n in range(1, 8)]
    assert len({hash_holdout("data", number) for number in range(8)}) == 8


def test_cases_that_share_a_video_are_held_out_together():
    reshuffle = make_reshuffle(make_rows(), same_videos=(("v1.mp4", "v2.mp4"),))
    for number in range(1, 12):
        assert len({"case1", "case2"} & held_out(reshuffle, number)) != 1


def test_no_gain_is_stated_where_trials_have_no_cases_in_common(tmp_path):
    search = SearchDirectory(tmp_path)
    write_trial(search, 0, [12, 12, 12, 12], cases="abcd")
    write_trial(search, 1, [20, 20, 20, 20], cases="abcd")
    ranked = rank_trials(search.trials(), "val_macro_f1")
    winner = choose_winner(ranked, (), "val_macro_f1")
    gain = measure_gain(ranked, (), winner, {"lr": 0.001}, "val_macro_f1", is_reshuffled=True)
    assert (gain.lead, gain.estimate, gain.optimism) == (None, None, None)
    assert "no gain over the settings as given is stated" in str(gain)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"folds": 5, "fold": 2}, "--reshuffle: not with --fold 2, which trial 0 alone"),
        ({"scheduler": "wilcoxon"}, "--reshuffle: --scheduler wilcoxon needs trials with the"),
        ({"repeats": 2}, "--reshuffle: --repeats 2 needs finalists with the same cases"),
    ],
)
def test_what_compares_trials_case_by_case_is_refused(settings, says):
    with pytest.raises(UserError, match=says):
        TuneConfig().replace_flat(reshuffle=True, **settings).validate()


def test_a_search_with_other_holdouts_is_another_search_and_old_ones_go_on():
    config = TuneConfig()
    space = parse_search_space(config.search.search, config.base())
    given = search_identity(config, space, "data")
    assert "reshuffle" not in given
    other = replace(config, search=replace(config.search, reshuffle=True))
    assert search_identity(other, space, "data") == given | {"reshuffle": True}
