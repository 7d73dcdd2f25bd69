"""``runs``: rankings by data, ties, settings that differ, damaged directories, buckets."""

import json
import os
import re
import shutil

import pytest

from ophnet_ray.cli.runs import RunsCommand
from ophnet_ray.errors import UserError
from ophnet_ray.storage.files import list_objects, upload
from ophnet_ray.storage.records import dump_yaml_record
from ophnet_ray.train.run_directory import RunDirectory
from ophnet_ray.tune.directory import SearchDirectory
from ophnet_ray.tune.trial import write_trial_end, write_trial_start
from tests.helpers.run_directories import write_run

pytestmark = pytest.mark.unit

OTHER = "b" * 64


def list_runs(storage, tmp_path, **flags):
    RunsCommand(storage_path=str(storage), output=str(tmp_path / "listing"), **flags).run()
    return json.loads((tmp_path / "listing/runs.json").read_text())


def names_of(group):
    return [run["name"] for run in group["runs"]]


def snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


def test_runs_are_ranked_on_the_same_data_only_and_close_ones_are_tied(tmp_path, capsys):
    storage = tmp_path / "runs"
    write_run(storage, "best", 0.9, lr=1e-3)
    write_run(storage, "close", 0.9, seed=1, lr=2e-3)
    write_run(storage, "worse", 0.6, lr=3e-3)
    write_run(storage, "begun", 0.9, is_complete=False)
    write_run(storage, "other", 0.99, data_hash=OTHER)
    before = snapshot(storage)
    content = list_runs(storage, tmp_path)
    assert snapshot(storage) == before, "nothing is changed, and no lock is taken"
    first, second = content["groups"]
    assert names_of(second) == ["other"]
    runs = {run["name"]: run for run in first["runs"]}
    assert {runs["best"]["rank"], runs["close"]["rank"]} == {1, 2}
    assert runs["worse"]["rank"] == 3
    assert runs["begun"]["rank"] is None
    assert runs["begun"]["state"] == "unfinished"
    assert [name for name, run in runs.items() if run["tied"]] in (["best"], ["close"])
    assert runs["worse"]["lead_of_best"][0] > 0
    assert set(runs["best"]["settings"]) == {"lr"}
    assert runs["best"]["seconds"] == 60
    low, high = runs["best"]["interval"]
    assert low < runs["best"]["scores"]["val_macro_f1"] < high
    out, _ = capsys.readouterr()
    assert "5 runs on 2 data sets" in out
    assert "lr=0.003" in out


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ({"sort": "name"}, ["begun", "best", "worse"]),
        ({"filter": ("lr=0.003",)}, ["worse"]),
        ({"filter": ("state=complete", "name=*e*t*")}, ["best"]),
        ({"filter": ("name=nothing",)}, None),
    ],
)
def test_runs_are_sorted_and_filtered(tmp_path, flags, names):
    write_run(tmp_path / "runs", "best", 0.9, lr=1e-3)
    write_run(tmp_path / "runs", "worse", 0.6, lr=3e-3)
    write_run(tmp_path / "runs", "begun", 0.9, is_complete=False)
    content = list_runs(tmp_path / "runs", tmp_path, **flags)
    assert [names_of(group) for group in content["groups"]] == ([names] if names else [])
    with pytest.raises(UserError, match="no run has a setting learning_rate"):
        list_runs(tmp_path / "runs", tmp_path, filter=("learning_rate=1",))


def break_config(run):
    (run / "config.yaml").write_bytes((run / "config.yaml").read_bytes() + b"lr: 7\n")


def break_metrics(run):
    (run / "metrics.jsonl").write_text("[" * 100_000)


def make_pipe(run):
    (run / "passport.json").unlink()
    os.mkfifo(run / "passport.json")


def claim_many_phases(run):
    content = json.loads((run / "scores.json").read_text())
    content["phases"] = list(range(10**5))
    (run / "scores.json").write_text(json.dumps(content))


def replace_result(run):
    (run / "result.json").write_text('{"checkpoint": 3, "best_epoch": 1, "scores": []}')


@pytest.mark.parametrize(
    "damage", [break_config, break_metrics, make_pipe, claim_many_phases, replace_result]
)
def test_a_damaged_run_directory_is_named_and_counted(tmp_path, capsys, damage):
    write_run(tmp_path / "runs", "whole")
    damage(write_run(tmp_path / "runs", "broken"))
    content = list_runs(tmp_path / "runs", tmp_path)
    assert [names_of(group) for group in content["groups"]] == [["whole"]]
    (damaged,) = content["damaged"]
    assert damaged["name"] == "broken"
    out, err = capsys.readouterr()
    assert "1 run on 1 data set, 1 damaged" in out
    assert "warning: broken: " in err
    assert "broken" in (tmp_path / "listing/runs.html").read_text()


def test_the_trials_of_a_search_have_its_data_and_its_damage_is_theirs(tmp_path):
    """A trial has no passport of its own; a search is no run."""
    search = write_run(tmp_path / "runs", "search", is_complete=False)
    (search / "search.yaml").write_text("metric: val_macro_f1\n")
    for number, share in enumerate((0.9, 0.6)):
        run = SearchDirectory(search).start_trial(number, {"lr": 0.1 * (number + 1)})
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
        trial = write_run(search / "trials", f"written-{number}", share, lr=0.1 * (number + 1))
        (trial / "passport.json").unlink()
        for file in trial.iterdir():
            file.rename(run.path / file.name)
        trial.rmdir()
    write_trial_end(run, "stopped", 2)
    write_run(tmp_path / "runs", "alone")
    (group,) = list_runs(tmp_path / "runs", tmp_path)["groups"]
    assert names_of(group) == ["alone"]
    (group,) = list_runs(tmp_path / "runs", tmp_path, trials=True)["groups"]
    assert {run["name"]: run["state"] for run in group["runs"]} == {
        "search/trials/0000": "complete",
        "alone": "complete",
        "search/trials/0001": "stopped",
    }
    assert [run["rank"] for run in group["runs"]] == [1, 2, None]
    break_config(search)
    damaged = list_runs(tmp_path / "runs", tmp_path, trials=True)["damaged"]
    assert [each["name"] for each in damaged] == ["search/trials/0000", "search/trials/0001"]


