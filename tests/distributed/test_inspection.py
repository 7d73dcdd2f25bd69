"""A check on a cluster finds what a check on this machine finds."""

import csv
import subprocess
import sys

import pytest

from tests.helpers.faulty_data import write_faulty_data
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.integration


def test_a_check_on_a_cluster_finds_what_a_check_here_finds(ray_session, tmp_path, monkeypatch):
    csv_path = write_faulty_data(tmp_path / "data")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "ophnet_ray", "check", "--csv_path", str(csv_path)]
    command += ["--backbone", "test_efficientnet", "--no-pretrained", "--output"]
    rejects = {}
    for address in (ray_session, "local"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        done = subprocess.run(
            [*command, f"{tmp_path}/{address}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert (f"Ray cluster {ray_session}" in done.stderr) == (address == ray_session)
        with (tmp_path / address / "rejects.csv").open() as file:
            rejects[address] = list(csv.DictReader(file))
    assert rejects[ray_session] == rejects["local"]
    assert len(rejects["local"]) == 16
