"""``compare``: one sentence, a table, JSON and a page; and models that do not fit together."""

import json
import re

import pytest

from ophnet_ray.cli.compare import CompareCommand
from ophnet_ray.errors import UserError
from tests.helpers.checkpoints import make_payload, save_checkpoint
from tests.helpers.evaluations import PHASES, write_evaluation

pytestmark = pytest.mark.unit

CASES = [f"case{i}" for i in range(8)]


def compare(tmp_path, *models, **flags):
    command = CompareCommand(
        models=tuple(map(str, models)), output=str(tmp_path / "comparison"), **flags
    )
    command.run()
    return json.loads((tmp_path / "comparison/comparison.json").read_text())


def test_a_model_that_is_better_in_every_case_is_found_and_said_in_one_sentence(tmp_path, capsys):
    a = write_evaluation(tmp_path / "a", {case: 20 + i for i, case in enumerate(CASES)})
    b = write_evaluation(tmp_path / "b", {case: 8 + i for i, case in enumerate(CASES)})
    content = compare(tmp_path, a, b)
    (found,) = content["comparisons"]
    assert found["is_different"]
    assert found["verdict"].startswith("b is better than a: macro-F1 +0.2")
    assert found["p_value"] == pytest.approx(2 / 2**8)
    assert {phase["phase"] for phase in found["phases"]} == set(PHASES)
    assert all(phase["p_holm"] == pytest.approx(3 * 2 / 2**8) for phase in found["phases"])
    scores = {score["name"]: score for score in found["scores"]}
    assert scores["frame_accuracy"]["difference"] == pytest.approx(0.2)
    assert scores["frame_accuracy"]["low"] == pytest.approx(0.2)
    assert "segmental_f1@50" in scores
    out, _ = capsys.readouterr()
    assert "b is better than a" in out
    assert "macro_f1_present" in out


def test_the_better_model_is_named_in_either_order(tmp_path):
    worse = write_evaluation(tmp_path / "worse", {case: 20 + i for i, case in enumerate(CASES)})
    better = write_evaluation(tmp_path / "better", {case: 8 + i for i, case in enumerate(CASES)})
    (found,) = compare(tmp_path, better, worse)["comparisons"]
    assert found["verdict"].startswith("better is better than worse: macro-F1 +0.2")
    assert found["scores"][0]["difference"] < 0


def test_five_cases_can_show_nothing_and_the_answer_says_so(tmp_path, capsys):
    a = write_evaluation(tmp_path / "a", dict.fromkeys(CASES[:5], 30))
    b = write_evaluation(tmp_path / "b", dict.fromkeys(CASES[:5], 0))
    (found,) = compare(tmp_path, a, b)["comparisons"]
    assert not found["is_different"]
    assert found["p_value"] == found["smallest_possible_p_value"] == 2**-4
    assert "no difference that 5 cases can show" in found["verdict"]
    assert "it takes 6 that differ" in found["verdict"]
    assert found["verdict"] in capsys.readouterr().out


def test_three_models_are_compared_with_the_first_and_corrected_together(tmp_path):
    wrong = {"a": 20, "b": 8, "c": 20}
    models = [
        write_evaluation(tmp_path / name, {case: n + i for i, case in enumerate(CASES)})
        for name, n in wrong.items()
    ]
    first, second = compare(tmp_path, *models)["comparisons"]
    assert first["p_value"] == pytest.approx(2 * 2 / 2**8)
    assert "(Holm over 2 comparisons)" in first["verdict"]
    assert "equal counts on 8 cases" in second["verdict"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cases": CASES[1:]}, "different cases: only a has cases case0"),
        ({"phases": (*PHASES, "leak")}, "different vocabularies: only b has phases leak"),
        ({"shift_s": 2.0}, "have different annotations"),
        ({"frame_rate": 2.0}, "2: predict with one --frame_rate"),
        ({"has_truth": False}, "predictions hold no truth; give --csv_path"),
    ],
)
def test_models_of_other_data_are_refused_by_name(tmp_path, change, reason):
    a = write_evaluation(tmp_path / "a", dict.fromkeys(CASES, 3))
    cases = change.pop("cases", CASES)
    b = write_evaluation(tmp_path / "b", dict.fromkeys(cases, 4), **change)
    with pytest.raises(UserError) as refused:
        compare(tmp_path, a, b)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_predictions_are_compared_on_the_rows_of_a_csv(tmp_path):
    """A video without predictions in any model is left out; one that one model lacks is not."""
    csv = tmp_path / "table.csv"
    rows = [
        f"video-{case},{20 * i},{20 * (i + 1)},{phase}"
        for case in CASES
        for i, phase in enumerate(PHASES)
    ]
    csv.write_text("\n".join(["video_id,start,end,phase_id", *rows]) + "\n")
    wrong = dict.fromkeys(CASES[:7], 3)
    a = write_evaluation(tmp_path / "a", wrong, has_truth=False)
    b = write_evaluation(tmp_path / "b", dict.fromkeys(CASES[:7], 9), has_truth=False)
    content = compare(tmp_path, a, b, csv_path=str(csv))
    assert content["cases"] == [f"video-{case}" for case in CASES[:7]]
    scores = {each["name"]: each for each in content["comparisons"][0]["scores"]}
    assert scores["frame_accuracy"]["before"] == pytest.approx(57 / 60)
    c = write_evaluation(tmp_path / "c", dict.fromkeys(CASES, 9), has_truth=False)
    with pytest.raises(UserError, match=r"only c has cases video-case7"):
        compare(tmp_path, a, c, csv_path=str(csv))


