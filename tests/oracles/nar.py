"""Nix's serialisation of a tree: slow, obvious, as E. Dolstra's thesis of 2006 defines it (figure 5.2)."""

import hashlib
import os
import stat


def text(data: bytes) -> bytes:
    """A string: its length in eight bytes, the bytes, zeros to a multiple of eight."""
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)


def words(*parts: str) -> bytes:
    return b"".join(text(part.encode()) for part in parts)


def node(path: bytes) -> bytes:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return words("(", "type", "symlink", "target") + text(os.readlink(path)) + words(")")
    if stat.S_ISDIR(mode):
        entries = [
            words("entry", "(", "name") + text(name) + words("node") + node(os.path.join(path, name)) + words(")")
            for name in sorted(os.listdir(path))
        ]
        return words("(", "type", "directory") + b"".join(entries) + words(")")
    with open(path, "rb") as file:
        executable = words("executable", "") if mode & stat.S_IXUSR else b""
        return words("(", "type", "regular") + executable + words("contents") + text(file.read()) + words(")")


def nar(path: str | os.PathLike[str]) -> bytes:
    """The NAR of what is at a path."""
    return words("nix-archive-1") + node(os.fsencode(path))


def nar_hash(path: str | os.PathLike[str]) -> str:
    """As Nix's database has it."""
    return "sha256:" + hashlib.sha256(nar(path)).hexdigest()
