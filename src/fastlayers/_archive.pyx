# The tar writer, NARs of what it has measured, and writing back to the disk. Python decides, C loops.

cimport cython
from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free

import hashlib
import os

from .errors import LayerError

cdef extern from "_tar.h" nogil:
    enum fl_status:
        FL_OK, FL_NO_MEMORY, FL_SYSTEM, FL_KIND, FL_WHITEOUT, FL_CHANGED, FL_SHRUNK, FL_GREW, FL_OUTPUT, FL_SIGNAL,
        FL_XATTR
    struct fl_place:
        char *path
        int error
    struct fl_profile:
        int64_t uid, gid, mtime
        const char *uname
        const char *gname
        const char *root
        int whiteouts, xattrs
    struct fl_attributes:
        uint32_t mode, owner
        const char *xattrs
        size_t xattrs_size
    struct fl_layer:
        pass
    struct fl_stream:
        pass
    fl_layer *fl_layer_new(const fl_profile *)
    void fl_layer_free(fl_layer *)
    uint32_t fl_layer_owner(fl_layer *, int64_t, int64_t)
    fl_status fl_add_directory(fl_layer *, const char *, const fl_attributes *, fl_place *)
    fl_status fl_add_file(fl_layer *, const char *, const fl_attributes *, const char *, size_t, fl_place *)
    fl_status fl_add_symlink(fl_layer *, const char *, const fl_attributes *, const char *, fl_place *)
    fl_status fl_add_part(fl_layer *, const char *, const fl_attributes *, const char *, uint64_t, int64_t, fl_place *)
    fl_status fl_add_path(fl_layer *, const char *, fl_place *)
    fl_status fl_add_tree(fl_layer *, const char *, fl_place *)
    fl_status fl_add_layer(fl_layer *, const fl_layer *, fl_place *)
    size_t fl_layer_pack(const fl_layer *, char *)
    fl_status fl_layer_unpack(fl_layer *, const char *, size_t)
    uint64_t fl_layer_size(const fl_layer *)
    uint64_t fl_layer_entries(const fl_layer *)
    uint64_t fl_layer_fingerprint(const fl_layer *)
    struct fl_look:
        const void *entries
        const void *text
        size_t entries_size, text_size
        uint64_t bytes
        int64_t newest
        int canonical
    void fl_layer_look(const fl_layer *, fl_look *)
    fl_stream *fl_stream_new(const fl_layer *)
    fl_stream *fl_stream_new_nar(const fl_layer *, size_t, size_t)
    uint64_t fl_stream_size(const fl_stream *)
    void fl_stream_free(fl_stream *)
    fl_status fl_stream_read(fl_stream *, char *, size_t, size_t *, fl_place *)
    fl_status fl_stream_write(fl_stream *, int, size_t, int, size_t *, fl_place *)

cdef extern from "_header.h" nogil:
    size_t fl_record_length(size_t, size_t)
    char *fl_put_record(char *, const char *, const char *, size_t)

cdef extern from "_xattr.h" nogil:
    int fl_keeps_xattr(const char *)


def keeps_xattr(str name):
    """Whether an extended attribute of this name goes into an image: Linux capabilities and ``user.*`` do."""
    return fl_keeps_xattr(_c_string(name)) != 0


cdef bytes _xattr_records(xattrs):
    """Pax records of pairs of name and value, sorted by name."""
    cdef bytes key, data, records = b""
    cdef bytearray room
    cdef size_t length
    for key, data in sorted((b"SCHILY.xattr." + _c_string(name), value) for name, value in xattrs):
        if b"=" in key:
            raise ValueError(f"{key!r}: a name of an extended attribute with = in it")
        length = fl_record_length(len(key), len(data))
        room = bytearray(length + 1)  # and a zero of the formatting
        fl_put_record(<char *> room, key, data, len(data))
        records += room[:length]
    return records


cdef int _check_tar(fl_status status, fl_place *place) except -1:
    """Turn a status of the tar writer into an exception."""
    if status == FL_OK:
        return 0
    path = "" if place.path == NULL else os.fsdecode(<bytes> place.path)
    free(place.path)
    place.path = NULL
    if status == FL_NO_MEMORY:
        raise MemoryError
    if status == FL_OUTPUT:
        raise OSError(place.error, os.strerror(place.error))
    raise LayerError(f"{path}: " + {
        FL_SYSTEM: os.strerror(place.error),
        FL_KIND: "a socket, device or pipe cannot go into a layer",
        FL_WHITEOUT: "a name that starts with .wh. would delete a file in an image",
        FL_CHANGED: "changed while it was read",
        FL_SHRUNK: "shrank while it was read",
        FL_GREW: "grew while it was read",
        FL_XATTR: "an extended attribute whose name has = in it cannot go into a layer",
    }[status])


