"""Page of a check."""

import re

import pytest

from ophnet_ray.reports.inspection_report import (
    FindingRow,
    InspectionReport,
    PhaseRow,
    VideoTimeline,
    write_inspection_report,
)

pytestmark = pytest.mark.unit

HOSTILE = "<script>alert(1)</script>"


def test_rows_that_overlap_lie_below_each_other_and_names_are_escaped(tmp_path):
    phases = ["a", HOSTILE]
    rows = [(0.0, 6.0, "a"), (5.0, 8.0, HOSTILE), (6.0, 10.0, "a")]
    report = InspectionReport(
        title=HOSTILE,
        subtitle="",
        tiles=[("rows", "3", HOSTILE)],
        findings=[FindingRow("warning", "overlap", HOSTILE, HOSTILE, 1)] * 60,
        phases=[PhaseRow(name, {"train": (2, 1)}, 5.0, [(HOSTILE, b"jpeg")]) for name in phases],
        splits=["train"],
        timelines=[VideoTimeline(HOSTILE, HOSTILE, "train", 10.0, rows, [HOSTILE])],
        facts={"codecs": HOSTILE},
        config={},
        versions={},
    )
    write_inspection_report(tmp_path / "report.html", report)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    bars = re.findall(r'<i style="top:(\d+)px;left:([\d.]+)%;width:([\d.]+)%', page)
    assert bars == [("0", "0.00", "60.00"), ("14", "50.00", "30.00"), ("0", "60.00", "40.00")]
    assert "Not shown: 10 more of “overlap”" in page
