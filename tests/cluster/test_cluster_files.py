"""Checks of the files of cluster/ that need no cloud: schemas, linters, closed doors."""

import json
import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from ophnet_ray.config import Config
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

FOLDER = ROOT / "cluster"
LAUNCHER_FILES = ["cluster.yaml", "gcp.yaml", "local.yaml"]


def read_yaml(name):
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_ray_takes_the_launcher_file(name):
    (config,) = read_yaml(name)
    validate_config(prepare_config(config))
    for source in config["file_mounts"].values():
        assert source.startswith("~") or (ROOT / source).exists(), source


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_a_launched_cluster_is_locked(name):
    (config,) = read_yaml(name)
    starts = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert all("--dashboard-host=127.0.0.1" in c and "disable-usage-stats" in c for c in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in c for c in config["setup_commands"])
    assert "RAY_AUTH_MODE=token" in json.dumps(config)
    text = (FOLDER / name).read_text()
    assert "0.0.0.0" not in text
    assert not re.search(r"AKIA|BEGIN .*PRIVATE KEY|secret_access_key", text)


@pytest.mark.parametrize("name", ["cluster.yaml", "gcp.yaml"])
def test_a_rented_cluster_works_on_spot_gpus_and_not_on_its_head(name):
    (config,) = read_yaml(name)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu"]["min_workers"] == 0
    assert config["idle_timeout_minutes"] <= 15
    assert re.search("spot|preemptible", json.dumps(types["gpu"]))
    assert not re.search("spot|preemptible", json.dumps(types["head"]))


def test_ssh_to_rented_machines_is_not_left_to_the_launcher():
    """Ray's default security group opens port 22 to the world, whatever rules are added."""
    (config,) = read_yaml("cluster.yaml")
    for node in config["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"]
        assert node["node_config"]["IamInstanceProfile"]


def test_versions_of_images_are_those_of_the_pins():
    pins = (ROOT / "constraints.txt").read_text()
    ray = re.search(r"^ray==(.*)$", pins, re.MULTILINE)[1]
    for name in ("cluster.yaml", "gcp.yaml"):
        (config,) = read_yaml(name)
        for kind in ("head_image", "worker_image"):
            assert config["docker"][kind].startswith(f"rayproject/ray:{ray}-py311-")
    job, _ = read_yaml("kuberay-rayjob.yaml")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray == version("ray")


def test_kuberay_takes_the_job_and_runs_it_again():
    job, policy = read_yaml("kuberay-rayjob.yaml")
    schema = json.loads(Path(__file__).with_name("rayjob.schema.json").read_text())
    jsonschema.validate(job, schema)
    spec = job["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    pods = [
        spec["submitterPodTemplate"],
        cluster["headGroupSpec"]["template"],
        cluster["workerGroupSpecs"][0]["template"],
    ]
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    for pod in pods:
        assert chosen.items() <= pod["metadata"]["labels"].items()
        names = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for container in pod["spec"]["containers"]:
            mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
            assert set(mounts.values()) <= names
            # whoever gets in can change no program; what Ray and numba write goes to empty folders
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {"/tmp", "/home/ray"} <= mounts.keys()
    assert policy["apiVersion"] == "networking.k8s.io/v1"
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    # no rule lets everybody in
    assert all(rule.get("from") for rule in policy["spec"]["ingress"])
    workers = cluster["workerGroupSpecs"][0]["replicas"]
    assert f"--train_workers {workers}" in spec["entrypoint"]


def test_the_flags_that_the_files_give_exist():
    known = set(Config().to_flat())
    texts = [read_yaml("kuberay-rayjob.yaml")[0]["spec"]["entrypoint"]]
    texts.append((FOLDER / "slurm.sbatch").read_text().split('"${train[@]}"')[1])
    readme = (FOLDER / "README.md").read_text()
    texts += re.findall(r"train\.py[^`]*", readme)
    flags = {flag for text in texts for flag in re.findall(r"--([a-z]+(?:_[a-z]+)+)", text)}
    assert flags
    assert flags <= known, flags - known


def test_the_policies_give_the_bucket_and_no_more():
    policy = json.loads((FOLDER / "s3-policy.json").read_text())
    for statement in policy["Statement"]:
        actions = statement["Action"]
        assert "*" not in "".join(actions if isinstance(actions, list) else [actions])
        resources = statement["Resource"]
        for resource in resources if isinstance(resources, list) else [resources]:
            assert resource.startswith("arn:aws:s3:::YOUR-BUCKET")


