"""train.py while it runs: its metrics, its page on the dashboard, open ports, what it hides."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.cluster.doors import find_open, knock
from tests.helpers.paths import ROOT
from tests.helpers.processes import tied
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RUN_FLAGS = (
    "--image_size 32 --backbone test_resnet --no_pretrained --max_epochs 2000 --batch_size 4 "
    "--num_workers 2 --train_workers 2 --name watched --max_rejected 0.5 --missing_videos skip "
    "--private"
)
NAMES_OF_DATA = re.compile(rb"\bv\d+:\d|\.mp4|segments\.csv|/watched\d+/data")
"""Rows, videos and the CSV of the watched run, and their folder."""
SCRAPED_S = 60
"""Until Prometheus has a figure: Ray reports every second, Prometheus reads every second."""


@dataclass(frozen=True)
class WatchedRun:
    """A run in progress: its process, files and addresses."""

    process: subprocess.Popen
    folder: Path
    dashboard: str
    token: str
    log: Path
    ray_tmp: Path


@pytest.fixture(scope="module")
def watched_run(color_csv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    data = folder / "data"
    shutil.copytree(color_csv.parent, data)
    (data / "v1.mp4").write_bytes(b"broken")
    # sockets of Ray lie there: their paths must be short
    ray_tmp = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    env = os.environ | {
        "RAY_ADDRESS": "local",
        "RAY_TMPDIR": str(ray_tmp),
        "RAY_metrics_report_interval_ms": "1000",
    }
    del env["RAY_TRAIN_ENABLE_STATE_TRACKING"]  # see tests/conftest.py: here it is as a user's
    log = folder / "log"
    command = [sys.executable, str(ROOT / "train.py"), *RUN_FLAGS.split()]
    command += ["--csv_path", str(data / "segments.csv")]
    with log.open("wb") as file:
        process = subprocess.Popen(
            tied(command, signal.SIGINT), cwd=folder, env=env, stdout=file, stderr=file
        )
    history = folder / "runs/watched/metrics.jsonl"
    try:
        wait_until(
            lambda: process.poll() is not None or history.exists(),
            "an epoch is trained",
            timeout_s=180,
            details=log.read_text,
        )
        assert process.poll() is None, log.read_text()
        where = next(line for line in log.read_text().splitlines() if "dashboard" in line)
        dashboard = where.split("http://")[1].split()[0]
        token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
        yield WatchedRun(process, folder, dashboard, token.read_text().strip(), log, ray_tmp)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=300)
        shutil.rmtree(ray_tmp, ignore_errors=True)
    assert process.returncode == 128 + signal.SIGINT, log.read_text()
    assert "; the same command resumes there" in log.read_text().splitlines()[-1]


@pytest.fixture(scope="module")
def prometheus(watched_run):
    """Start Prometheus with cluster/prometheus.yaml on the watched run; return its address."""
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed")
    folder = watched_run.folder / "prometheus"
    folder.mkdir()
    text = (ROOT / "cluster/prometheus.yaml").read_text()
    text = text.replace("/tmp/ray/", f"{watched_run.ray_tmp}/ray/").replace("5s", "1s")
    (folder / "prometheus.yaml").write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            tied(
                ["prometheus", "--config.file=prometheus.yaml", f"--web.listen-address={address}"]
            ),
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    yield address
    process.terminate()
    process.wait(timeout=20)


def get_json(url, token=""):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


def test_prometheus_finds_every_metric_that_grafana_draws(watched_run, prometheus):
    dashboard = json.loads((ROOT / "cluster/grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for query in queries for name in re.findall(r"\bray_\w+", query)}

    def ask(query):
        quoted = urllib.parse.urlencode({"query": query.replace("$run", ".*")})
        try:
            return get_json(f"http://{prometheus}/api/v1/query?{quoted}")["data"]["result"]
        except OSError:
            return []  # it is just starting

    for name in sorted(names):
        wait_until(lambda name=name: ask(name), name, SCRAPED_S, poll_s=0.5)
    for query in queries:
        wait_until(lambda query=query: ask(query), query, SCRAPED_S, poll_s=0.5)
    value = {name: float(ask(name)[0]["value"][1]) for name in names}
    print(value)
    # 18 segments of 30 frames are 3 blocks, each pair of neighbours a window; one video is broken
    (rejects,) = ask("ray_ophnet_rejected_rows_total")
    assert (rejects["metric"]["reason"], rejects["value"][1]) == ("unreadable", "3")
    assert {row["metric"]["rank"] for row in ask("ray_ophnet_step_seconds")} == {"0", "1"}
    assert value["ray_ophnet_epoch"] >= 1
    assert 0 < value["ray_ophnet_step_seconds"] < 5
    # paths and ids of the data go nowhere
    series = get_json(f"http://{prometheus}/api/v1/series?match[]={{__name__=~'ray_ophnet.*'}}")
    assert not re.search(
        r"v\d|mp4|segments|/",
        json.dumps(
            [
                {k: v for k, v in row.items() if k in ("run", "reason", "rank")}
                for row in series["data"]
            ]
        ),
    )


def test_the_dashboard_names_run_stages_and_actors(watched_run):
    def ask(path):
        return get_json(f"http://{watched_run.dashboard}{path}", watched_run.token)

    (job,) = [job for job in ask("/api/jobs/") if (job["metadata"] or {}).get("run")]
    assert job["metadata"]["run"] == "watched"
    assert "segments" not in json.dumps(job["metadata"])
    runs = wait_until(
        lambda: ask("/api/train/v2/runs/v1")["train_runs"], "Ray Train records the run"
    )
    assert runs[0]["name"] == "watched"
    tasks = ask("/api/v0/tasks?detail=false&limit=1000")["data"]["result"]["result"]
    assert "Map(decode_row)" in {task["name"] for task in tasks}
    actors = ask("/api/v0/actors?detail=false&limit=1000")["data"]["result"]["result"]
    assert "train status of watched" in {actor["name"] for actor in actors}


def test_no_interface_and_no_log_of_ray_names_a_case_or_a_video(watched_run):
    """A private run: the dashboard shows not even the command line."""

    def ask(path):
        answer = get_json(f"http://{watched_run.dashboard}{path}", watched_run.token)
        return json.dumps(answer).encode()

    jobs = ask("/api/jobs/")
    (job_id,) = [job["job_id"] for job in json.loads(jobs) if (job["metadata"] or {}).get("run")]
    kinds = ("actors", "jobs", "nodes", "objects", "placement_groups", "tasks", "workers")
    shown = {kind: ask(f"/api/v0/{kind}?detail=true&limit=1000") for kind in kinds}
    (node,) = json.loads(shown["nodes"])["data"]["result"]["result"]
    paths = (
        f"/nodes/{node['node_id']}",
        "/logical/actors",
        "/api/train/v2/runs/v1",
        f"/api/data/datasets/{job_id}",
    )
    shown |= {"jobs of the dashboard": jobs} | {path: ask(path) for path in paths}
    logs = [file for file in watched_run.ray_tmp.rglob("logs/**/*") if file.is_file()]
    shown |= {file.name: file.read_bytes() for file in logs}
    shown["ps"] = " ".join(psutil.Process(watched_run.process.pid).cmdline()).encode()
    assert b"train.py --private" in jobs
    assert b"train.py --private" in shown["ps"]
    assert b"decode_row" in shown["tasks"]
    assert any(name.startswith("worker-") for name in shown)
    print({name: len(content) for name, content in shown.items()})
    found = {name: set(NAMES_OF_DATA.findall(content)) for name, content in shown.items()}
    assert {name: names for name, names in found.items() if names} == {}


def test_no_other_user_may_read_what_a_private_run_writes(watched_run):
    runs = watched_run.folder / "runs"
    written = [path for path in (runs, *runs.rglob("*")) if path.exists()]
    assert {".arrow", ".ckpt", ".json", ".log"} <= {path.suffix for path in written}
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_a_run_listens_on_loopback_only_and_opens_no_door_without_the_token(watched_run):
    """Only the metrics for Prometheus are public, and those only on loopback."""
    head = psutil.Process(watched_run.process.pid)
    owners = {
        f"{c.laddr.ip.removeprefix('::ffff:')}:{c.laddr.port}": " ".join(process.cmdline())[-60:]
        for process in [head, *head.children(recursive=True)]
        for c in process.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }
    assert len(owners) >= 8
    assert {door.rpartition(":")[0] for door in owners} <= {"127.0.0.1", "::1"}
    opened = find_open(owners)
    print({door: (owners[door], answers) for door, answers in opened.items()})
    found = (watched_run.ray_tmp / "ray/prom_metrics_service_discovery.json").read_text()
    # another Ray of this machine may hold the fixed ports of the head's own figures
    figures = set(json.loads(found)[0]["targets"]) & owners.keys()
    assert figures
    assert figures <= opened.keys()
    # torch knows no password: the store at which the workers meet, and the channel of each of two
    others = [opened[door] for door in opened.keys() - figures]
    assert len(others) <= 3
    assert not [answers for answers in others if {"OK", "200"} & set(answers)]
    assert 200 in knock(watched_run.dashboard, watched_run.token)
