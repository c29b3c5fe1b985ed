"""A layer's tar by CPython's own tarfile and pathlib: slow, obvious, what nixpkgs' stream_layered_image.py does."""

import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """What every entry of a layer has in common."""

    uid: int = 0
    gid: int = 0
    uname: str = "root"
    gname: str = "root"
    mtime: int = 1

    def apply(self, info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid, info.gid, info.uname, info.gname, info.mtime = (
            self.uid,
            self.gid,
            self.uname,
            self.gname,
            self.mtime,
        )
        return info

    def directory(self, path: str) -> tarfile.TarInfo:
        """A directory that is made for the image."""
        info = tarfile.TarInfo(path)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        return self.apply(info)


def layer(root: Path, paths: Sequence[str], owner: Owner, parents: Sequence[str] = ()) -> bytes:
    """The tar of trees: ``paths`` are absolute names in the archive, their files are below ``root``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for parent in parents:
            tar.addfile(owner.directory(parent))
        for path in paths:
            top = root / path[1:]
            below = [] if top.is_symlink() else top.rglob("*")
            for entry in sorted([top, *below]):
                # No TarFile is asked twice, so that it never sees a hard link to a file that it knows.
                with tarfile.TarFile(os.devnull, "w") as fresh:
                    info = fresh.gettarinfo(entry, "/" + str(entry.relative_to(root)))
                info.name = "/" + str(entry.relative_to(root))  # gettarinfo takes the slash away
                if info.isreg():
                    with entry.open("rb") as file:
                        tar.addfile(owner.apply(info), file)
                else:
                    tar.addfile(owner.apply(info))
    return out.getvalue()


def with_xattrs(info: tarfile.TarInfo, xattrs: Sequence[tuple[str, bytes]]) -> bytes:
    """An entry's headers, with extended attributes behind all other pax records, as star and GNU tar name them."""
    plain = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    records, last = b"", plain[-tarfile.BLOCKSIZE :]
    if len(plain) > tarfile.BLOCKSIZE:
        records = plain[tarfile.BLOCKSIZE :][: int(plain[124:135], 8)]
    for name, value in sorted(xattrs, key=lambda item: os.fsencode(item[0])):
        text = b" SCHILY.xattr." + os.fsencode(name) + b"=" + value + b"\n"
        length = next(n for n in range(len(text), len(text) + 20) if len(str(n)) + len(text) == n)
        records += str(length).encode() + text
    if not records:
        return plain
    extended = tarfile.TarInfo("././@PaxHeader")
    extended.type, extended.mode, extended.size = tarfile.XHDTYPE, 0, len(records)
    return extended.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % tarfile.BLOCKSIZE) + last


def header(name: str, size: int, mode: int, owner: Owner) -> bytes:
    """The header of a file of any size, with the pax header before it where it needs one."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, mode
    return owner.apply(info).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
