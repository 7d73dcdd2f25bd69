"""cluster/local.yaml on two real nodes: ray up, ray job submit, ray submit, open ports."""

import json
import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.lab import ADDRESSES, Lab, find_obstacle
from tests.helpers.bucket import Bucket
from tests.helpers.paths import ROOT
from tests.helpers.processes import tied
from tests.helpers.videos import write_color_dataset
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COLORS = "/mnt/colors/segments.csv"
TINY = "--image_size 64 --backbone test_resnet --no_pretrained --num_workers 2"
SMALL = f"{TINY} --max_epochs 2 --train_workers 2"
PLACED = f"{SMALL} --placement_strategy STRICT_SPREAD --wait_for_nodes_s 120".split()
HOME = ["--storage_path", "/mnt/my runs", "--output_pth", "/mnt/my model.ckpt"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Start the two nodes of cluster/local.yaml; with the client's path of the launcher file."""
    if obstacle := find_obstacle():
        pytest.skip(f"no cluster of namespaces on this machine: {obstacle}")
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    # one list of fonts for all nodes: each would look for all fonts of the machine
    quick = {"MPLCONFIGDIR": "/mnt/matplotlib"}
    # as in tests/conftest.py
    quick["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "0"
    lab = Lab(tmp_path_factory.mktemp("lab"), {name: os.environ[name] for name in names} | quick)
    try:
        lab.up()
        lab.run("client", "ray", "get-auth-token", "--generate")
        lab.run("client", "chmod", "600", "/root/.ray/auth_token")
        launcher_file = lab.write_launcher_file()
        start_cluster(lab, launcher_file)
        write_color_dataset(lab.shared / "colors")
        yield lab, launcher_file
    finally:
        lab.down()


@pytest.fixture(scope="module")
def bucket(cluster):
    """Serve S3 on the client, which every node reaches."""
    lab, _ = cluster
    server = subprocess.Popen(
        lab.enter("client", "python", "tests/helpers/bucket_server.py", ADDRESSES["client"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    bucket = Bucket(f"http://{ADDRESSES['client']}:{server.stdout.readline().strip()}")
    create = "import sys, boto3; boto3.client('s3', endpoint_url=sys.argv[1], "
    create += "region_name='us-east-1').create_bucket(Bucket='surgery')"
    lab.run("client", "python", "-c", create, bucket.endpoint)
    yield bucket
    server.communicate(timeout=30)


def start_cluster(lab, launcher_file):
    """Run ``ray up``, again if it fails: a head has ten seconds, too few on a busy machine."""
    command = ("ray", "up", launcher_file, "--yes")
    code, _ = lab.try_run("client", *command, timeout_s=300)
    if code:
        lab.run("client", *command, timeout_s=300)


def submit(cluster, *flags, script="train.py"):
    """Call ``ray submit`` as in cluster/README.md: arguments quoted for the shell of the head."""
    lab, launcher_file = cluster
    quoted = [shlex.quote(flag) for flag in flags]
    command = ["ray", "submit", launcher_file, str(ROOT / script), "--", *quoted]
    return lab.try_run("client", *command, timeout_s=400)


def answer_of(text):
    lines = [line.split(":", 1) for line in text.splitlines() if re.match(r"\w+: +\S", line)]
    return {name: value.strip() for name, value in lines}


def submit_job(cluster, *flags):
    """Call ``ray job submit`` through the tunnel of ``ray dashboard``; return what it prints."""
    lab, launcher_file = cluster
    tunnel = subprocess.Popen(
        tied(lab.enter("client", "ray", "dashboard", launcher_file)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_port(lab, 8265)
        job = "ray job submit --address http://127.0.0.1:8265 --working-dir . -- python train.py"
        return lab.run("client", *job.split(), *flags, timeout_s=400)
    finally:
        tunnel.terminate()
        tunnel.wait()


def wait_for_port(lab, port):
    wait_until(
        lambda: lab.try_run("client", "bash", "-c", f"</dev/tcp/127.0.0.1/{port}")[0] == 0,
        f"port {port} is open",
        poll_s=0.5,
    )


IN_SECOND_EPOCH = """
import sys
from ophnet_ray.storage.files import list_objects
from tests.helpers.waiting import wait_until
def is_in_second_epoch():
    names = list_objects(sys.argv[1], recursive=True)
    return any("unfinished/epoch=0001" in name and "manifest" in name for name in names)
# each look lists the bucket, whose server has a core to share
wait_until(is_in_second_epoch, "a checkpoint of the second epoch is there", 300, poll_s=0.5)
"""
UPLOAD = """
import sys
from pathlib import Path
from ophnet_ray.storage.paths import join
from ophnet_ray.storage.files import upload
for file in Path(sys.argv[1]).iterdir():
    upload(file, join(sys.argv[2], file.name))
"""
READ = "import sys; from ophnet_ray.storage.files import read_bytes; "
READ += "print(*(read_bytes(uri).decode() for uri in sys.argv[1:]))"


def test_a_run_in_a_bucket_is_completed_after_its_node_is_lost(cluster, bucket):
    """Cut the power of the head in mid-epoch: the driver and a train worker go with it.

    The head comes back without its local copies of the bucket. The same command is given again, as
    a job, and trains with one worker on each node.
    """
    lab, launcher_file = cluster
    lab.run("client", "python", "-c", UPLOAD, "/mnt/colors", bucket.uri("colors"))
    flags = [*PLACED, "--max_epochs", "3", "--batch_size", "1", "--every_n_train_steps", "2"]
    flags += ["--csv_path", bucket.uri("colors/segments.csv"), "--cache_dir", bucket.uri("cache")]
    flags += ["--storage_path", bucket.uri("runs"), "--output_pth", bucket.uri("model.ckpt")]
    flags += ["--lr", "2e-3", "--name", "lost"]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(submit, cluster, *flags)
        waited, output = lab.try_run(
            "client", "python", "-c", IN_SECOND_EPOCH, bucket.uri("runs/lost"), timeout_s=320
        )
        lab.kill("head")
        code, text = first.result()
    assert waited == 0, f"{output}\n{text}"
    assert code != 0, text
    lab.boot("head")
    start_cluster(lab, launcher_file)
    text = submit_job(cluster, *flags)
    print(text)
    assert "succeeded" in text
    assert answer_of(text)["checkpoint"] == bucket.uri("model.ckpt")
    logs = ("logs/train-rank-0.log", "logs/train-rank-1.log", "logs/driver.log")
    content = lab.run(
        "client",
        "python",
        "-c",
        READ,
        *(bucket.uri(f"runs/lost/{n}") for n in ("metrics.jsonl", *logs)),
    )
    assert re.findall(r'"epoch": (\d+)', content) == ["0", "1", "2"]
    assert re.search(r"resuming after step \d+ of epoch 2", content), content
    assert "decoded 0 of 0 videos" in content
    hosts = re.findall(r"is process \d+ on (\S+)", content)
    assert {host.rpartition("-")[2] for host in hosts} == {"head", "worker"}


def test_ray_submit_searches_on_the_nodes_and_uses_the_same_cache(cluster, bucket):
    """After the run above, the search decodes nothing."""
    lab, _ = cluster
    flags = f"{TINY} --max_epochs 1 --searcher grid --search lr=choice(1e-3,2e-3)".split()
    flags += ["--lr", "1e-3"]  # the settings as given are a trial of the grid
    flags += ["--csv_path", bucket.uri("colors/segments.csv"), "--cache_dir", bucket.uri("cache")]
    code, text = submit(cluster, *flags, *HOME, "--name", "a search", script="tune.py")
    print(text)
    assert code == 0, text
    assert answer_of(text)["checkpoint"] == "/mnt/my model.ckpt"
    assert (lab.shared / "my model.ckpt").is_file()
    assert "decode   nothing: all videos are in the cache" in text
    search = lab.shared / "my runs/a search"
    table = (search / "trials.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in table] == ["state", "finished", "finished"]
    assert (search / "best.yaml").is_file()


def test_no_door_opens_to_a_stranger_on_the_network_of_the_cluster(cluster):
    """Ask each port without a token and with a wrong one; only Prometheus figures are public."""
    lab, _ = cluster
    wait_until(
        lambda: "2 local.cluster.node" in lab.run("head", "ray", "status"),
        "the worker has joined",
    )
    knocked = set()
    for node in ("head", "worker"):
        listening = {row.split()[3] for row in lab.run(node, "ss", "-Hltn").splitlines()}
        inside = {door for door in listening if door.startswith(("127.", "[::1]", "[::ffff:127."))}
        ports = {door.rpartition(":")[2] for door in listening - inside} - {"22"}
        doors = sorted(f"{ADDRESSES[node]}:{port}" for port in ports)
        text = lab.run("client", "python", "tests/cluster/doors.py", *doors)
        opened = json.loads(text.splitlines()[-1])
        print(node, sorted(inside), doors, opened)
        assert any(door.endswith(":8265") for door in inside) == (node == "head")
        assert len(doors) >= 4
        knocked |= set(opened)
    command = "import ray; ray.init('auto'); print(*['{NodeManagerAddress}:{MetricsExportPort}'"
    command += ".format(**n) for n in ray.nodes()])"
    figures = lab.run("head", "python", "-c", command).split()[-2:]
    # the head's own: its autoscaler's and its dashboard's
    assert knocked == {*figures, f"{ADDRESSES['head']}:44217", f"{ADDRESSES['head']}:44227"}
    code, text = lab.try_run("client", "ray", "list", "nodes", RAY_AUTH_MODE="disabled")
    assert code != 0, text


def test_a_cluster_that_is_open_to_its_network_is_refused_in_one_line(cluster):
    """Start a second cluster on the client without a token, as `ray start --head` does.

    Its dashboard is on loopback. Its head answers the network all the same.
    """
    lab, _ = cluster
    start = "ray start --head --port=6379 --num-cpus=1 --object-store-memory=100000000"
    start += f" --node-ip-address={ADDRESSES['client']}"
    # the usual port is still held by the tunnel of `ray dashboard`, and Ray starts without one then
    start += " --dashboard-port=8299"
    lab.run("client", *start.split(), RAY_AUTH_MODE="disabled")
    wait_for_port(lab, 8299)
    train = ["python", "train.py", *SMALL.split(), "--cache_dir", "/mnt/my runs/cache"]
    train += ["--csv_path", COLORS]
    code, text = lab.try_run("client", *train, RAY_AUTH_MODE="disabled", timeout_s=200)
    assert code == 2, text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"the Ray cluster {ADDRESSES['client']}:6379 answers without a token" in errors[0]
    assert "RAY_AUTH_MODE=token" in errors[0]


def test_storage_that_the_nodes_do_not_share_is_refused_in_one_line(cluster):
    flags = [*SMALL.split(), "--cache_dir", "/mnt/my runs/cache", "--csv_path", COLORS]
    code, text = submit(cluster, *flags)
    assert code != 0
    error = next(line for line in text.splitlines() if line.startswith("error: "))
    worker = re.escape(ADDRESSES["worker"])
    assert re.match(rf"error: node {worker} \(\S+\) does not see --storage_path /\S+", error)


def test_a_node_with_other_code_is_named(cluster):
    """Give the worker a package of its own that differs in a comment."""
    lab, _ = cluster
    other = "/root/other"
    lab.run("worker", "mkdir", "-p", other)
    lab.run("worker", "cp", "-r", str(ROOT / "ophnet_ray"), other)
    lab.run("worker", "mount", "--bind", f"{other}/ophnet_ray", str(ROOT / "ophnet_ray"))
    try:
        lab.run("worker", "bash", "-c", f"echo '# edited' >> {other}/ophnet_ray/errors.py")
        code, text = submit(cluster, *PLACED, *HOME, "--csv_path", COLORS, "--name", "other")
    finally:
        lab.run("worker", "umount", str(ROOT / "ophnet_ray"))
    assert code != 0
    error = next(line for line in text.splitlines() if line.startswith("error: "))
    assert f"node {ADDRESSES['worker']}" in error
    assert "has ophnet-ray 0.1.0+" in error


def test_a_check_names_each_node_that_does_not_see_a_path(cluster):
    lab, _ = cluster
    command = ["python", "-m", "ophnet_ray", "check", "--csv_path", COLORS]
    flags = ["--cache_dir", "/mnt/my runs/cache", "--output", "/mnt/check"]
    # the worker comes when it is asked for
    flags += ["--storage_path", "/root/own runs", *PLACED]
    code, text = lab.try_run("head", *command, *flags, timeout_s=300)
    assert code == 2, text
    assert "6 of 6" in text
    page = (lab.shared / "check/report.html").read_text()
    assert re.search(rf"node {ADDRESSES['worker']} \(\S+\) does not see --storage_path", page)
    assert page.count('<td class="error">') == 1
