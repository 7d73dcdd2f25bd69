"""``python -m ophnet_ray check``, as a user runs it."""

import csv
import json
import subprocess
import sys

import pytest

from tests.helpers.faulty_data import write_clean_data, write_faulty_data
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

NETWORK = ["--backbone", "test_efficientnet", "--no-pretrained", "--image_size", "64"]


def check(folder, csv_path, *flags):
    """Run the command; return its exit code and the two streams."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ophnet_ray",
            "check",
            "--csv_path",
            str(csv_path),
            *NETWORK,
            *flags,
        ],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_exit_code_says_whether_a_run_would_start(tmp_path):
    csv_path = write_clean_data(tmp_path / "clean")
    code, answer, messages = check(tmp_path, csv_path)
    assert (code, "would_start: yes" in answer, "10/10" in messages) == (0, True, True)
    assert "0 errors, 0 warnings, 0 notes" in answer
    assert list(csv.DictReader((tmp_path / "check/rejects.csv").open())) == []

    csv_path = write_faulty_data(tmp_path / "clean")
    code, answer, messages = check(tmp_path, csv_path, "--freeze", "stages:9")
    assert (code, "would_start: no" in answer) == (2, True), messages
    assert "data changed" in answer
    with (tmp_path / "check/rejects.csv").open() as file:
        repairs = {row["segment_id"]: row["repair"] for row in csv.DictReader(file)}
    assert repairs["late:3-5:incision"] == "set end 5 to 4.000"
    page = (tmp_path / "check/report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 13  # 6 + 6 + 1, of the phases
    assert page.count('class="timeline"') == 27
    assert "--freeze stages:9: the backbone test_efficientnet has" in page
    fingerprint = json.loads((tmp_path / "check/fingerprint.json").read_text())
    assert fingerprint["videos"]["v5.mp4"] == fingerprint["videos"]["twin.mp4"]
    assert fingerprint["videos"]["latin.avi"]["codec"] == "mpeg4"


def test_wrong_flags_are_refused_in_one_line(tmp_path):
    for flags, message in (
        (["--stride", "0"], "--stride 0: must be 1 to 256"),
        (["--lrr", "1"], "unknown flag --lrr; near: --lr"),
    ):
        code, _, messages = check(tmp_path, "t.csv", *flags)
        assert (code, message in messages) == (2, True), messages
