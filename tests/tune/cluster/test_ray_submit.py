"""`ray up` and `ray submit` with experiments/cluster/local.yaml, over a real SSH to this machine."""

import getpass
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tune.cluster.test_connect import SMALL
from tests.tune.conftest import ROOT, TINY, Head, free_port, stop_all

SSHD = Path("/usr/sbin/sshd")
MISSING = [name for name in ("ssh", "rsync", "bash", "pkill") if not shutil.which(name)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SSHD.is_file(), reason="openssh-server is not installed"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@contextmanager
def sshd(folder: Path, home: Path, key: Path) -> Iterator[int]:
    """A server on a port of loopback of its own, with keys of its own; who comes in is at home in `home`."""
    port = free_port()
    for name in (folder / "host", key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name], check=True)
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder / 'host'}",
        f"AuthorizedKeysFile {key}.pub",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "PermitRootLogin prohibit-password",
        "PidFile none",
        f"SetEnv HOME={home} PIP_NO_BUILD_ISOLATION=0 PIP_DISABLE_PIP_VERSION_CHECK=1",
    ]
    (folder / "config").write_text("\n".join(lines) + "\n")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=(folder / "log").open("w"))
    try:
        yield port
    finally:
        server.terminate()
        server.wait(10)


def make_python(home: Path) -> None:
    """~/sfc-env as if it had been installed before: with the libraries of the Python that runs the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "sfc-env"], check=True)
    [packages] = (home / "sfc-env" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ray = home / "sfc-env" / "bin" / "ray"
    ray.write_text(f"#!{home}/sfc-env/bin/python\nfrom ray.scripts.scripts import main\nmain()\n")
    ray.chmod(0o755)


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sfc", dir="/tmp"))  # short: the names of sockets are below it
    yield folder
    stop_all(folder)
    shutil.rmtree(folder, ignore_errors=True)


def running(folder: Path, client: int) -> list[str]:
    """Processes of the Ray that `ray up` started."""
    found = subprocess.run(
        ["pgrep", "-fa", f"{folder}/ray/|client.server.*port={client}"], capture_output=True, text=True
    )
    return found.stdout.splitlines()


def test_submit_by_ssh_beside_another_ray(folder: Path, head: Head) -> None:
    here, there = folder / "here", folder / "there"
    (here / ".ray").mkdir(parents=True)
    there.mkdir()
    (here / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    (here / "small.yaml").write_text(SMALL)
    (there / ".bashrc").write_text("cd\n")  # sshd starts shells in the account's own home folder
    make_python(there)
    with sshd(folder, there, here / "key") as port:
        proxy = here / "proxy"  # nc is not everywhere
        proxy.write_text(f"#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{port}\ncat <&3 &\nexec cat >&3\n")
        proxy.chmod(0o755)
        text = (ROOT / "experiments" / "cluster" / "local.yaml").read_text()
        gcs, dashboard, client = free_port(), free_port(), free_port()
        for old, new in {
            "sfc-local": folder.name,
            "192.168.1.10\n": "127.0.0.1\n",
            "ssh_user: ray": f"ssh_user: {getpass.getuser()}",
            "~/.ssh/id_ed25519": str(here / "key"),
            "# ssh_proxy_command: nc %h 2222 ": f"ssh_proxy_command: {proxy} ",
            "6380": str(gcs),
            "8275": str(dashboard),
            "9998": str(client),
            "999[8]": f"{client // 10}[{client % 10}]",
            "/tmp/sfc-ra[y]": f"{folder}/ra[y]",
            "/tmp/sfc-ray": f"{folder}/ray --num-cpus=2 --object-store-memory=100000000",
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        (here / "cluster.yaml").write_text(text)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "HOME": str(here),
            "TMPDIR": str(here),
            "RAY_TMPDIR": str(here),
            "RAY_AUTH_MODE": "token",
        }

        def ray(command: str, *words: str) -> str:
            done = subprocess.run(
                [f"{sys.prefix}/bin/ray", command, *words],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=400,
            )
            assert done.returncode == 0, done.stdout + (folder / "log").read_text()
            return done.stdout

        cluster = str(here / "cluster.yaml")
        ray("up", "-y", "--disable-usage-stats", cluster)
        assert running(folder, client)
        space = ["--space", str(here / "small.yaml"), "--study", "small"]
        started = time.monotonic()
        said = ray("submit", "--disable-usage-stats", cluster, "tune/search.py", "--", *space, *TINY)
        print(f"{time.monotonic() - started:.0f} s\n{said}")
        assert "2/2 done" in said
        assert (there / "results" / "final" / "small" / "best.yaml").is_file()
        assert not (there / "sfc-wsss" / "tests").exists() and not (there / "sfc-wsss" / ".git").exists()
        dry = ray(
            "submit", "--disable-usage-stats", cluster, "tune/search.py", "--", "--space", "msdw.yaml", "--dry-run"
        )
        assert "started" in dry and "there is no file" not in dry, "a shipped space is found from the home folder"
        ray("exec", cluster, f"pkill -9 -f '{folder}/ra[y]/session_|client.server.*port={client // 10}[{client % 10}]'")
        deadline = time.monotonic() + 30
        while left := running(folder, client):
            assert time.monotonic() < deadline, left
            time.sleep(1)

    assert head.process.poll() is None
    assert head.ray("status", "--address", head.address).returncode == 0, "the Ray that ran before"