def test_test_rows_are_compared_only_if_asked_for_and_each_look_is_counted(tmp_path, capsys):
    csv = tmp_path / "table.csv"
    rows = [
        f"video-{case},{20 * i},{20 * (i + 1)},{phase},{'test' if number > 5 else 'val'}"
        for number, case in enumerate(CASES)
        for i, phase in enumerate(PHASES)
    ]
    csv.write_text("\n".join(["video_id,start,end,phase_id,split", *rows]) + "\n")
    a, b = (
        write_evaluation(tmp_path / name, dict.fromkeys(CASES, 3), has_truth=False, sha256=name)
        for name in "ab"
    )
    # whatever was evaluated, the table's rows count
    seen = write_evaluation(tmp_path / "seen", dict.fromkeys(CASES, 3), sha256="c")
    val = [f"video-{case}" for case in CASES[:6]]
    for models in ((a, b), (a, seen)):
        assert compare(tmp_path, *models, csv_path=str(csv))["cases"] == val
    out, err = capsys.readouterr()
    assert "test rows are left out (cases: 2); --split test" in " ".join((out + err).split())
    assert not list(tmp_path.rglob("test_looks"))
    for look in ("first", "second"):
        content = compare(tmp_path, a, b, csv_path=str(csv), split="test")
        assert content["cases"] == [f"video-{case}" for case in CASES[6:]]
        for name in "ab":
            assert any(note.startswith(f"{name}: {look} look at") for note in content["notes"])
    assert [len(list((each / "test_looks").glob("*.json"))) for each in (a, b)] == [2, 2]
    csv.write_text(csv.read_text().replace(",val", ",test"))
    with pytest.raises(UserError, match=r"--split all: .* has only test rows; give --split test"):
        compare(tmp_path, a, b, csv_path=str(csv))


def test_scores_of_test_rows_are_not_shown_if_the_look_cannot_be_counted(tmp_path, capsys):
    csv = tmp_path / "table.csv"
    rows = [f"video-{case},0,60,{PHASES[0]},test" for case in CASES]
    csv.write_text("\n".join(["video_id,start,end,phase_id,split", *rows]) + "\n")
    a, b = (
        write_evaluation(tmp_path / name, dict.fromkeys(CASES, 3), has_truth=False) for name in "ab"
    )
    (b / "test_looks").write_bytes(b"in the way")
    with pytest.raises(UserError, match=r"b/test_looks.* cannot be counted .*no score is shown"):
        compare(tmp_path, a, b, csv_path=str(csv), split="test")
    assert "frame_accuracy" not in capsys.readouterr().out
    assert not list((tmp_path / "comparison").glob("comparison.*"))


def test_a_damaged_truth_and_forged_names_are_one_line(tmp_path):
    a, b = (write_evaluation(tmp_path / name, dict.fromkeys(CASES, 3)) for name in "ab")
    text = (b / "truth.json").read_text()
    (b / "truth.json").write_text(text.replace("case0", "case9"))
    with pytest.raises(UserError, match=r"truth\.json is damaged .*evaluate again"):
        compare(tmp_path, a, b)
    forged = write_evaluation(tmp_path / "forged", {"x\nerror: y": 3})
    with pytest.raises(UserError, match="control character"):
        compare(tmp_path, a, forged)


def test_the_page_shows_the_videos_that_changed_most_and_names_stay_text(tmp_path):
    phases = ("<script>alert(1)</script>", "costs $x$ & $y", "c")
    a = write_evaluation(tmp_path / "a", dict.fromkeys(CASES[:6], 3), phases=phases)
    wrong = dict(zip([*CASES[:5], "<b>x"], [3, 3, 3, 3, 20, 3], strict=True))
    b = write_evaluation(tmp_path / "b", wrong, phases=phases)
    with pytest.raises(UserError, match="only b has cases <b>x"):
        compare(tmp_path, a, b)
    wrong = dict(zip(CASES[:6], [3, 3, 3, 3, 20, 3], strict=True))
    c = write_evaluation(tmp_path / "c", wrong, phases=phases)
    compare(tmp_path, a, c)
    text = (tmp_path / "comparison/comparison.html").read_text()
    assert "<script" not in text.lower()
    assert "&lt;script&gt;" in text
    assert re.findall("<h3>(video.*)</h3>", text) == ["video-case4"], "the others are unchanged"
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        (["a"], "needs two or more models"),
        (["a", "a"], "given twice"),
        (["a", "missing"], "missing does not exist"),
        (["a", "empty"], "holds predictions, .*empty none"),
        (["empty", "empty2"], "is no run directory, no checkpoint"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, monkeypatch, models, reason):
    monkeypatch.chdir(tmp_path)
    write_evaluation(tmp_path / "a", dict.fromkeys(CASES, 3))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty2").mkdir()
    with pytest.raises(UserError, match=reason):
        compare(tmp_path, *models)


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ({"split": "test"}, "--split test"),
        ({"video_dir": "videos"}, "--video_dir videos"),
        ({"case_from": "name"}, "--case_from name"),
        ({"allow_outside": True}, "--allow_outside"),
    ],
)
def test_a_flag_about_the_rows_of_a_table_is_refused_without_one(tmp_path, flags, given):
    a, b = (write_evaluation(tmp_path / name, dict.fromkeys(CASES, 3)) for name in "ab")
    with pytest.raises(UserError, match=rf"^{given}: is about the rows of --csv_path, which is no"):
        compare(tmp_path, a, b, **flags)
    assert not (tmp_path / "comparison").exists()


def test_a_table_is_refused_for_runs(tmp_path):
    models = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    for model in models:
        save_checkpoint(model, make_payload())
    csv = tmp_path / "rows.csv"
    csv.write_text("video_id,start,end,phase_id\nv,0,1,a\n")
    with pytest.raises(UserError, match=r"^--csv_path .*rows.csv: runs and checkpoints are compa"):
        compare(tmp_path, *models, csv_path=str(csv))
