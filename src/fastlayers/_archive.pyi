from collections.abc import Iterable
from typing import Self, final

__test__: dict[str, str]

def keeps_xattr(name: str) -> bool: ...

@final
class TarLayer:
    def __new__(
        cls,
        *,
        uid: int,
        gid: int,
        uname: str,
        gname: str,
        mtime: int,
        root: str = "",
        whiteouts: bool = False,
        xattrs: bool = False,
    ) -> Self: ...
    def add_directory(
        self,
        path: str,
        mode: int = 0o755,
        *,
        owner: tuple[int, int] | None = None,
        xattrs: Iterable[tuple[str, bytes]] = (),
    ) -> None: ...
    def add_file(
        self,
        path: str,
        data: bytes,
        mode: int = 0o644,
        *,
        owner: tuple[int, int] | None = None,
        xattrs: Iterable[tuple[str, bytes]] = (),
    ) -> None: ...
    def add_symlink(
        self,
        path: str,
        target: str,
        *,
        owner: tuple[int, int] | None = None,
        xattrs: Iterable[tuple[str, bytes]] = (),
    ) -> None: ...
    def add_part(
        self,
        path: str,
        source: str,
        offset: int = 0,
        size: int = -1,
        mode: int = 0o644,
        *,
        owner: tuple[int, int] | None = None,
        xattrs: Iterable[tuple[str, bytes]] = (),
    ) -> None: ...
    def add_path(self, path: str) -> None: ...
    def add_tree(self, path: str) -> None: ...
    def add_layer(self, other: TarLayer) -> None: ...
    @property
    def memory(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def fingerprint(self) -> int: ...
    def look(self) -> tuple[str, int, int, bool]: ...
    def __len__(self) -> int: ...
    def open(self) -> TarStream: ...
    def open_nar(self, path: str) -> TarStream: ...

@final
class TarStream:
    def __new__(cls, layer: TarLayer, tree: bytes | None = None) -> Self: ...
    @property
    def size(self) -> int: ...
    def readinto(self, buffer: bytearray | memoryview) -> int: ...
    def write_to(self, fd: int, *, splice: bool = False) -> int: ...

def start_writing(fd: int, offset: int, size: int) -> None: ...
def wait_written(fd: int, offset: int, size: int) -> None: ...
