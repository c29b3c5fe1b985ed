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
from typing import Literal, NamedTuple, Protocol

from . import _archive
from .compression import Codec
from .contents import Contents, FileList, FilePart, Generated, GeneratedEntry, Tree, file_state
from .digest import pass_on, pump
from .disk import FileOutput
from .errors import DestinationError, LayerError
from .nar import check_nar_hashes

__all__ = [
    "Contradiction",
    "Delivery",
    "FileRange",
    "LayerDescriptor",
    "LayerRecipe",
    "LayerTask",
    "Look",
    "MeasuredLayer",
    "NewFile",
    "Output",
    "Profile",
    "Sink",
    "make_layer",
    "measure",
    "parents_of",
    "rewrite_layer",
    "split_recipe",
]

_TREES = 16  # of a layer are measured at once
_COMPRESSOR_BLOCK = 64 << 20  # a layer below this size is compressed by one thread: others have layers of their own


class Contradiction(LayerError):
    """A layer is not what was remembered of it.

    Attributes:
        digest: of the stored bytes, as it was remembered.
    """

    def __init__(self, message: str, digest: str) -> None:
        super().__init__(message, digest)  # both travel to another process
        self.digest = digest

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[0])


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


class Look(NamedTuple):
    """What was seen of a layer's entries, before a file of it was opened.

    Attributes:
        fingerprint: SHA-256, in hexadecimal, of every entry: path, kind, mode, owner, size, mtime, ctime, inode,
            target, extended attributes. It means something on this machine alone.
        newest: the latest ctime on disk, nanoseconds since 1970.
        bytes: of files on disk that go into the layer.
        canonical: whether modes on disk are those that Nix gives store paths, 0444 and 0555.
    """

    fingerprint: str
    newest: int
    bytes: int
    canonical: bool


@dataclass(frozen=True, slots=True)
class MeasuredLayer:
    """A layer whose entries have been looked at, or one that is remembered, whose size is known without that.

    Attributes:
        recipe: what it is made of.
        size: bytes of its tar.
        table: its entries; None where they would take too much memory with those of the other layers.
        look: what was seen of them; None where nobody has looked.
    """

    recipe: LayerRecipe
    size: int
    table: _archive.TarLayer | None = field(repr=False)
    look: Look | None = field(default=None, repr=False)

    def tar(self) -> _archive.TarLayer:
        """The table; where it is not kept the entries are looked at once more."""
        return measure(self.recipe) if self.table is None else self.table


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a layer at one place.

    Attributes:
        how: "written" to a file or a pipe, "uploaded", "mounted" from another repository, "skipped": it was there; or
            "offered" to an engine, which gets it unless it turns out to have it.
        bytes: that were written or sent.
    """

    how: Literal["written", "uploaded", "mounted", "skipped", "offered"]
    bytes: int = 0


class Output(Protocol):
    """A layer's stored bytes on their way to one place: :meth:`write` for every block, :meth:`finish`; always
    :meth:`close`, which without :meth:`finish` before it gives the layer up."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes, which are valid until it returns."""

    def finish(
        self, digest: str, size: int, again: Callable[[Callable[[memoryview], object]], None]
    ) -> Delivery | None:
        """The bytes are complete, and these are their digest and number; ``again`` sends them once more to a function.

        Returns:
            What became of them; None for "written".
        """

    def close(self) -> None:
        """Release what is held."""


class Sink(Protocol):
    """Where a worker puts a layer's stored bytes; a picklable value."""

    def open(self, known: LayerDescriptor | None, check: Callable[[], object]) -> Output | Delivery:
        """Be ready for the bytes; or say what became of the layer, where none are wanted.

        Args:
            known: what the layer will be, where that is known.
            check: to be called while waiting; it raises when the work shall end.

        Raises:
            DestinationError: the layer cannot be put there; so do the output's methods.
        """


