"""A layer: from a recipe to bytes, digests and a descriptor.

This is what worker processes run. It imports neither numpy nor the command line, and everything that goes in or comes
out can be pickled, so that any ``concurrent.futures`` executor can run it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from . import _core
from .compression import Codec
from .contents import Contents, FileList, FilePart, Generated, GeneratedEntry, Tree, file_state
from .digest import pump
from .disk import FileOutput
from .errors import DestinationError, LayerError
from .nar import check_nar_hashes

__all__ = [
    "FileRange",
    "LayerDescriptor",
    "LayerRecipe",
    "LayerTask",
    "MeasuredLayer",
    "NewFile",
    "Output",
    "Profile",
    "Sink",
    "make_layer",
    "measure",
    "rewrite_layer",
    "split_recipe",
]

_TREES = 16  # of a layer are measured at once
_COMPRESSOR_BLOCK = 64 << 20  # a layer below this size is compressed by one thread: others have layers of their own


@dataclass(frozen=True, slots=True)
class Profile:
    """What every entry of a layer has in common. With the tar profile ``nixpkgs`` (docs/formats.md) it makes the bytes.

    Attributes:
        uid, gid: the owner's numbers.
        uname, gname: the owner's names.
        mtime: seconds since 1970, UTC.
    """

    uid: int = 0
    gid: int = 0
    uname: str = "root"
    gname: str = "root"
    mtime: int = 1


@dataclass(frozen=True, slots=True)
class LayerRecipe:
    """All that decides a layer's bytes, but for the files themselves.

    Attributes:
        contents: what is in it. Trees alone are written in this order, as nixpkgs writes store paths; as soon as there
            are lists of files, the entries are united and sorted.
        profile: what all entries have in common.
        root: the folder below which files are read: "/nix/store/x" from root + "/nix/store/x". "" for none.
        parents: the directories that come first, or None for the parents of the contents.
        whiteouts: let names through that start with ".wh.".
        xattrs: keep Linux capabilities and ``user.*`` attributes of what is on disk.
    """

    contents: tuple[Contents, ...]
    profile: Profile = Profile()
    root: str = ""
    parents: tuple[str, ...] | None = None
    whiteouts: bool = False
    xattrs: bool = False


@dataclass(frozen=True, slots=True)
class MeasuredLayer:
    """A layer whose entries have been looked at.

    Attributes:
        recipe: what it is made of.
        size: bytes of its tar.
        table: its entries; None where they would take too much memory with those of the other layers.
    """

    recipe: LayerRecipe
    size: int
    table: _core.TarLayer | None = field(repr=False)

    def tar(self) -> _core.TarLayer:
        """The table; where it is not kept the entries are looked at once more."""
        return measure(self.recipe) if self.table is None else self.table


class Output(Protocol):
    """A layer's stored bytes on their way to one place: :meth:`write` for every block, :meth:`finish`; always
    :meth:`close`, which without :meth:`finish` before it gives the layer up."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes, which are valid until it returns."""

    def finish(self, digest: str, size: int, again: Callable[[Callable[[memoryview], object]], None]) -> int:
        """The bytes are complete, and these are their digest and number; ``again`` sends them once more to a function.

        Returns:
            How many bytes went over a network.
        """

    def close(self) -> None:
        """Release what is held."""


class Sink(Protocol):
    """Where a worker puts a layer's stored bytes; a picklable value."""

    def open(self, known: LayerDescriptor | None, check: Callable[[], object]) -> Output | None:
        """Be ready for the bytes; None where nothing is wanted, since the layer is there already.

        Args:
            known: what the layer will be, where that is known.
            check: to be called while waiting; it raises when the work shall end.

        Raises:
            DestinationError: the layer cannot be put there; so do the output's methods.
        """


