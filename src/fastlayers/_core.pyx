# The one native door: graph kernels and the tar writer. Python decides, C loops.

cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

import hashlib
import os

from .errors import LayerError

# --- graph kernels ----------------------------------------------------------------------------------------------------

cdef extern from "_graph.h" nogil:
    cdef enum graph_status:
        GRAPH_OK
        GRAPH_NO_MEMORY
        GRAPH_BAD_INDPTR
        GRAPH_BAD_INDEX
        GRAPH_BAD_ORDER
        GRAPH_OVERFLOW

    int graph_check(int64_t n, int64_t references, const int64_t *indptr, const int32_t *indices) noexcept
    int graph_topological_order(int64_t n, const int64_t *indptr, const int32_t *indices, int32_t *order,
                                int64_t *count) noexcept
    int graph_spread(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order, int64_t words,
                     bint up, uint64_t *sets) noexcept
    int graph_path_counts(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order,
                          int64_t limbs, uint64_t *paths) noexcept
    int graph_popularity(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order,
                         int64_t limbs, const uint64_t *paths, uint64_t *counts) noexcept


cdef extern from "_partition.h" nogil:
    cdef enum partition_status:
        PARTITION_OK
        PARTITION_NO_MEMORY

    cdef struct c_partition "partition":
        int64_t n, words, heavy, heavy_weight, light_weight, joined, least, most
        const int64_t *sizes
        const int64_t *counts
        const uint64_t *sets

    int partition_merge(const c_partition *items, int64_t limit, int32_t *groups, int64_t *left) noexcept
    int partition_move(const c_partition *items, int64_t free_groups, int64_t passes, int32_t *groups) noexcept
    int partition_settle(
        const c_partition *items, int64_t count, const uint8_t *fixed, int64_t passes, int32_t *groups
    ) noexcept


cdef extern from "_order.h" nogil:
    cdef enum order_status:
        ORDER_OK
        ORDER_NO_MEMORY

    cdef struct c_ordering "ordering":
        int64_t n, words
        const int64_t *sizes
        const uint64_t *sets
        const int64_t *weights

    int c_order_layers "order_layers" (const c_ordering *layers, int64_t work, int32_t *order) noexcept


cdef extern from "_names.h" nogil:
    cdef enum names_status:
        NAMES_OK
        NAMES_NO_MEMORY
        NAMES_NOT_PLAIN

    int names_resolve(int64_t n, const char *names, int64_t names_size, const char *const *lists, const int64_t *sizes,
                      int64_t *lengths, int32_t *positions, int64_t capacity) noexcept


cdef int _raise_graph_status(int status) except -1:
    if status == GRAPH_NO_MEMORY:
        raise MemoryError("no memory for the graph kernels")
    if status == GRAPH_BAD_INDPTR:
        raise ValueError("indptr must start at 0, never fall and end at the number of indices")
    if status == GRAPH_BAD_INDEX:
        raise ValueError("an index is not in [0, n)")
    if status == GRAPH_BAD_ORDER:
        raise ValueError("order is not a topological order of all nodes")
    if status == GRAPH_OVERFLOW:
        raise OverflowError("the limbs are too few")
    return 0


cdef int _check_graph(const int64_t[::1] indptr, const int32_t[::1] indices, const int32_t[::1] order) except -1:
    cdef int64_t n = order.shape[0], references = indices.shape[0]
    if n > 0x7fffffff:
        raise ValueError("more than 2^31 - 1 nodes")
    if indptr.shape[0] != n + 1:
        raise ValueError("indptr must have one item more than there are nodes")
    cdef int status
    cdef const int64_t *pointers = &indptr[0]
    cdef const int32_t *columns = &indices[0] if references else NULL
    with nogil:
        status = graph_check(n, references, pointers, columns)
    return _raise_graph_status(status)


cdef int _check_limbs(Py_ssize_t n, Py_ssize_t rows, Py_ssize_t limbs) except -1:
    if rows != n or limbs < 1:
        raise ValueError("counts must have a row for each node and at least one limb")
    return 0


