"""The programs that take images, each with a place of its own and nothing shared with the machine's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from required import require_root, require_tool

_PATIENCE = 60  # seconds that a server may take to start or to end; nothing is measured by it


def call(*command: str | Path, **options: Any) -> str:
    """Run a program that has to succeed, and give its output."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def fastlayers(*arguments: str | Path, **options: Any) -> str:
    """Run fastlayers, which has to succeed, and give its output."""
    return call(sys.executable, "-m", "fastlayers", *arguments, **options)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A folder with a short name, since a socket's may have 107 bytes; whatever is mounted below it goes too."""
    folder = Path(tempfile.mkdtemp(prefix="fastlayers-"))
    try:
        yield folder
    finally:
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{folder}/")]):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def end(server: subprocess.Popen[bytes]) -> None:
    """End a server of our own."""
    server.terminate()
    try:
        server.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


class Engine:
    """What docker and podman have in common."""

    command: Sequence[str]
    run_options: Sequence[str] = ()
    environment: dict[str, str]

    def call(self, *arguments: str | Path, **options: Any) -> str:
        return call(*self.command, *arguments, env=self.environment, **options)

    @contextlib.contextmanager
    def loaded(self, archive: Path, name: str) -> Iterator[str]:
        """Load an archive that names its image; at the end the engine forgets all that it has.

        A layer that an engine has is not read again, so that a later test would prove nothing.
        """
        try:
            printed = self.call("load", "-i", archive)
            assert name in printed, printed
            yield name
        finally:
            self.forget()

    def run(self, image: str, *arguments: str, options: Sequence[str] = ()) -> str:
        """Run the image's command, or another, in a container; its output."""
        return self.call("run", "--rm", "--network", "none", *self.run_options, *options, image, *arguments)

    def inspect(self, image: str) -> Any:
        return json.loads(self.call("image", "inspect", image))[0]

    def forget(self) -> None:
        images = sorted(set(self.call("images", "-aq").split()))
        if images:
            self.call("rmi", "--force", *images)

    def names(self) -> list[str]:
        """The names of all images, sorted."""
        listed = self.call("images", "--format", "{{.Repository}}:{{.Tag}}").split()
        return sorted(name for name in listed if "<none>" not in name)


class Docker(Engine):
    """A dockerd of our own on a socket of our own."""

    def __init__(self, folder: Path) -> None:
        require_root("dockerd")
        daemon, client = require_tool("dockerd"), require_tool("docker")
        require_tool("containerd")
        require_tool("runc")
        socket = f"unix://{folder}/s"
        self.command = [client]
        (folder / "client").mkdir()
        self.environment = {**os.environ, "DOCKER_HOST": socket, "DOCKER_CONFIG": f"{folder}/client"}
        self._log = folder / "log"
        off = ("--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false")
        places = (f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid")
        with self._log.open("wb") as log:
            self._daemon = subprocess.Popen(
                [daemon, *off, *places, "--config-file=", "-H", socket],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        last = time.monotonic() + _PATIENCE
        while subprocess.run([client, "version"], check=False, capture_output=True, env=self.environment).returncode:
            if self._daemon.poll() is not None or time.monotonic() > last:
                self.close()
                raise RuntimeError(f"dockerd does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        return self._daemon.pid

    def close(self) -> None:
        end(self._daemon)


class Podman(Engine):
    """podman with a storage of its own."""

    run_options = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")  # more may be refused

    def __init__(self, folder: Path) -> None:
        require_root("podman with its storage on overlays")
        require_tool("runc")
        self.command = [
            require_tool("podman"),
            *("--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"),
            *("--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file"),
            *("--runtime", "runc"),
        ]
        # As users have it who want other global options: a program of this name that is found first.
        wrapper = folder / "bin" / "podman"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(self.command)} "$@"\n')
        wrapper.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


class Containerd:
    """A containerd of our own on a socket of our own, and ctr."""

    def __init__(self, folder: Path) -> None:
        require_root("containerd")
        daemon, self._ctr = require_tool("containerd"), require_tool("ctr")
        require_tool("runc")
        self.environment = {**os.environ, "CONTAINERD_ADDRESS": f"{folder}/s", "CONTAINERD_NAMESPACE": "fastlayers"}
        config = folder / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{folder}/s"\n'
        )
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._daemon = subprocess.Popen(
                [daemon, "--config", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        last = time.monotonic() + _PATIENCE
        while subprocess.run([self._ctr, "version"], check=False, capture_output=True, env=self.environment).returncode:
            if self._daemon.poll() is not None or time.monotonic() > last:
                self.close()
                raise RuntimeError(f"containerd does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def call(self, *arguments: str) -> str:
        return call(self._ctr, *arguments, env=self.environment)

    def names(self) -> list[str]:
        """The names of all images, sorted."""
        return sorted(self.call("images", "ls", "--quiet").split())

    def run(self, image: str) -> str:
        """Run the image's command in a container; its output."""
        return self.call("run", "--rm", image, f"fastlayers-{os.getpid()}")

    def forget(self) -> None:
        names = self.names()
        if names:
            self.call("images", "rm", "--sync", *names)

    def close(self) -> None:
        end(self._daemon)


class Runc:
    """umoci to unpack an OCI layout, runc to run what it gave."""

    def __init__(self, folder: Path) -> None:
        require_root("runc")
        self._folder = folder
        self._umoci, self._runc = require_tool("umoci"), require_tool("runc")

    @contextlib.contextmanager
    def unpacked(self, layout: Path, tag: str) -> Iterator[Path]:
        """Unpack an image; the bundle."""
        bundle = Path(tempfile.mkdtemp(dir=self._folder), "bundle")
        try:
            call(self._umoci, "unpack", "--image", f"{layout}:{tag}", bundle)
            yield bundle
        finally:
            shutil.rmtree(bundle.parent)

    def run(self, bundle: Path) -> str:
        """Run the image's own command; its output."""
        file = bundle / "config.json"
        config = json.loads(file.read_text())
        config["process"]["terminal"] = False
        config["process"].pop("rlimits", None)
        config["linux"]["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]
        file.write_text(json.dumps(config))
        name = f"fastlayers-{os.getpid()}-{bundle.parent.name}"
        return call(self._runc, "--root", self._folder / "state", "run", name, cwd=bundle)


@dataclass(frozen=True)
class NixClosure:
    """A closure in the Nix store of this machine: what Nix says of it in three formats, and its root."""

    folder: Path
    root: str

    @property
    def paths(self) -> list[str]:
        return sorted((self.folder / "closure.txt").read_text().split())

    @property
    def command(self) -> str:
        return f"{self.root}/bin/git --version"


def member(archive: Path, name: str) -> bytes:
    """A member of a tar archive."""
    done = subprocess.run(["tar", "-xOf", archive, name], check=True, capture_output=True)
    return done.stdout


def image_config(archive: Path) -> Any:
    """The config of the only image in an archive."""
    (manifest,) = json.loads(member(archive, "manifest.json"))
    return json.loads(member(archive, manifest["Config"]))


def file_digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def layers_of(layout: Path) -> list[Path]:
    """The layers of the only image in an OCI layout, bottom first."""

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(entry["digest"]).read_text())
    return [blob(layer["digest"]) for layer in manifest["layers"]]
