"""containerd: ``ctr`` takes an archive without the blobs that are in its content store, or ``nerdctl`` a whole one.

Both read CONTAINERD_ADDRESS, CONTAINERD_NAMESPACE and CONTAINERD_SNAPSHOTTER themselves.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence

from ..clients import check_layer_count
from ..errors import DestinationError
from ..image import ImageName
from . import Held, Refused
from .program import ProgramLoad, ask, find_program

__all__ = ["Containerd"]

_ADDRESS = "/run/containerd/containerd.sock"  # ctr's own
_SOON = "--connect-timeout=1s"  # instead of ten; a program of ctr's name may know a containerd elsewhere


class Containerd:
    """The containerd that the program on PATH speaks to.

    An import that fails leaves a name, so each is loaded under another.
    """

    checks = True

    def __init__(self) -> None:
        self._program = find_program("ctr", "nerdctl")

    def held(self, codecs: Sequence[str]) -> Held:
        """The digests of all blobs; nerdctl tells of none."""
        check_layer_count("containerd", len(codecs))
        if self._program == "nerdctl":
            return Held()
        listed = ask("ctr", *([] if _is_listening() else [_SOON]), "content", "ls", "--quiet")
        return Held(digests=frozenset(re.findall("^sha256:[0-9a-f]{64}$", listed, re.MULTILINE)))

    def load(self) -> ProgramLoad:
        """Begin an import, which unpacks the image too.

        When containerd goes away the program asks for it again and again, without an end.
        """
        if self._program == "nerdctl":
            return ProgramLoad("nerdctl", "load", "--all-platforms", alive=("nerdctl", "namespace", "ls"))
        return ProgramLoad("ctr", "images", "import", "--all-platforms", "-", alive=("ctr", "version"))

    def accept(self, loaded: ImageName, name: ImageName) -> None:
        """See that all blobs are there and unpacked, and name the image. nerdctl's exit status has said so before."""
        before, after = loaded.normalised or "", name.normalised or ""
        if self._program == "nerdctl":
            ask("nerdctl", "tag", before, after)
        else:
            if before not in ask("ctr", "images", "check", "--quiet", f"name=={before}").split():
                raise Refused(f"ctr images check: {name.full} is not whole")
            ask("ctr", "images", "tag", "--force", before, after)
        self.drop(loaded)

    def drop(self, loaded: ImageName) -> bool:
        """Remove a name; ctr does not tell one that is not there."""
        remove = ("nerdctl", "rmi") if self._program == "nerdctl" else ("ctr", "images", "rm")
        try:
            ask(*remove, loaded.normalised or "")
        except DestinationError:
            return False
        return True


def _is_listening() -> bool:
    """Whether anybody listens where ctr looks for containerd, as far as that can be told."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            connection.connect((os.environ.get("CONTAINERD_ADDRESS") or _ADDRESS).removeprefix("unix://"))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return False
        except OSError:  # who is busy takes no more connections at once
            pass
    return True