cdef bytes _c_string(text):
    """The bytes of a path or name; ValueError where one is a zero."""
    cdef bytes data = os.fsencode(text)
    if 0 in data:
        raise ValueError(f"{text!r}: a zero byte in a name")
    return data


@cython.final
cdef class TarLayer:
    """A layer whose entries are known: its exact size, and streams of its bytes.

    Entries are added in the order of the archive; adding one looks at what is on disk (no file is opened). A layer that
    has been opened, or to which one could not be added, is finished. A layer and each of its streams are for one thread
    at a time; several threads may read a finished layer, each with streams of its own.

    Args:
        uid, gid, mtime: int64; of every entry.
        uname, gname: of every entry.
        root: the folder below which the files are, "" for none: "/nix/store/x" is read from root + "/nix/store/x".
        whiteouts: let names through that start with ".wh.".
        xattrs: keep the extended attributes of what is on disk, those that :func:`keeps_xattr` names.

    Entries that are made for the image may have an ``owner`` of their own, a pair of uid and gid, and ``xattrs``, pairs
    of name and value.

    Raises:
        LayerError: what is on disk cannot go into a layer; the message names the path.
        OverflowError, ValueError: a number or a name that no header can hold.
    """

    cdef fl_layer *layer
    cdef bint opened
    cdef tuple profile
    cdef dict trees  # of each tree its first entry and how many it has
    cdef dict owners

    def __cinit__(
        self, *, int64_t uid, int64_t gid, str uname, str gname, int64_t mtime, str root="", bint whiteouts=False,
        bint xattrs=False
    ):
        cdef bytes owner = _c_string(uname), group = _c_string(gname), folder = _c_string(root)
        cdef fl_profile profile = fl_profile(uid, gid, mtime, owner, group, folder, whiteouts, xattrs)
        self.layer = fl_layer_new(&profile)
        self.trees = {}
        if self.layer == NULL:
            raise MemoryError
        self.profile = (uid, gid, uname, gname, mtime, root, whiteouts, xattrs)
        self.owners = {(uid, gid): 0}

    def __reduce__(self):
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, fl_layer_pack(self.layer, NULL))
        fl_layer_pack(self.layer, packed)
        return _unpack_layer, (self.profile, tuple(self.owners), self.trees, packed)

    def __dealloc__(self):
        fl_layer_free(self.layer)

    cdef bytes _new_path(self, path):
        if self.opened:
            raise ValueError("the layer has been opened")
        cdef bytes data = _c_string(path)
        if not data.startswith(b"/") or data.endswith(b"/"):
            raise ValueError(f"{path!r}: not an absolute path without a slash at its end")
        return data

    cdef int added(self, fl_status status, fl_place *place) except -1:
        if status != FL_OK:
            self.opened = True  # the table of entries ends in the middle of one
        return _check_tar(status, place)

    cdef uint32_t owner_number(self, tuple owner) except? 0:
        if owner not in self.owners:
            number = fl_layer_owner(self.layer, owner[0], owner[1])
            if number == 0:
                raise MemoryError
            self.owners[owner] = number
        return self.owners[owner]

    cdef fl_attributes attributes(self, uint32_t mode, owner, bytes records) except *:
        return fl_attributes(mode, 0 if owner is None else self.owner_number(owner), records, len(records))

    def add_directory(self, path, uint32_t mode=0o755, *, owner=None, xattrs=()):
        """Add a directory that is made for the image."""
        cdef fl_place place = fl_place(NULL, 0)
        cdef bytes name = self._new_path(path), records = _xattr_records(xattrs) if xattrs else b""
        cdef fl_attributes own = self.attributes(mode, owner, records)
        self.added(fl_add_directory(self.layer, name, &own, &place), &place)

    def add_file(self, path, bytes data, uint32_t mode=0o644, *, owner=None, xattrs=()):
        """Add a file that is made for the image."""
        cdef fl_place place = fl_place(NULL, 0)
        cdef bytes name = self._new_path(path), records = _xattr_records(xattrs) if xattrs else b""
        cdef fl_attributes own = self.attributes(mode, owner, records)
        self.added(fl_add_file(self.layer, name, &own, data, len(data), &place), &place)

    def add_symlink(self, path, target, *, owner=None, xattrs=()):
        """Add a symlink that is made for the image."""
        cdef fl_place place = fl_place(NULL, 0)
        cdef bytes name = self._new_path(path), to = _c_string(target)
        cdef bytes records = _xattr_records(xattrs) if xattrs else b""
        cdef fl_attributes own = self.attributes(0o777, owner, records)
        self.added(fl_add_symlink(self.layer, name, &own, to, &place), &place)

    def add_part(self, path, source, uint64_t offset=0, int64_t size=-1, uint32_t mode=0o644, *, owner=None, xattrs=()):
        """Add a file whose bytes are those of another, ``source``: ``size`` bytes from ``offset`` on, or all of them.

        The other one is looked at now, and read when the layer is; in between it may not change.
        """
        cdef fl_place place = fl_place(NULL, 0)
        cdef bytes name = self._new_path(path), file = _c_string(source)
        cdef bytes records = _xattr_records(xattrs) if xattrs else b""
        cdef fl_attributes own = self.attributes(mode, owner, records)
        self.added(fl_add_part(self.layer, name, &own, file, offset, size, &place), &place)

    def add_path(self, path):
        """Add the file, symlink or directory at a path, alone: mode 0755 if its owner may execute it, else 0644."""
        cdef fl_place place = fl_place(NULL, 0)
        cdef bytes name = self._new_path(path)
        self.added(fl_add_path(self.layer, name, &place), &place)

    def add_tree(self, path):
        """Add a path and all below it, sorted as nixpkgs sorts: by lists of path components, each by code point."""
        cdef fl_place place = fl_place(NULL, 0)
        cdef bytes name = self._new_path(path)
        cdef const char *text = name
        cdef uint64_t first = fl_layer_entries(self.layer)
        cdef fl_status status
        with nogil:
            status = fl_add_tree(self.layer, text, &place)
        self.added(status, &place)
        self.trees[name] = (first, fl_layer_entries(self.layer) - first)

    def add_layer(self, TarLayer other not None):
        """Add the entries of another layer, of the same profile and owners."""
        cdef fl_place place = fl_place(NULL, 0)
        cdef fl_status status
        if self.opened or self.profile != other.profile or self.owners != other.owners or self is other:
            raise ValueError("the layer has been opened, or the other one has another profile or other owners")
        cdef uint64_t before = fl_layer_entries(self.layer)
        with nogil:
            status = fl_add_layer(self.layer, other.layer, &place)
        self.added(status, &place)
        self.trees |= {name: (before + first, count) for name, (first, count) in other.trees.items()}

    @property
    def memory(self):
        """Bytes that the table of entries takes."""
        return fl_layer_pack(self.layer, NULL)

    @property
    def size(self):
        """Bytes of the whole archive."""
        return fl_layer_size(self.layer)

    @property
    def fingerprint(self):
        """64 bits that differ when an entry differs in path, kind, mode, size, mtime or inode."""
        return fl_layer_fingerprint(self.layer)

    def look(self):
        """What was seen on disk: a tuple of

        - the SHA-256 digest, in hexadecimal, of all entries as they were: path, kind, mode, owner, size, mtime, ctime,
          inode, target, extended attributes, the bytes of files that are made; it is of this kind of machine;
        - the latest ctime, nanoseconds since 1970; the lowest int64 where nothing is on disk;
        - the bytes of files on disk that go into the layer;
        - whether all modes on disk are those that Nix gives store paths, 0444 and 0555.
        """
        cdef fl_look seen
        fl_layer_look(self.layer, &seen)
        # An entry has the number of its owner.
        owners = ";".join(f"{uid}:{gid}" for uid, gid in self.owners)
        digest = hashlib.sha256(f"entries 1, {len(self)} of {seen.entries_size} bytes, owners {owners}\n".encode())
        if seen.entries_size:
            digest.update(PyMemoryView_FromMemory(<char *> seen.entries, seen.entries_size, PyBUF_READ))
        if seen.text_size:
            digest.update(PyMemoryView_FromMemory(<char *> seen.text, seen.text_size, PyBUF_READ))
        return digest.hexdigest(), seen.newest, seen.bytes, seen.canonical != 0

    def __len__(self):
        """The number of entries."""
        return fl_layer_entries(self.layer)

    def open(self):
        """A new stream of the layer's bytes, from the start: the same bytes every time, or an error."""
        self.opened = True
        return TarStream(self)

    def open_nar(self, path):
        """A new stream of Nix's serialisation (NAR) of a tree that was added; its files must not have changed since.

        Raises:
            KeyError: no tree was added at this path.
        """
        cdef bytes name = _c_string(path)
        if name not in self.trees:
            raise KeyError(path)
        self.opened = True
        return TarStream(self, name)