def test_trials_that_hold_out_other_cases_are_in_no_ranking(tmp_path, capsys):
    """With --reshuffle only trial 0 has the cases of the search, and of other runs of the data."""
    search = write_run(tmp_path / "runs", "search", is_complete=False)
    (search / "search.yaml").write_bytes(dump_yaml_record("reshuffle: true\n"))
    for number, share in enumerate((0.6, 0.9, 0.7)):
        trial = write_run(search / "trials", f"{number:04d}", share, seed=number)
        (trial / "passport.json").unlink()
        write_trial_start(RunDirectory(trial), number, {"lr": 0.1 * (number + 1)}, None)
    write_run(tmp_path / "runs", "alone", 0.8)
    groups = list_runs(tmp_path / "runs", tmp_path, trials=True)["groups"]
    assert [names_of(group) for group in groups] == [
        ["alone", "search/trials/0000"],
        ["search/trials/0001"],
        ["search/trials/0002"],
    ]
    assert "table.csv, holdout of trial 2" in capsys.readouterr().out


def test_names_forge_no_line_and_no_link_and_stay_text(tmp_path, capsys):
    storage = tmp_path / "runs"
    hostile = "<script>alert(1)<"
    write_run(storage, hostile, backbone="<b>x")
    write_run(storage, "javascript:alert(1)", backbone="[bold]y")
    write_run(storage, "x\nerror: forged")
    content = list_runs(storage, tmp_path)
    (damaged,) = content["damaged"]
    assert damaged["name"] == "x\\nerror: forged"
    out, err = capsys.readouterr()
    assert not any(line.startswith("error: forged") for line in (out + err).splitlines())
    assert "backbone=[bold]y" in out
    page = (tmp_path / "listing/runs.html").read_text()
    assert "<script" not in page.lower()
    links = re.findall(r'href="([^#"]+)"', page)
    assert sorted(link for link in links if link != "data:,") == [
        "./../runs/%3Cscript%3Ealert%281%29%3C/report.html",
        "./../runs/javascript%3Aalert%281%29/report.html",
    ]


def test_runs_of_a_bucket_are_ranked_without_a_checkpoint_and_nothing_is_written(bucket, tmp_path):
    storage = tmp_path / "runs"
    write_run(storage, "best", 0.9)
    write_run(storage, "worse", 0.6, lr=3e-3)
    for path in sorted(storage.rglob("*")):
        if path.is_file():
            upload(path, bucket.uri(f"listed/runs/{path.relative_to(storage)}"))
    before = list_objects(bucket.uri("listed"), recursive=True)
    shutil.rmtree(storage)
    content = list_runs(bucket.uri("listed/runs"), tmp_path)
    (group,) = content["groups"]
    assert names_of(group) == ["best", "worse"]
    assert group["runs"][1]["lead_of_best"][0] > 0
    assert list_objects(bucket.uri("listed"), recursive=True) == before


def test_a_storage_path_that_does_not_exist_is_refused_and_an_empty_one_is_empty(tmp_path, capsys):
    with pytest.raises(UserError, match="does not exist"):
        list_runs(tmp_path / "missing", tmp_path)
    (tmp_path / "table.csv").touch()
    with pytest.raises(UserError, match="is a file; it takes a folder"):
        list_runs(tmp_path / "table.csv", tmp_path)
    (tmp_path / "runs").mkdir()
    assert list_runs(tmp_path / "runs", tmp_path)["groups"] == []
    assert "0 runs on 0 data sets" in capsys.readouterr().out


def test_a_trial_whose_record_is_out_of_range_ends_no_listing(tmp_path):
    search = write_run(tmp_path / "runs", "search", is_complete=False)
    (search / "search.yaml").write_text("metric: val_macro_f1\n")
    for number, changes in enumerate(
        ['"folds": 1', '"folds": 1e400', '"folds": 2.0', '"number": 1e400', '"folds": 2']
    ):
        trial = write_run(search / "trials", f"{number:04d}")
        (trial / "trial.json").write_text(f'{{"number": 0, "settings": {{}}, {changes}}}')
    # one that is sound, beside a search without the account of its rows and an endless number
    passport = json.loads((trial / "passport.json").read_text())
    del passport["splits"]["train"], passport["checksum"]
    (trial / "passport.json").write_text(json.dumps(passport))
    records = (trial / "metrics.jsonl").read_text().splitlines()
    last = json.dumps(json.loads(records[-1]) | {"val_loss": 10**400})
    (trial / "metrics.jsonl").write_text("\n".join([*records[:1], last]))
    content = list_runs(tmp_path / "runs", tmp_path, trials=True)
    assert [each["name"][-1] for each in content["damaged"]] == list("0123")
    assert "trial.json is damaged (folds: 1)" in content["damaged"][0]["reason"]
    (group,) = content["groups"]
    assert names_of(group) == ["search/trials/0004"]
