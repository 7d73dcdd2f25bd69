"""Two vocabularies of phases: pairs by name, pairs of a CSV, and what corresponds to nothing."""

import csv

import pytest

from ophnet_ray.data.phase_map import PhaseMap, match_phases, read_phase_map
from ophnet_ray.errors import UserError

pytestmark = pytest.mark.unit


def write(path, *rows, header="source,target"):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")
    return str(path)


def test_equal_ids_and_names_correspond_whatever_their_spelling():
    found = match_phases(None, ["0", "03", "Phaco"], ["3", "phaco", "9", "0"])
    assert found == PhaseMap(((1,), (2,), (), (0,)))
    assert found.num_matched == 3


def test_a_map_decides_alone_several_to_one_and_one_to_several(tmp_path):
    path = write(tmp_path / "m.csv", "2,a", "0,a", "1,b", "1,c", "3,", ",d")
    found = match_phases(path, ["0", "1", "2", "3"], ["a", "b", "c", "d", "3"])
    assert found == PhaseMap(((0, 2), (1,), (1,), (), ()))


def test_names_that_neither_vocabulary_knows_are_kept_for_a_notice(tmp_path):
    path = write(tmp_path / "m.csv", "0,a", "7,a", "1,z")
    assert match_phases(path, ["0", "1"], ["a"]) == PhaseMap(((0,),), ("7", "z"))


def test_columns_are_found_by_their_names(tmp_path):
    path = write(tmp_path / "m.csv", "x,3,why", header="target,Source,remark")
    assert read_phase_map(path) == [("3", "x")]


@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        (["0,a"], "from,to", r"m\.csv: column source, target is missing"),
        (["0,a", "0"], "source,target", r"m\.csv:3: 1 value for 2 columns"),
        (["0,a", "00,A"], "source,target", r"m\.csv:3: 00,A stands there twice"),
        (
            ["9,z"],
            "source,target",
            r"no row names a phase of the checkpoint \(0, 1\) and",
        ),
    ],
)
def test_a_map_that_cannot_be_meant_is_refused_with_its_line(tmp_path, rows, header, says):
    path = write(tmp_path / "m.csv", *rows, header=header)
    with pytest.raises(UserError, match=says):
        match_phases(path, ["0", "1"], ["a"])


def test_a_missing_map_is_named_with_its_flag(tmp_path):
    with pytest.raises(UserError, match="check --phase_map"):
        read_phase_map(str(tmp_path / "none.csv"))


def test_the_96_phases_of_ophnet_map_to_the_52_of_its_challenge(shared_data, tmp_path):
    """Rows of both tables that show the same seconds pair the two vocabularies."""

    def read(name):
        path = shared_data / "ophnet2024" / name
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        return {(row["video_id"], row["start"], row["end"]): row["phase_id"] for row in rows}

    whole, challenge = read("OphNet2024_loca_all.csv"), read("OphNet2024_loca_challenge_phase.csv")
    pairs = sorted({(whole[key], challenge[key]) for key in whole.keys() & challenge.keys()})
    source, target = sorted(set(whole.values())), sorted(set(challenge.values()))
    path = write(tmp_path / "m.csv", *(f"{one},{other}" for one, other in pairs))
    found = match_phases(path, source, target)
    assert (len(source), len(target), found.unknown) == (96, 52, ())
    assert found.num_matched == len(target)