@dataclass(frozen=True, slots=True)
class NewFile:
    """A sink: a file that is made, and must not be there."""

    path: str

    def open(self, known: LayerDescriptor | None, check: Callable[[], object]) -> Output:
        """Make the file."""
        with _errors_of(self.path):
            return FileOutput(self.path, os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


@dataclass(frozen=True, slots=True)
class FileRange:
    """A sink: the bytes from ``offset`` on of a file that is there; for processes that share a file system alone."""

    path: str
    offset: int

    def open(self, known: LayerDescriptor | None, check: Callable[[], object]) -> Output:
        """Open the file."""
        with _errors_of(self.path):
            fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            os.lseek(fd, self.offset, os.SEEK_SET)
            return FileOutput(self.path, fd)


@dataclass(frozen=True, slots=True)
class LayerDescriptor:
    """A layer that was made.

    Attributes:
        diff_id: digest of the tar.
        tar_size: bytes of the tar.
        digest: digest of the stored bytes; the diff ID where they are not compressed.
        size: bytes that are stored.
        codec: the codec profile's name.
        media_type_suffix: ``""``, ``"+gzip"`` or ``"+zstd"``.
        entries: how many entries the tar has.
        fingerprint: of the entries as they were on disk, 64 bits.
        seconds: time that it took.
        sent: bytes that went over a network.
    """

    diff_id: str
    tar_size: int
    digest: str
    size: int
    codec: str = "none"
    media_type_suffix: str = ""
    entries: int = 0
    fingerprint: int = field(default=0, repr=False)
    seconds: float = field(default=0.0, compare=False)
    sent: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class LayerTask:
    """A worker's task.

    Attributes:
        recipe: what to make.
        codec: how to compress it.
        sinks: where the stored bytes go; none, when digests are all that is wanted.
        threads: how many threads may work on the layer; they never change a byte.
        table: what :func:`measure` gives for the recipe, where it is known already. It says all that the recipe says,
            which does not travel to another process with it.
        nar_hashes: store paths of the recipe and the NAR hashes that they must have, as "sha256:" and 64 hexadecimal
            digits; checked before the layer is made.
        known: what the layer will be, where that is known; if all sinks have it already, no file is looked at.
    """

    recipe: LayerRecipe
    codec: Codec = Codec()  # noqa: RUF009  frozen
    sinks: tuple[Sink, ...] = ()
    threads: int = 1
    table: _core.TarLayer | None = field(default=None, repr=False)
    nar_hashes: tuple[tuple[str, str], ...] = ()
    known: LayerDescriptor | None = None

    def __reduce__(self) -> tuple[type[LayerTask], tuple[object, ...]]:
        recipe = self.recipe if self.table is None else replace(self.recipe, contents=())
        return LayerTask, (recipe, self.codec, self.sinks, self.threads, self.table, self.nar_hashes, self.known)


def measure(recipe: LayerRecipe) -> _core.TarLayer:
    """Look at every entry of a layer, open no file, and know the exact size of its tar.

    Raises:
        LayerError: something on disk cannot go into a layer, or two nodes own one file; the message names the path.
    """
    profile = recipe.profile
    try:
        layer = _core.TarLayer(
            uid=profile.uid,
            gid=profile.gid,
            uname=profile.uname,
            gname=profile.gname,
            mtime=profile.mtime,
            root=recipe.root,
            whiteouts=recipe.whiteouts,
            xattrs=recipe.xattrs,
        )
    except OverflowError:
        raise LayerError(f"{profile}: a number that no tar header can hold") from None
    trees = [contents.path for contents in recipe.contents if isinstance(contents, Tree)]
    if len(trees) == len(recipe.contents):
        parents = recipe.parents
        for parent in sorted(_parents(trees)) if parents is None else parents:
            layer.add_directory(parent)
        for path in trees:
            layer.add_tree(path)
    else:
        _add_union(layer, recipe)
    return layer


def split_recipe(recipe: LayerRecipe) -> list[LayerRecipe]:
    """Recipes whose layers, one added to the other, are the recipe's: to measure one layer's trees side by side."""
    trees = [contents for contents in recipe.contents if isinstance(contents, Tree)]
    if len(trees) < len(recipe.contents) or len(trees) <= _TREES:
        return [recipe]
    parents = recipe.parents
    if parents is None:
        parents = tuple(sorted(_parents([tree.path for tree in trees])))
    return [
        replace(recipe, contents=recipe.contents[i : i + _TREES], parents=() if i else parents)
        for i in range(0, len(trees), _TREES)
    ]


def _parents(paths: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def _add_union(layer: _core.TarLayer, recipe: LayerRecipe) -> None:
    """Add the sorted union of the entries of nodes that share directories."""
    entries: dict[str, Contents] = {}
    generated: dict[str, GeneratedEntry] = {}
    for contents in recipe.contents:
        if isinstance(contents, Tree):
            paths: Sequence[str] = [contents.path]
        elif isinstance(contents, Generated):
            generated |= {entry.path: entry for entry in contents.entries}
            paths = [entry.path for entry in contents.entries]
        else:
            paths = list(contents.paths())
        for path in paths:
            other = entries.setdefault(path, contents)
            if other is not contents and not _is_directory(recipe.root + path):
                raise LayerError(f"{path}: owned by both {other.owner} and {contents.owner}")
    made = dict.fromkeys(_parents(list(entries)) - entries.keys())
    for path in sorted(_parents(list(entries)) & entries.keys()):
        if isinstance(entries[path], FileList) and not _is_directory(recipe.root + path):
            raise LayerError(
                f"{path}: of {entries[path].owner}, is no directory, but entries of other nodes are below it"
            )
    tree = None
    for path in sorted([*entries, *made], key=lambda path: path.split("/")):
        if tree and path in entries and path.startswith(f"{tree}/"):
            raise LayerError(f"{path}: owned by both {entries[path].owner} and {tree}")
        if path in made:
            layer.add_directory(path)
        elif path in generated:
            _add_generated(layer, generated[path])
        elif isinstance(entries[path], Tree):
            tree = path
            layer.add_tree(path)
        else:
            layer.add_path(path)


def _add_generated(layer: _core.TarLayer, entry: GeneratedEntry) -> None:
    path, data, owner, xattrs = entry.path, entry.data, entry.owner, entry.xattrs
    if isinstance(data, FilePart):
        size = -1 if data.size is None else data.size
        _check_seen(data)
        layer.add_part(path, data.file, data.offset, size, entry.mode, owner=owner, xattrs=xattrs)
    elif data is not None:
        layer.add_file(path, data, entry.mode, owner=owner, xattrs=xattrs)
    elif entry.target is not None:
        layer.add_symlink(path, entry.target, owner=owner, xattrs=xattrs)
    else:
        layer.add_directory(path, entry.mode, owner=owner, xattrs=xattrs)


def _check_seen(part: FilePart) -> None:
    """An archive that was written anew since it was read has other bytes where this part was."""
    try:
        changed = part.seen is not None and file_state(part.file) != part.seen
    except OSError as error:
        raise LayerError(f"{part.file}: {error.strerror}") from None
    if changed:
        raise LayerError(f"{part.file}: changed since its entries were read")


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def make_layer(task: LayerTask, tick: Callable[[int], object] = lambda count: None) -> LayerDescriptor:
    """Make one layer: read its files, hash it, compress it, write it to its sinks.

    Args:
        task: what to do.
        tick: is told how many more bytes of the tar have been made.

    Raises:
        LayerError: a file cannot be read, or changed while it was, or a store path has another NAR hash.
        DestinationError: a sink cannot be written.
    """
    start = time.perf_counter()
    outputs: list[Output] = []
    try:
        for sink in task.sinks:
            output = sink.open(task.known, lambda: tick(0))
            if output is not None:
                outputs.append(output)
        if task.known is not None and task.sinks and not outputs:
            return replace(task.known, seconds=time.perf_counter() - start, sent=0)
        layer = measure(task.recipe) if task.table is None else task.table
        check_nar_hashes(layer, task.nar_hashes, threads=task.threads, tick=tick)

        def store(data: memoryview) -> None:
            for output in outputs:
                output.write(data)

        diff_id, digest, size = _produce(task, layer, store, tick)

        def again(write: Callable[[memoryview], object]) -> None:
            if _produce(task, layer, write, lambda count: tick(0)) != (diff_id, digest, size):
                raise LayerError(f"{_named(task.recipe)}: its files changed while the image was built")

        if task.known is not None and (digest, size) != (task.known.digest, task.known.size):
            raise LayerError(f"{_named(task.recipe)}: is {digest}, not {task.known.digest} as it was remembered")
        sent = sum(output.finish(digest, size, again) for output in outputs)
    finally:
        for output in outputs:
            output.close()
    return LayerDescriptor(
        diff_id=diff_id,
        tar_size=layer.size,
        digest=digest,
        size=size,
        codec=task.codec.profile,
        media_type_suffix=task.codec.media_type_suffix,
        entries=len(layer),
        fingerprint=layer.fingerprint,
        seconds=time.perf_counter() - start,
        sent=sent,
    )


def _produce(
    task: LayerTask, layer: _core.TarLayer, store: Callable[[memoryview], object], tick: Callable[[int], object]
) -> tuple[str, str, int]:
    """Give a layer's stored bytes to ``store``; its diff ID, and digest and size of the stored bytes."""
    if task.codec.name == "none":
        diff_id = pump(layer.open(), layer.size, store, tick, task.threads)
        return diff_id, diff_id, layer.size
    digest = hashlib.sha256()
    size = 0

    def take(data: memoryview) -> None:
        nonlocal size
        digest.update(data)
        size += data.nbytes
        store(data)

    encoder = task.codec.encoder(take, task.threads if layer.size >= _COMPRESSOR_BLOCK else 1)
    try:
        diff_id = pump(layer.open(), layer.size, encoder.write, tick, task.threads)
    except BaseException:
        try:  # ends its threads
            encoder.close()
        except Exception:
            pass
        raise
    encoder.close()
    return diff_id, "sha256:" + digest.hexdigest(), size


def _named(recipe: LayerRecipe) -> str:
    return f"the layer from {recipe.contents[0].owner} to {recipe.contents[-1].owner}"


@contextlib.contextmanager
def _errors_of(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DestinationError(f"{path}: {error.strerror}") from None


def rewrite_layer(measured: MeasuredLayer, made: LayerDescriptor, fd: int) -> None:
    """Write the tar of a layer that has been made once more, for an output that had to know the digest first.

    It is not hashed again: inode, mode, size and mtime of every file must be those of the first time.

    Raises:
        LayerError: they are not.
        OSError: the output cannot be written.
    """
    contents = measured.recipe.contents
    layer = measured.tar()
    if layer.size != made.tar_size or layer.fingerprint != made.fingerprint:
        raise LayerError(f"{_named(measured.recipe)}: its files changed while the image was built")
    # Store paths never change, so their pages may be read as late as the other end of a pipe reads them.
    never_change = all(isinstance(item, Tree) for item in contents)
    written = layer.open().write_to(fd, splice=never_change and stat.S_ISFIFO(os.fstat(fd).st_mode))
    assert written == made.tar_size
