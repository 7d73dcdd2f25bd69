"""HTML pages: self-contained and escaped, with little content and with much."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ophnet_ray.metrics.bootstrap import Interval
from ophnet_ray.metrics.classification import f1_per_class
from ophnet_ray.metrics.comparison import compare_models, count_windows
from ophnet_ray.metrics.fold_scores import FoldCounts, measure_spread, rank_held_out_cases
from ophnet_ray.metrics.gain import Gain
from ophnet_ray.metrics.score_card import PhaseScore, Score, ScoreCard, build_window_card
from ophnet_ray.metrics.timelines import VideoTimeline, WorstFrame
from ophnet_ray.metrics.verdict import judge
from ophnet_ray.reports.comparison_report import (
    ComparedVideo,
    ComparisonReport,
    write_comparison_report,
)
from ophnet_ray.reports.folds_report import FoldRow, FoldsReport, write_folds_report
from ophnet_ray.reports.model_report import ModelReport, write_model_report
from ophnet_ray.reports.runs_report import RunRow, RunsReport, RunTable, write_runs_report
from ophnet_ray.reports.search_report import SearchReport, write_search_report
from ophnet_ray.reports.trial_record import TrialRecord
from tests.helpers.browser import CHROMIUM, visit_pages

pytestmark = pytest.mark.unit

HOSTILE = "<script>alert(1)</script>"


def name_phases(num: int) -> tuple[str, ...]:
    return tuple(f"Phase {i}, a rare step of a combined operation" for i in range(num))


def make_card(phases, seed=0) -> ScoreCard:
    rng = np.random.default_rng(seed)
    num = len(phases)
    confusion = (rng.integers(0, 9, (num, num)) + 60 * np.eye(num)).astype(np.int64)
    f1 = f1_per_class(confusion)
    rows = tuple(
        PhaseScore(
            phase,
            precision=0.5,
            recall=0.5,
            f1=float(f1[label]),
            jaccard=0.4,
            support=60,
            num_train_cases=label,
        )
        for label, phase in enumerate(phases)
    )
    scores = (
        Score("macro_f1_present", float(f1.mean()), "mean F1", Interval(0.2, 0.7)),
        Score("edit", 61, "%"),
    )
    return ScoreCard(
        split="val",
        unit="frames",
        num_cases=9,
        num_videos=9,
        num_units=int(confusion.sum()),
        phases=tuple(phases),
        scores=scores,
        by_phase=rows,
        confusion=confusion,
    )


def make_timeline(video_id: str, num_phases: int, seconds: int = 1200) -> VideoTimeline:
    rng = np.random.default_rng(len(video_id))
    truth = np.repeat(rng.integers(0, num_phases, seconds // 30), 30).astype(np.int64)
    prediction = np.where(rng.random(seconds) < 0.7, truth, rng.integers(0, num_phases, seconds))
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 36), "teal").save(jpeg, "JPEG")
    worst = (WorstFrame(3.0, 0, num_phases - 1, 0.9, jpeg.getvalue()),)
    times, sure = np.arange(seconds, dtype=np.float64), np.full(seconds, 0.8, np.float32)
    return VideoTimeline(
        video_id, times, prediction, sure, truth=truth, smoothed=truth.copy(), worst=worst
    )


def make_pictures() -> dict[str, bytes]:
    jpeg = io.BytesIO()
    Image.new("RGB", (1000, 200), "teal").save(jpeg, "JPEG")
    return {"Windows of <a> batch.": jpeg.getvalue()}


def make_history(num_epochs: int):
    return [
        {"epoch": e, "train_loss": 2.0 - e, "val_loss": 1.0, "val_acc": 0.5, "lr": 1e-3}
        | {"val_macro_f1": 0.4, "seconds": 1.0}
        for e in range(num_epochs)
    ]


def make_report(phases, videos=(), **changes) -> ModelReport:
    content = {
        "title": "Run one",
        "subtitle": "validation windows",
        "card": make_card(phases),
        "history": make_history(3),
        "timelines": [make_timeline(video, len(phases)) for video in videos],
        "passport": None,
        "rejects": [("case_1:0-2", "video is missing")],
        "config": {"backbone": "resnet18", "lr": 1e-3},
        "versions": {"ray": "2.60.0"},
        "notes": ["a note"],
        "phases": phases,
    }
    return ModelReport(**(content | changes))


def make_search(num_trials: int, scheme: str = "", phases=()) -> SearchReport:
    trials = [
        TrialRecord(
            trial_id=f"{i:04d}",
            state=("finished", "stopped", "failed")[i % 3],
            params={"lr": 10.0 ** -(i % 5), **({"class_weights": scheme} if scheme else {})},
            history=make_history(2),
            score=None if i % 3 == 2 else 0.4,
            best_epoch=None if i % 3 == 2 else 1,
            interval=None,
            is_tied=False,
            f1_by_phase=dict.fromkeys(phases, 0.5) or None,
            seconds=60.0,
        )
        for i in range(num_trials)
    ]
    return SearchReport(
        title="Search",
        metric="val_macro_f1",
        trials=trials,
        winner="0000" if trials else None,
        importances={},
        notes=[],
        space={"lr": "loguniform(1e-5, 1e-2)"},
        repeats=[],
        rows_by_phase=dict.fromkeys(phases, 20),
        gain=Gain(0.1234, Interval(-0.01, 0.2568)) if trials else None,
        optimism=0.0567,
    )


def write(folder: Path, name: str, content: ModelReport | SearchReport) -> Path:
    page = folder / f"{name}.html"
    if isinstance(content, ModelReport):
        write_model_report(page, content)
    else:
        write_search_report(page, content)
    return page


def test_names_from_the_data_stay_text(tmp_path):
    phases = (HOSTILE, "costs $x$ & $y")
    report = make_report(phases, [HOSTILE], rejects=[(HOSTILE, HOSTILE)], config={HOSTILE: HOSTILE})
    for content in (report, make_search(3, HOSTILE, phases)):
        text = write(tmp_path, "hostile", content).read_text()
        assert "&lt;script&gt;alert(1)" in text
        assert "<script" not in text.lower()


def test_a_page_refers_to_nothing_outside(tmp_path):
    for content in (make_report(name_phases(3), ["a"]), make_search(4, "none", name_phases(3))):
        text = write(tmp_path, "page", content).read_text()
        without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
        assert not re.findall(
            r"https?:|//\w|@import|url\((?!#)", re.sub(r"base64,[^\"]+", "", without_names)
        )
        assert set(re.findall(r'(?:href|src)="([^"#,]*)', text)) <= {
            "",
            "data:",
            "data:image/jpeg;base64",
        }


def test_ids_within_a_page_are_its_own(tmp_path):
    text = write(tmp_path, "page", make_report(name_phases(3), ["a", "b"])).read_text()
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_a_page_of_many_phases_and_videos_stays_small(tmp_path):
    videos = [f"case_{i:04d}" for i in range(150)]
    page = write(tmp_path, "big", make_report(name_phases(52), videos))
    assert page.stat().st_size < 2_000_000
    text = page.read_text()
    assert all(video in text for video in videos)


@pytest.mark.parametrize(
    "changes",
    [
        {"card": None, "history": [], "rejects": []},
        {"history": []},
        {"history": make_history(1)},
        {"rejects": [], "config": {}, "versions": {}, "notes": []},
    ],
    ids=["predict", "no history", "one epoch", "no rejects"],
)
def test_a_section_without_content_is_left_out(tmp_path, changes):
    text = write(tmp_path, "page", make_report(name_phases(3), ["a"], **changes)).read_text()
    assert ('id="curves"' in text) == (changes.get("history") != [])
    assert ('id="scores"' in text) == ("card" not in changes)
    assert ('id="data"' in text) == (changes.get("rejects") != [])


def test_a_page_shows_training_windows(tmp_path):
    text = write(
        tmp_path, "page", make_report(name_phases(3), pictures=make_pictures())
    ).read_text()
    assert 'id="pictures"' in text
    assert "<figcaption>Windows of &lt;a&gt; batch.</figcaption>" in text
    assert 'id="pictures"' not in write(tmp_path, "without", make_report(("a",))).read_text()


def test_a_page_compares_boundaries_durations_and_changes_with_the_truth(tmp_path):
    times_s, sure = np.arange(40.0), np.ones(40, np.float32)
    truth, late = np.repeat([0, 1, 2], [10, 10, 20]), np.repeat([0, 1, 0, 2], [14, 3, 3, 20])
    timelines = [VideoTimeline("v", times_s, late, sure, truth=truth)]
    report = make_report(("cut", "sew", "close"), timelines=timelines)
    text = " ".join(write(tmp_path, "page", report).read_text().split())
    assert "1.33 predicted segments per true segment" in text
    assert "Half of the 4 boundaries are found within 3.5 s" in text
    assert "2 of 3 predicted changes are between phases that never follow each other" in text
    without = make_report(("cut", "sew", "close"), timelines=[replace(timelines[0], truth=None)])
    assert 'id="timing"' not in write(tmp_path, "predicted", without).read_text()


@pytest.mark.parametrize(
    ("unit", "reason"),
    [
        ("frames", "val_macro_f1</code> of training counts only windows inside one segment"),
        ("windows", "windows that may cross a phase boundary, so its scores are usually lower"),
    ],
)
def test_a_page_says_why_scores_of_frames_and_of_windows_differ(tmp_path, unit, reason):
    card = replace(make_card(name_phases(3)), unit=unit)
    text = write(tmp_path, "page", make_report(name_phases(3), card=card)).read_text()
    assert reason in text


@pytest.mark.parametrize("num_trials", [0, 1, 3])
def test_a_search_without_schemes_has_no_comparison_of_them(tmp_path, num_trials):
    text = write(tmp_path, "search", make_search(num_trials, "", name_phases(3))).read_text()
    assert "schemes-section" not in text
    assert ('id="history"' in text) == (num_trials > 0)


def write_comparison(folder: Path) -> Path:
    phases, rng = name_phases(52), np.random.default_rng(0)
    models = [
        count_windows(
            name, phases, [f"case {i}" for i in range(6)], rng.integers(0, 9, (6, 52, 52))
        )
        for name in ("a_model_" * 8, "b")
    ]
    comparison = compare_models(*models)
    labels = np.repeat(np.arange(52), 60)
    report = ComparisonReport(
        title="a against b",
        subtitle="frames of 6 cases",
        models=[model.name for model in models],
        phases=phases,
        comparisons=[comparison],
        verdicts=judge([comparison]),
        videos=[
            ComparedVideo(
                "v" * 60,
                "case 0",
                np.arange(52.0 * 60),
                labels,
                {models[0].name: np.roll(labels, 90), models[1].name: labels},
            )
        ],
        notes=["a note"],
        versions={"ray": "2.60.0"},
    )
    write_comparison_report(folder / "comparison.html", report)
    return folder / "comparison.html"


def write_folds(folder: Path) -> Path:
    phases, rng = name_phases(52), np.random.default_rng(0)
    folds = [
        FoldCounts(
            tuple(f"a_case_{fold}_{i}_" * 9 for i in range(20)),
            rng.integers(0, 9, (20, 52, 52)),
        )
        for fold in range(3)
    ]
    counts = np.concatenate([fold.counts for fold in folds])
    row = FoldRow(1, "a_run_" * 20, 20, 9000, 0.8, Interval(0.7, 0.9), 0.9, 12, folder / "a.html")
    report = FoldsReport(
        title="Cross-validation " + "x" * 60,
        subtitle="3 folds",
        card=build_window_card(counts, phases, [20] * 52, 60),
        spread=measure_spread([fold.macro_f1 for fold in folds]),
        folds=[row] * 3,
        cases=rank_held_out_cases(folds),
        notes=["a note"],
        config={"backbone": "maxvit_large_tf_224.in21k"},
        versions={"ray": "2.60.0"},
    )
    write_folds_report(folder / "folds.html", report)
    return folder / "folds.html"


def write_runs(folder: Path) -> Path:
    row = RunRow(
        name="a_run_" * 20,
        state="complete",
        rank=1,
        score=0.9,
        interval=Interval(0.8, 0.95),
        accuracy=0.9,
        lead=None,
        is_tied=False,
        epochs=20,
        seconds=8000.0,
        settings={"backbone": "maxvit_large_tf_224.in21k"},
        report=folder / "runs/a/report.html",
    )
    names = ["backbone", *(f"setting_{i}" for i in range(60))]
    table = RunTable("a" * 64, "table.csv, val: 9 cases", "windows", names, [row] * 30)
    damaged = [("a_run_" * 20, "config.yaml is damaged")]
    report = RunsReport("Runs", "runs: 30 runs", [table], damaged, ["a note"], {"ray": "2.60.0"})
    write_runs_report(folder / "runs.html", report)
    return folder / "runs.html"


def test_the_page_of_a_search_states_its_gain_and_its_optimism(tmp_path):
    text = write(tmp_path, "search", make_search(3, "none", ("a",))).read_text()
    assert "+0.123" in text
    assert "-0.010 to +0.257" in text
    assert "optimistic by 0.057" in text


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")
def test_in_a_browser_pages_fit_a_phone_and_ask_for_nothing(tmp_path):
    contents = {
        "many": make_report(name_phases(52), ["a_case_" * 12, "b"], pictures=make_pictures()),
        "predict": make_report(name_phases(6), ["a"], card=None, history=[]),
        "search": make_search(30, "inverse_sqrt", name_phases(52)),
    }
    pages = [write(tmp_path, name, content) for name, content in contents.items()]
    pages += [write_comparison(tmp_path), write_runs(tmp_path), write_folds(tmp_path)]
    for page, visit in zip(pages, visit_pages(pages, width=360), strict=True):
        assert visit.overflow_px <= 0, page
        assert visit.complaints == []
        asked = [url for url in visit.requests if not url.startswith("data:")]
        assert asked == [page.as_uri()]
        assert visit.pdf.startswith(b"%PDF")