def topological_order(const int64_t[::1] indptr, const int32_t[::1] indices, int32_t[::1] order):
    """Put the nodes of a graph in an order in which referrers come before their references.

    Kahn's algorithm from the nodes without references up, with a stack; the same graph always gives the same order,
    one in which the referrers of a node tend to stand together.

    Args:
        indptr: int64, shape (n + 1,).
        indices: int32, shape (number of references,).
        order: int32, shape (n,), written.

    Returns:
        How many nodes were put in order: n, or fewer when there is a cycle. Then ``order[:returned]`` are the nodes
        that reach no cycle, in topological order, and the rest of ``order`` is without meaning.

    Raises:
        ValueError: the shapes do not fit, indptr is not monotone, or an index is out of range.
        MemoryError: 16 bytes a node and 4 a reference cannot be had.
    """
    _check_graph(indptr, indices, order)
    cdef int64_t n = order.shape[0], count = 0
    cdef int status
    if n == 0:
        return 0
    cdef const int64_t *pointers = &indptr[0]
    cdef const int32_t *columns = &indices[0] if indices.shape[0] else NULL
    cdef int32_t *out = &order[0]
    with nogil:
        status = graph_topological_order(n, pointers, columns, out, &count)
    _raise_graph_status(status)
    return count


def spread(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const int32_t[::1] order,
    uint64_t[:, ::1] sets,
    bint up=False,
):
    """Give each node the bits of all its ancestors, or of all its descendants, besides those that it has.

    Args:
        indptr: int64, shape (n + 1,).
        indices: int32, shape (number of references,).
        order: int32, shape (n,), a topological order.
        sets: uint64, shape (n, words), changed: a row is a set of bits.
        up: bits go from references to referrers; otherwise from referrers to references.

    Raises:
        ValueError: the shapes do not fit, the graph is malformed, or order is no topological order of it.
        MemoryError: a byte a node cannot be had.
    """
    _check_graph(indptr, indices, order)
    cdef int64_t n = order.shape[0], words = sets.shape[1]
    cdef int status
    if sets.shape[0] != n or words < 1:
        raise ValueError("sets must have a row for each node and at least one word")
    if n == 0:
        return
    cdef const int64_t *pointers = &indptr[0]
    cdef const int32_t *columns = &indices[0] if indices.shape[0] else NULL
    cdef const int32_t *ordered = &order[0]
    cdef uint64_t *out = &sets[0, 0]
    with nogil:
        status = graph_spread(n, pointers, columns, ordered, words, up, out)
    _raise_graph_status(status)


def path_counts(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const int32_t[::1] order,
    uint64_t[:, ::1] paths,
):
    """Count the paths that lead to each node: 1 for a node without referrers, else the sum over its referrers.

    Args:
        indptr: int64, shape (n + 1,).
        indices: int32, shape (number of references,).
        order: int32, shape (n,), a topological order.
        paths: uint64, shape (n, limbs), written: a row is a number, the least significant limb first.

    Returns:
        Whether the limbs suffice: for each count and for their sum, so for each popularity too.

    Raises:
        ValueError: the shapes do not fit, the graph is malformed, or order is no topological order of it.
        MemoryError: 2 bytes a node cannot be had.
    """
    _check_graph(indptr, indices, order)
    cdef int64_t n = order.shape[0], limbs = paths.shape[1]
    cdef int status
    _check_limbs(n, paths.shape[0], limbs)
    if n == 0:
        return True
    cdef const int64_t *pointers = &indptr[0]
    cdef const int32_t *columns = &indices[0] if indices.shape[0] else NULL
    cdef const int32_t *ordered = &order[0]
    cdef uint64_t *out = &paths[0, 0]
    with nogil:
        status = graph_path_counts(n, pointers, columns, ordered, limbs, out)
    if status == GRAPH_OVERFLOW:
        return False
    _raise_graph_status(status)
    return True


