"""A real cluster on one machine: containers of namespaces, each with an address and sshd."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from tests.helpers.paths import ROOT
from tests.helpers.processes import tied
from tests.helpers.quiet_ray import QUIET_RAY
from tests.helpers.waiting import wait_until

ADDRESSES = {"client": "10.77.0.254", "head": "10.77.0.1", "worker": "10.77.0.2"}
TOOLS = ("ip", "ss", "sshd", "ssh", "ssh-keygen", "rsync", "unshare", "nsenter", "ps")
ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
}
SYSTEM_PATH = ("/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
SSHD = """Port 22
ListenAddress {address}
HostKey /root/hostkey
AuthorizedKeysFile /root/.ssh/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""


def find_obstacle() -> str | None:
    """Return why no cluster can be built here, or None."""
    if os.geteuid():
        return "needs root"
    for tool in TOOLS:
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            return f"{tool} is not installed"
    probe = "ip link add pv0 type veth peer name pv1 && ip link add pb0 type bridge"
    probe += " && mount -t proc proc /proc"
    command = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "sh", "-c"]
    done = subprocess.run([*command, probe], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no namespaces here ({done.stderr.strip()})"


class Lab:
    """A client, a head and a worker. ``/mnt`` is shared; each has its own other folders."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._environment = environment  # of every login and command, on all of them
        self.shared = folder / "shared"
        self._prefix = f"lab{os.getpid()}"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        """Start the containers; ``ray up`` starts Ray."""
        self.shared.mkdir(parents=True)
        self._write_commands()
        for name in ADDRESSES:
            self._write_home(name)
        for name in ADDRESSES:
            _sh(f"ip netns add {self._net(name)}")
            _sh(f"ip -n {self._net(name)} link set lo up")
        client = f"ip -n {self._net('client')}"
        _sh(f"{client} link add br0 type bridge")
        _sh(f"{client} addr add {ADDRESSES['client']}/24 dev br0")
        _sh(f"{client} link set br0 up")
        for name in ("head", "worker"):
            node = f"ip -n {self._net(name)}"
            _sh(f"{client} link add {name} type veth peer name eth0 netns {self._net(name)}")
            _sh(f"{client} link set {name} master br0 up")
            _sh(f"{node} addr add {ADDRESSES[name]}/24 dev eth0")
            _sh(f"{node} link set eth0 up")
            _sh(f"{node} route add default via {ADDRESSES['client']}")
        for name in ADDRESSES:
            self.start(name)

    def start(self, name: str) -> None:
        """Switch a machine on."""
        # paths under folders that each container has for itself
        wanted = {sys.prefix, sys.base_prefix, str(ROOT), f"{self.folder}/bin", *sys.path}
        visible = sorted(
            path for path in wanted if path.startswith(("/root/", "/tmp/")) and Path(path).is_dir()
        )
        log = self.folder / "n" / name / "log"
        node = [str(Path(__file__).with_name("node.sh")), str(self.folder / "n" / name)]
        unshare = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child"]
        with log.open("wb") as file:
            net = f"--net=/run/netns/{self._net(name)}"
            command = ["nsenter", net, *unshare, *node, self._net(name), str(self.shared)]
            self._nodes[name] = subprocess.Popen(
                tied([*command, *visible]),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        ready = "Server listening" if name != "client" else ""
        wait_until(
            lambda: ready in log.read_text() and self._pid(name),
            f"{name} is up",
            timeout_s=30,
            details=log.read_text,
        )

    def down(self) -> None:
        """Stop the containers: a namespace ends with its process 1."""
        for name, outer in self._nodes.items():
            self.kill(name)
            outer.wait(timeout=20)
        for name in ADDRESSES:
            subprocess.run(["ip", "netns", "del", self._net(name)], check=False)

    def kill(self, name: str) -> None:
        """Cut the power of a machine."""
        if pid := self._pid(name):
            os.kill(pid, signal.SIGKILL)

    def cut(self, name: str) -> None:
        """Pull the cable of a machine until it is booted: nobody hears that a connection ends."""
        _sh(f"ip -n {self._net('client')} link set {name} down")

    def boot(self, name: str) -> None:
        """Switch on a machine that was killed; its temporary files are lost."""
        _sh(f"ip -n {self._net('client')} link set {name} up")
        self._nodes[name].wait(timeout=20)
        shutil.rmtree(self.folder / "n" / name / "tmp")
        self._make_tmp(name)
        self.start(name)

    def run(self, node: str, *command: str, timeout_s: float = 120, **env: str) -> str:
        """Run a command on a node; return its output, both streams.

        Raises:
            AssertionError: It failed.
        """
        code, text = self.try_run(node, *command, timeout_s=timeout_s, **env)
        assert code == 0, f"{command} ended with {code}:\n{text[-6000:]}"
        return text

    def try_run(
        self, node: str, *command: str, timeout_s: float = 120, **env: str
    ) -> tuple[int, str]:
        """Run a command on a node; return its exit code and its output, both streams."""
        done = subprocess.run(
            self.enter(node, *command, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=timeout_s,
        )
        return done.returncode, done.stdout.decode(errors="replace").replace("\r", "")

    def enter(self, node: str, *command: str, **env: str) -> list[str]:
        """Return the command line that runs a command on a node, in the folder of the project."""
        folders = [f"{self.folder}/bin", str(Path(sys.executable).parent), *SYSTEM_PATH]
        path = ":".join(folders)
        variables = [
            f"{name}={value}"
            for name, value in (ENVIRONMENT | self._environment | {"PATH": path} | env).items()
        ]
        inside = ["nsenter", "-t", str(self._pid(node)), "-n", "-p", "-m", "-u", "-i"]
        go = ["bash", "-c", f'cd {ROOT} && exec "$@"', "_"]
        return [*inside, "--", "env", "-i", *variables, *go, *command]

    def write_launcher_file(self) -> str:
        """Write ``cluster/local.yaml`` with its EDIT lines filled in; return its path there.

        Removed: the installation, since the containers share this interpreter. Added: logical CPUs
        and memory, since they share the machine, a faster autoscaler, and less watching.
        """
        config = yaml.safe_load((ROOT / "cluster/local.yaml").read_text())
        config["provider"] |= {"head_ip": ADDRESSES["head"], "worker_ips": [ADDRESSES["worker"]]}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id"}
        config["setup_commands"] = [c for c in config["setup_commands"] if ".venv/bin/pip" not in c]
        config["setup_commands"] = [c for c in config["setup_commands"] if "-m venv" not in c]
        small = "--num-cpus=1 --object-store-memory=200000000"
        settings = QUIET_RAY | {"AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        export = "export " + " ".join(f"{name}={value}" for name, value in settings.items())
        for name in ("head_start_ray_commands", "worker_start_ray_commands"):
            config[name] = [
                f"{export}; {c} {small}" if "ray start" in c else c for c in config[name]
            ]
        path = self.folder / "n/client/root/cluster.yaml"
        path.write_text(yaml.safe_dump(config))
        return "/root/cluster.yaml"

    def _net(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _pid(self, name: str) -> int | None:
        outer = self._nodes[name].pid
        try:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def _write_commands(self) -> None:
        """Write the command ``ray`` for this interpreter."""
        script = self.folder / "bin/ray"
        script.parent.mkdir()
        script.write_text(f"#!{sys.executable}\nfrom ray.scripts.scripts import main\nmain()\n")
        script.chmod(0o755)

    def _make_tmp(self, name: str) -> None:
        tmp = self.folder / "n" / name / "tmp"
        tmp.mkdir()
        tmp.chmod(0o1777)

    def _write_home(self, name: str) -> None:
        home = self.folder / "n" / name / "root"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        home.chmod(0o700)
        self._make_tmp(name)
        # there is no name server: without this file, each lookup of a machine waits for ten seconds
        hosts = ["127.0.0.1 localhost", *(f"{ip} {self._net(of)}" for of, ip in ADDRESSES.items())]
        (self.folder / "n" / name / "hosts").write_text("\n".join(hosts) + "\n")
        exports = [f"export {name}={shlex.quote(v)}\n" for name, v in self._environment.items()]
        exports.append(f"export PATH={self.folder}/bin:{Path(sys.executable).parent}:$PATH\n")
        (home / ".bashrc").write_text("".join(exports))
        key = self.folder / "n/client/root/.ssh/id"
        if name == "client":
            _sh(f"ssh-keygen -q -t ed25519 -N '' -f {key}")
            return
        _sh(f"ssh-keygen -q -t ed25519 -N '' -f {home}/hostkey")
        authorized = home / ".ssh/authorized_keys"
        shutil.copyfile(f"{key}.pub", authorized)
        authorized.chmod(0o600)
        (home / "sshd_config").write_text(SSHD.format(address=ADDRESSES[name]))


def _sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True, stdin=subprocess.DEVNULL)