def test_a_head_ends_only_machines_of_its_cluster_and_starts_only_the_types_of_its_workers():
    """Whoever may tag any machine may end it: the right to end machines goes by a tag."""
    (config,) = read_yaml("cluster.yaml")
    worker = config["available_node_types"]["gpu"]["node_config"]["InstanceType"]
    own = {"aws:ResourceTag/ray-cluster-name": config["cluster_name"]}
    head = json.loads((FOLDER / "head-policy.json").read_text())
    for statement in head["Statement"]:
        actions = statement["Action"]
        actions = actions if isinstance(actions, list) else [actions]
        conditions = statement.get("Condition", {}).get("StringEquals", {})
        looks = [each for each in actions if re.match(r"ec2:Describe|iam:Get", each)]
        assert statement["Resource"] != "*" or looks == actions
        if "ec2:TerminateInstances" in actions:
            assert conditions == own
        if "ec2:CreateTags" in actions:
            assert conditions in (own, {"ec2:CreateAction": "RunInstances"})
        if "ec2:RunInstances" in actions and "instance/*" in str(statement["Resource"]):
            assert conditions["ec2:InstanceType"] == [worker]
        if "iam:PassRole" in actions:
            assert conditions == {"iam:PassedToService": "ec2.amazonaws.com"}
            assert statement["Resource"].endswith("role/ophnet-worker")
    machines = read_yaml("gcp.yaml")[0]["available_node_types"].values()
    assert all(machine["node_config"].get("serviceAccounts") for machine in machines)


@pytest.mark.parametrize("name", ["cluster/slurm.sbatch", "tests/cluster/node.sh"])
def test_shell_scripts_are_sound(name):
    subprocess.run(["bash", "-n", ROOT / name], check=True)
    done = subprocess.run(["shellcheck", ROOT / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_slurm_reads_the_options_of_the_job():
    """``sbatch`` stops at the first command: options below it would be comments."""
    lines = (FOLDER / "slurm.sbatch").read_text().splitlines()
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH ")]
    commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    assert options[-1] < commands[0]
    for i in options:
        assert re.fullmatch(r"#SBATCH --[a-z-]+(=[\w:@%.-]+)?", lines[i]), lines[i]
    assert "#SBATCH --requeue" in lines


def test_a_slurm_job_starts_one_ray_on_all_nodes_and_trains(tmp_path):
    """Run the script with stand-ins for Slurm and Ray that record how they are called.

    Slurm starts a step in the background, so nothing says that it has begun when the script goes
    on. The training of this test therefore ends only after both steps have recorded their call.
    """
    home, calls, steps = tmp_path / "home", tmp_path / "calls", tmp_path / "steps"
    os.mkfifo(steps)
    bin_ = home / "ophnet-ray/.venv/bin"
    bin_.mkdir(parents=True)
    python = shutil.which("python")
    programs = {
        "srun": f'echo "srun $*" >> {calls}; case "$*" in *hostname*) echo 10.0.0.1;; '
        f"*) echo started > {steps}; exec sleep 60;; esac",
        "scontrol": "printf 'n1\\nn2\\n'",
        "ray": "exit 0",
        "python": f"""[ "$1" = -c ] && exec {python} "$@"
echo "python $*" >> {calls}
exec 3<> {steps}
read -t 50 -u 3 && read -t 50 -u 3 && exit 3
echo "a step of the job did not start" >&2; exit 4""",
    }
    for name, body in programs.items():
        (bin_ / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_ / name).chmod(0o755)
    (bin_ / "activate").write_text(f"export PATH={bin_}:$PATH\n")
    env = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_SUBMIT_DIR": str(ROOT)}
    done = subprocess.run(
        ["bash", FOLDER / "slurm.sbatch", "--csv_path", "my segments.csv"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "8", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 3, done.stderr  # the code of train.py
    starts = [line for line in calls.read_text().splitlines() if "ray start" in line]
    # two background steps, which may record their calls in either order
    worker, head = sorted(starts, key=lambda line: "--head" in line)
    assert "--nodelist=n1" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--nodelist=n2" in worker
    port = re.search(r"--port=(\d+)", head)[1]
    assert f"--address=10.0.0.1:{port}" in worker
    assert not Path(re.search(r"--temp-dir=(\S+)", head)[1]).exists()
    assert "--csv_path my segments.csv" in calls.read_text()
    assert not list(home.glob(".ophnet-7-*"))  # the token is gone


def test_the_image_is_sound():
    text = (FOLDER / "Dockerfile").read_text()
    done = subprocess.run(
        ["hadolint", FOLDER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^FROM python:3\.11\.\d+-slim-\w+$", text, re.MULTILINE)
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    assert not re.search(r"token|secret|password", text.replace("RAY_AUTH_MODE=token", ""))
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in line.split()[:-1]), line