@dataclass(frozen=True, slots=True)
class NewFile:
    """A sink: a file that is made, and must not be there; ``place`` is what errors name instead of it."""

    path: str
    place: str = ""

    def open(self, known: LayerDescriptor | None, check: Callable[[], object]) -> Output:
        """Make the file."""
        place = self.place or self.path
        with _errors_of(place):
            return FileOutput(place, os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


@dataclass(frozen=True, slots=True)
class FileRange:
    """A sink: the bytes from ``offset`` on of a file that is there; for processes that share a file system alone.

    ``place`` is what errors name instead of the file.
    """

    path: str
    offset: int
    place: str = ""

    def open(self, known: LayerDescriptor | None, check: Callable[[], object]) -> Output:
        """Open the file."""
        place = self.place or self.path
        with _errors_of(place):
            fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            os.lseek(fd, self.offset, os.SEEK_SET)
            return FileOutput(place, fd)


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
        fingerprint: of the entries as they were on disk, 64 bits; None where nobody has looked at them.
        look: what was seen of the entries, likewise.
        made: False where the layer is remembered and was not made.
        seconds: time that it took.
        read: bytes of files that were read.
        deliveries: what became of the bytes, for each sink of the task.
    """

    diff_id: str
    tar_size: int
    digest: str
    size: int
    codec: str = "none"
    media_type_suffix: str = ""
    entries: int = 0
    fingerprint: int | None = field(default=None, repr=False, compare=False)
    look: Look | None = field(default=None, repr=False, compare=False)
    made: bool = field(default=False, compare=False)
    seconds: float = field(default=0.0, compare=False)
    read: int = field(default=0, compare=False)
    deliveries: tuple[Delivery, ...] = field(default=(), compare=False)

    @property
    def sent(self) -> int:
        """Bytes that went over a network."""
        return sum(each.bytes for each in self.deliveries if each.how == "uploaded")


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
        verify: make and hash the layer all the same, and compare.
        trust: what is known was hashed here once, so that it is not hashed again when it is made.
    """

    recipe: LayerRecipe
    codec: Codec = Codec()  # noqa: RUF009  frozen
    sinks: tuple[Sink, ...] = ()
    threads: int = 1
    table: _archive.TarLayer | None = field(default=None, repr=False)
    nar_hashes: tuple[tuple[str, str], ...] = ()
    known: LayerDescriptor | None = None
    verify: bool = False
    trust: bool = True

    def __reduce__(self) -> tuple[type[LayerTask], tuple[object, ...]]:
        recipe = self.recipe if self.table is None else replace(self.recipe, contents=())
        rest = (self.table, self.nar_hashes, self.known, self.verify, self.trust)
        return LayerTask, (recipe, self.codec, self.sinks, self.threads, *rest)


def measure(recipe: LayerRecipe) -> _archive.TarLayer:
    """Look at every entry of a layer, open no file, and know the exact size of its tar.

    Raises:
        LayerError: something on disk cannot go into a layer, or two nodes own one file; the message names the path.
    """
    profile = recipe.profile
    try:
        layer = _archive.TarLayer(
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
        for parent in parents_of(recipe):
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
    parents = parents_of(recipe)
    return [
        replace(recipe, contents=recipe.contents[i : i + _TREES], parents=() if i else parents)
        for i in range(0, len(trees), _TREES)
    ]


def parents_of(recipe: LayerRecipe) -> tuple[str, ...]:
    """The directories that come first in a layer of trees alone."""
    if recipe.parents is not None:
        return recipe.parents
    return tuple(sorted(_parents([contents.path for contents in recipe.contents if isinstance(contents, Tree)])))


def _parents(paths: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def _add_union(layer: _archive.TarLayer, recipe: LayerRecipe) -> None:
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


def _add_generated(layer: _archive.TarLayer, entry: GeneratedEntry) -> None:
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
    known = task.known
    places: list[Output | Delivery] = []
    try:
        for sink in task.sinks:
            places.append(sink.open(known, lambda: tick(0)))
        outputs = [place for place in places if not isinstance(place, Delivery)]
        if known is not None and task.sinks and not outputs and not task.verify:
            deliveries = tuple(place for place in places if isinstance(place, Delivery))
            return replace(known, seconds=time.perf_counter() - start, deliveries=deliveries)
        layer = measure(task.recipe) if task.table is None else task.table
        look = Look(*layer.look())
        check_nar_hashes(layer, task.nar_hashes, threads=task.threads, tick=tick)
        read = look.bytes if task.nar_hashes else 0

        def store(data: memoryview) -> None:
            for output in outputs:
                output.write(data)

        # What is remembered of these very entries is trusted as long as they look as they did.
        same = known is None or known.look is None or known.look.fingerprint == look.fingerprint
        told = known is None or known.look is not None or look.canonical  # a NAR hash does not tell all modes
        trusted = known if same and told and task.trust and not task.verify else None
        diff_id, digest, size = _produce(task, layer, store, tick, trusted)
        read += look.bytes
        if known is not None and (diff_id, digest, size) != (known.diff_id, known.digest, known.size):
            raise _contradiction(task.recipe, diff_id, known) if same else _changed(task.recipe)

        def again(write: Callable[[memoryview], object]) -> None:
            nonlocal read
            once_more = _produce(task, layer, write, lambda count: tick(0))
            read += look.bytes
            if once_more != (diff_id, digest, size):
                if trusted is not None:
                    raise _contradiction(task.recipe, once_more[0], trusted)
                raise _changed(task.recipe)

        deliveries = tuple(
            place if isinstance(place, Delivery) else place.finish(digest, size, again) or Delivery("written", size)
            for place in places
        )
    finally:
        for place in places:
            if not isinstance(place, Delivery):
                place.close()
    return LayerDescriptor(
        diff_id=diff_id,
        tar_size=layer.size,
        digest=digest,
        size=size,
        codec=task.codec.profile,
        media_type_suffix=task.codec.media_type_suffix,
        entries=len(layer),
        fingerprint=layer.fingerprint,
        look=look,
        made=True,
        seconds=time.perf_counter() - start,
        read=read,
        deliveries=deliveries,
    )


def _contradiction(recipe: LayerRecipe, diff_id: str, known: LayerDescriptor) -> Contradiction:
    what = (
        f"is {diff_id}, not {known.diff_id}" if diff_id != known.diff_id else f"is not {known.digest} when compressed,"
    )
    return Contradiction(f"{_named(recipe)}: {what} as it was remembered", known.digest)


def _changed(recipe: LayerRecipe) -> LayerError:
    return LayerError(f"{_named(recipe)}: its files changed while the image was built")


def _produce(
    task: LayerTask,
    layer: _archive.TarLayer,
    store: Callable[[memoryview], object],
    tick: Callable[[int], object],
    trusted: LayerDescriptor | None = None,
) -> tuple[str, str, int]:
    """Give a layer's stored bytes to ``store``; its diff ID, and digest and size of the stored bytes.

    What is ``trusted`` is not computed, as far as the size of the tar agrees: of compressed bytes the digest, of which
    there are few, is.
    """
    if trusted is not None and layer.size != trusted.tar_size:
        trusted = None

    def send(consume: Callable[[memoryview], object]) -> str:
        if trusted is None:
            return pump(layer.open(), layer.size, consume, tick, task.threads)
        pass_on(layer.open(), layer.size, consume, tick)
        return trusted.diff_id

    if task.codec.name == "none":
        diff_id = send(store)
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
        diff_id = send(encoder.write)
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


def rewrite_layer(measured: MeasuredLayer, made: LayerDescriptor, fd: int) -> int:
    """Write the tar of a layer that has been made once more, for an output that had to know the digest first.

    It is not hashed again: inode, mode, size and mtime of every file must be those of the first time. Of a layer
    that is remembered by what its entries looked like, they must look so; of any other that is remembered, the size of
    the tar must be, and modes must be those that Nix gives.

    Returns:
        Bytes of files that were read.

    Raises:
        LayerError: they are not.
        Contradiction: modes are not.
        OSError: the output cannot be written.
    """
    contents = measured.recipe.contents
    layer = measured.tar()
    if layer.size != made.tar_size or made.fingerprint not in (None, layer.fingerprint):
        raise _changed(measured.recipe)
    look = made.look
    if look is None or (made.fingerprint is None and measured.table is None):
        look = Look(*layer.look())
        if made.look not in (None, look):
            raise _changed(measured.recipe)
        if made.fingerprint is None and made.look is None and not look.canonical:
            text = f"{_named(measured.recipe)}: modes are not those that Nix gives, so it is not as it was remembered"
            raise Contradiction(text, made.digest)
    # Store paths never change, so their pages may be read as late as the other end of a pipe reads them.
    never_change = all(isinstance(item, Tree) for item in contents)
    written = layer.open().write_to(fd, splice=never_change and stat.S_ISFIFO(os.fstat(fd).st_mode))
    assert written == made.tar_size
    return look.bytes