def _unpack_layer(tuple profile, tuple owners, dict trees, bytes packed):
    """A layer as it was when it was pickled; it is finished."""
    uid, gid, uname, gname, mtime, root, whiteouts, xattrs = profile
    cdef TarLayer layer = TarLayer(
        uid=uid, gid=gid, uname=uname, gname=gname, mtime=mtime, root=root, whiteouts=whiteouts, xattrs=xattrs
    )
    for owner in owners:  # with the numbers that they had
        layer.owner_number(owner)
    cdef fl_status status = fl_layer_unpack(layer.layer, packed, len(packed))
    layer.opened = True
    if status == FL_NO_MEMORY:
        raise MemoryError
    if status != FL_OK:
        raise ValueError("not a layer of this program on this kind of machine")
    layer.trees = trees
    return layer


@cython.final
cdef class TarStream:
    """The bytes of a :class:`TarLayer`, or of the NAR of a tree in it: what its ``open`` and ``open_nar`` give.

    Files are opened one at a time, when their bytes are asked for.
    """

    cdef fl_stream *stream
    cdef TarLayer layer
    cdef bint broken

    def __cinit__(self, TarLayer layer not None, bytes tree=None):
        cdef size_t first, count
        self.layer = layer
        if tree is None:
            self.stream = fl_stream_new(layer.layer)
        else:
            first, count = layer.trees[tree]
            with nogil:
                self.stream = fl_stream_new_nar(layer.layer, first, count)
        if self.stream == NULL:
            raise MemoryError

    def __dealloc__(self):
        fl_stream_free(self.stream)

    @property
    def size(self):
        """Bytes of the whole stream."""
        return fl_stream_size(self.stream)

    def readinto(self, unsigned char[::1] buffer not None):
        """Fill a writable buffer and give the number of bytes: less than its length at the end of the stream alone.

        Raises:
            LayerError: a file cannot be read, or is not what it was when the layer was measured. The stream is broken
                then, and says so when it is read again.
        """
        cdef size_t got = 0, size = <size_t> buffer.shape[0]
        cdef fl_place place = fl_place(NULL, 0)
        cdef fl_status status
        if self.broken:
            raise ValueError("the stream is broken")
        if size == 0:
            return 0
        cdef char *start = <char *> &buffer[0]
        with nogil:
            status = fl_stream_read(self.stream, start, size, &got, &place)
        if status != FL_OK:
            self.broken = True
            _check_tar(status, &place)
        return got

    def write_to(self, int fd, *, bint splice=False):
        """Write the rest of the stream to a file descriptor and give the number of bytes.

        Args:
            fd: a blocking file descriptor.
            splice: let pages of large files go into a pipe without being copied. They are read when the other end reads
                them, so this is for files that never change, such as those in a Nix store.

        Raises:
            LayerError: as in :meth:`readinto`.
            OSError: the output cannot be written.
        """
        cdef size_t got = 1
        cdef uint64_t total = 0
        cdef fl_place place = fl_place(NULL, 0)
        cdef fl_status status = FL_OK
        if self.broken:
            raise ValueError("the stream is broken")
        self.broken = True  # until it ends well
        while got or status == FL_SIGNAL:
            with nogil:
                status = fl_stream_write(self.stream, fd, 16 << 20, splice, &got, &place)
            total += got
            PyErr_CheckSignals()
            if status != FL_SIGNAL:
                _check_tar(status, &place)
        self.broken = False
        return total


# --- files on their way to the disk -----------------------------------------------------------------------------------

cdef extern from "_disk.h" nogil:
    void fl_start_writing(int, int64_t, int64_t)
    int fl_wait_written(int, int64_t, int64_t)


def start_writing(int fd, int64_t offset, int64_t size):
    """Let the kernel begin to write a part of a file to the disk, and return at once; a hint."""
    with nogil:
        fl_start_writing(fd, offset, size)


def wait_written(int fd, int64_t offset, int64_t size):
    """Wait until the kernel has written a part of a file; fsync makes it safe, and is soon done then.

    Raises:
        OSError: it cannot.
    """
    cdef int error
    with nogil:
        error = fl_wait_written(fd, offset, size)
    if error:
        raise OSError(error, os.strerror(error))