def popularity(
    const int64_t[::1] indptr,
    const int32_t[::1] indices,
    const int32_t[::1] order,
    const uint64_t[:, ::1] paths,
    uint64_t[:, ::1] counts,
):
    """For each node, sum the path counts of its ancestors and itself.

    Blocks of 512 nodes send a bit each forward along the references, in topological order; the path counts of the bits
    that arrive are looked up byte by byte.

    Args:
        indptr: int64, shape (n + 1,).
        indices: int32, shape (number of references,).
        order: int32, shape (n,), a topological order.
        paths: uint64, shape (n, limbs), as ``path_counts`` wrote them when it returned True.
        counts: uint64, shape (n, limbs), written: a row is a number, the least significant limb first.

    Raises:
        ValueError: the shapes do not fit, the graph is malformed, or order is no topological order of it.
        MemoryError: 77 bytes a node and 4 a reference cannot be had.
    """
    _check_graph(indptr, indices, order)
    cdef int64_t n = order.shape[0], limbs = paths.shape[1]
    cdef int status
    _check_limbs(n, paths.shape[0], limbs)
    _check_limbs(n, counts.shape[0], counts.shape[1])
    if counts.shape[1] != limbs:
        raise ValueError("paths and counts must have the same number of limbs")
    if n == 0:
        return
    cdef const int64_t *pointers = &indptr[0]
    cdef const int32_t *columns = &indices[0] if indices.shape[0] else NULL
    cdef const int32_t *ordered = &order[0]
    cdef const uint64_t *weights = &paths[0, 0]
    cdef uint64_t *out = &counts[0, 0]
    with nogil:
        status = graph_popularity(n, pointers, columns, ordered, limbs, weights, out)
    _raise_graph_status(status)


cdef int describe_items(
    c_partition *items, const int64_t[::1] sizes, const int64_t[::1] counts, const uint64_t[:, ::1] sets,
    const int32_t[::1] groups, int64_t heavy_words, int64_t heavy, int64_t light, int64_t joined,
) except -1:
    """What is to be distributed, checked; the sizes of groups are not limited."""
    cdef int64_t n = sizes.shape[0], words = sets.shape[1], total = 0, i
    if n > 0x7fffffff or counts.shape[0] != n or sets.shape[0] != n or groups.shape[0] != n:
        raise ValueError("sizes, counts, sets and groups must have the same length, below 2^31")
    if not 0 <= heavy_words <= words or min(heavy, light, joined) < 0:
        raise ValueError("heavy_words must be within the words, and weights not negative")
    for i in range(n):
        if sizes[i] < 0 or counts[i] < 1 or sizes[i] > (1 << 62) - total:
            raise ValueError("sizes must not be negative and their sum below 2^62, counts at least 1")
        total += sizes[i]
    if int(total) * (64 * int(words) * max(heavy, light) + joined) >= 1 << 62:
        raise ValueError("the sum of all sizes times the greatest weight must be below 2^62")
    items.n, items.words, items.heavy = n, words, heavy_words
    items.heavy_weight, items.light_weight, items.joined = heavy, light, joined
    items.least = items.most = 0
    items.sizes = &sizes[0] if n else NULL
    items.counts = &counts[0] if n else NULL
    items.sets = &sets[0, 0] if n and words else NULL
    return 0


