"""The check for GPU machines, at toy size on the CPU and without Ray."""

import json
import os
import subprocess

import pytest

from tests.helpers.paths import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_the_check_measures_what_runs_and_names_what_does_not(tmp_path):
    (tmp_path / "blocked").mkdir()
    for name in ("ray", "boto3", "optuna", "tyro"):
        (tmp_path / f"blocked/{name}.py").write_text(
            f"raise ImportError('there is no {name} here')"
        )
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [ROOT / "tests/gpu/run.sh", "--toy", "--models", "test_vit", "no_such_net"],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "blocked"), "OUT": str(tmp_path / "out")},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 1  # for no_such_net
    found = json.loads((tmp_path / "out/gpu.json").read_text())
    assert (found["tests"]["end"], found["tests"]["failures"]) == ("", [])
    assert found["tests"]["passed"] == 9
    vit, missing = found["models"]["test_vit"], found["models"]["no_such_net"]
    assert vit["errors"] == {}
    assert vit["repeats"] is True
    speeds = [vit["ours"]["images_s"], vit["bare"]["images_s"], *vit["predict"].values()]
    assert all(speed > 0 for speed in speeds)
    assert 0 <= vit["ours"]["wait_share"] <= 1
    assert vit["ours"]["steadiness"] > 0
    parts = {"flops_per_image", "memory_format", "bare", "plain", "ours", "kernels_s"}
    assert set(missing["errors"]) == parts | {"predict", "repeats", "default_recipe"}
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if "img/s" in line] == ["model"]
    assert any(line.startswith("no_such_net") and line.endswith("-") for line in lines)
