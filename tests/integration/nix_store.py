"""A Nix store of a test's own."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from integration.clients import call

__all__ = ["Store"]


@dataclass
class Store:
    """A Nix store of a test's own, of a single user, without a daemon."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "conf").mkdir(parents=True)
        (self.folder / "conf/nix.conf").write_text(
            "build-users-group =\nsandbox = false\nfilter-syscalls = false\nsubstituters =\nfsync-metadata = false\n"
            "experimental-features = nix-command flakes\n"
        )
        self.environment = {
            **os.environ,
            "NIX_STORE_DIR": str(self.folder / "store"),
            "NIX_STATE_DIR": str(self.folder / "state"),
            "NIX_LOG_DIR": str(self.folder / "log"),
            "NIX_CONF_DIR": str(self.folder / "conf"),
            "NIX_REMOTE": "local",
            "NIX_PATH": "",
            "HOME": str(self.folder),
        }
        self.call("nix-store", "--init")

    def call(self, *command: str | Path) -> str:
        return call(*command, env=self.environment).strip()

    @property
    def database(self) -> Path:
        return self.folder / "state/db/db.sqlite"