def partition(
    const int64_t[::1] sizes,
    const int64_t[::1] counts,
    const uint64_t[:, ::1] sets,
    int32_t[::1] groups,
    int64_t limit,
    *,
    int64_t heavy_words,
    int64_t heavy,
    int64_t light,
    int64_t joined,
    int64_t least=0,
    int64_t most=0,
    int64_t passes=0,
):
    """Distribute items over groups that cost little: each its size, times the weight of all events of its members.

    The two groups that are cheapest to merge are merged until there are ``limit``; then items are moved to where they
    cost least, one by one in their order. Where two choices cost the same, the lowest numbers decide.

    Args:
        sizes: int64, shape (n,), each at least 0.
        counts: int64, shape (n,). How many members an item stands for.
        sets: uint64, shape (n, words). The events of each item, a bit each.
        groups: int32, shape (n,), written: each item's group, by the number of the first item in it.
        limit: how many groups there may be, at least 1.
        heavy_words: events in so many words of a set weigh ``heavy``, those in the others ``light``.
        joined: weight that a group of more than one member has besides.
        least: groups that are smaller are merged further; 0 for none.
        most: groups that would be larger are not made; 0 for none.
        passes: how often each item may move.

    Returns:
        How many groups there are before any item moves; more than ``limit`` where ``most`` leaves no other way.

    Raises:
        ValueError: the shapes do not fit, or the sum of all sizes times the greatest weight is not below 2^62.
        MemoryError: 512 bytes a word of each group, or a second copy of the sets, cannot be had.
    """
    cdef int64_t n = sizes.shape[0], left = 0
    cdef int status
    cdef c_partition items
    if limit < 1:
        raise ValueError("limit must be at least 1")
    describe_items(&items, sizes, counts, sets, groups, heavy_words, heavy, light, joined)
    if n == 0:
        return 0
    items.least, items.most = least, most
    cdef int32_t *out = &groups[0]
    with nogil:
        status = partition_merge(&items, limit, out, &left)
        if status == PARTITION_OK and passes > 0:
            status = partition_move(&items, max(limit - left, <int64_t>0), passes, out)
    if status == PARTITION_NO_MEMORY:
        raise MemoryError("no memory to distribute items")
    return left


def settle(
    const int64_t[::1] sizes,
    const int64_t[::1] counts,
    const uint64_t[:, ::1] sets,
    int32_t[::1] groups,
    const uint8_t[::1] fixed,
    *,
    int64_t heavy_words,
    int64_t heavy,
    int64_t light,
    int64_t joined,
    int64_t least=0,
    int64_t most=0,
    int64_t passes=1,
):
    """Move items between groups that lie on each other to where groups and their order cost least.

    Groups cost what they do for :func:`partition`, and each besides its size times the weight of all events of it and
    of the groups below it: what :func:`order_layers` counts. Items move one by one in their order; of places that cost
    the same the lowest counts, but where the item is, if that is one of them.

    Args:
        sizes: int64, shape (n,), each at least 0.
        counts: int64, shape (n,). How many members an item stands for.
        sets: uint64, shape (n, words). The events of each item, a bit each.
        groups: int32, shape (n,), changed: each item's group, the bottom one 0. A group may lose its last item.
        fixed: uint8, shape (groups,). Other than 0 for a group that nothing leaves or comes into.
        heavy_words: events in so many words of a set weigh ``heavy``, those in the others ``light``.
        joined: weight that a group of more than one member has besides.
        least: a group that would be smaller is not made; 0 for none.
        most: nothing comes into a group that would be larger; 0 for none.
        passes: how often each item may move.

    Raises:
        ValueError: the shapes do not fit, a group is none of them, or the sum of all sizes times the greatest weight is
            not below 2^60.
        MemoryError: 512 bytes a word of each group cannot be had.
    """
    cdef int64_t n = sizes.shape[0], count = fixed.shape[0], i
    cdef int status
    cdef c_partition items
    describe_items(&items, sizes, counts, sets, groups, heavy_words, 4 * heavy, 4 * light, 4 * joined)
    items.heavy_weight, items.light_weight, items.joined = heavy, light, joined
    items.least, items.most = least, most
    for i in range(n):
        if not 0 <= groups[i] < count:
            raise ValueError("a group is not among those that there are")
    if n == 0:
        return
    with nogil:
        status = partition_settle(&items, count, &fixed[0], passes, &groups[0])
    if status == PARTITION_NO_MEMORY:
        raise MemoryError("no memory to distribute items")


def order_layers(
    const int64_t[::1] sizes, const uint64_t[:, ::1] sets, const int64_t[::1] weights, int32_t[::1] order, int64_t work
):
    """Put layers in an order that is cheap where a layer is sent again at every event of its own or below it.

    An order costs the sum over all layers of their size times the weight of all events of it and of the layers below.
    Layers that are equal stay in the order in which they are given.

    Args:
        sizes: int64, shape (n,), each at least 0.
        sets: uint64, shape (n, words). The events of each layer, a bit each.
        weights: int64, shape (words,), each at least 0: of each event in that word.
        order: int32, shape (n,), written: the layers' numbers, the bottom one first.
        work: how many words of sets the search for a better order may read, about.

    Raises:
        ValueError: the shapes do not fit, or the sum of all sizes times the weight of all bits is not below 2^62.
        MemoryError: a second copy of the sets cannot be had.
    """
    cdef int64_t n = sizes.shape[0], words = sets.shape[1], i
    cdef int status
    cdef c_ordering layers
    if n > 0x7fffffff or sets.shape[0] != n or order.shape[0] != n or weights.shape[0] != words:
        raise ValueError("sizes, sets and order must have the same length, below 2^31, and each word a weight")
    if any(sizes[i] < 0 for i in range(n)) or any(weights[i] < 0 for i in range(words)):
        raise ValueError("sizes and weights must not be negative")
    if sum(int(sizes[i]) for i in range(n)) * sum(64 * int(weights[i]) for i in range(words)) >= 1 << 62:
        raise ValueError("the sum of all sizes times the weight of all bits must be below 2^62")
    if n == 0:
        return
    layers.n, layers.words, layers.sizes = n, words, &sizes[0]
    layers.sets = &sets[0, 0] if words else NULL
    layers.weights = &weights[0] if words else NULL
    cdef int32_t *out = &order[0]
    with nogil:
        status = c_order_layers(&layers, work, out)
    if status == ORDER_NO_MEMORY:
        raise MemoryError("no memory to order layers")


def resolve_names(const uint8_t[::1] names, list lists, int64_t[::1] lengths, int32_t[::1] positions):
    """Turn JSON lists of names into numbers.

    Args:
        names: n names in UTF-8, a quotation mark after each.
        lists: n read-only buffers, each a JSON list of strings.
        lengths: int64, shape (n,), written: how many strings each list has.
        positions: int32, written from its start: which names the strings are, list after list.

    Returns:
        Whether it could be done. It could not when there is anything out of the ordinary: an escape, a string that is
        none of the names, a name given twice, a list of something else, or more strings than ``positions`` holds.

    Raises:
        ValueError: there are not n lists, one may be written to, or n is more than 2^31 - 1.
        MemoryError: 56 bytes a name cannot be had.
    """
    cdef int64_t n = lengths.shape[0], capacity = positions.shape[0], names_size = names.shape[0], i
    cdef int status
    cdef Py_buffer view
    if n > 0x7fffffff:
        raise ValueError("more than 2^31 - 1 names")
    if len(lists) != n:
        raise ValueError("lists and lengths must have the same length")
    if n == 0 or names_size == 0 or capacity == 0:
        return False
    cdef const char *strings = <const char *>&names[0]
    cdef int64_t *out = &lengths[0]
    cdef int32_t *numbers = &positions[0]
    cdef const char **starts = <const char **>malloc(n * sizeof(char *))
    cdef int64_t *sizes = <int64_t *>malloc(n * sizeof(int64_t))
    cdef list held = lists.copy()  # keeps the buffers where they are while the GIL is gone
    try:
        if starts == NULL or sizes == NULL:
            raise MemoryError("no memory for a table of names")
        for i in range(n):
            PyObject_GetBuffer(held[i], &view, PyBUF_SIMPLE)
            starts[i] = <const char *>view.buf
            sizes[i] = view.len
            status = view.readonly
            PyBuffer_Release(&view)
            if not status:
                raise ValueError("a list is in a buffer that may be written to")
        with nogil:
            status = names_resolve(n, strings, names_size, starts, sizes, out, numbers, capacity)
    finally:
        free(starts)
        free(sizes)
    if status == NAMES_NO_MEMORY:
        raise MemoryError("no memory for a table of names")
    return status == NAMES_OK

# --- tar writer -------------------------------------------------------------------------------------------------------


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
