# Graph kernels, partitions and orders of layers, look-up of names. Python decides, C loops.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc

cdef extern from "_graph.h" nogil:
    cdef enum graph_status:
        GRAPH_OK
        GRAPH_NO_MEMORY
        GRAPH_BAD_INDPTR
        GRAPH_BAD_INDEX
        GRAPH_BAD_ORDER
        GRAPH_OVERFLOW

    int graph_matrix(int64_t n, int64_t targets, const int32_t *rows, const int64_t *lengths, const int32_t *target,
                     int64_t *indptr, int32_t *indices, uint8_t *own) noexcept
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
        int64_t n, words, joined, least, most
        const int64_t *sizes
        const int64_t *counts
        const uint64_t *sets
        const int64_t *weights

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


def matrix(
    const int32_t[::1] rows,
    const int64_t[::1] lengths,
    const int32_t[::1] targets,
    int64_t[::1] indptr,
    int32_t[::1] indices,
    uint8_t[::1] own,
):
    """Make the CSR matrix of a graph whose nodes come in any order, with sorted rows and each reference once.

    Args:
        rows: int32, shape (n,): the row of each node, a permutation.
        lengths: int64, shape (n,): how many references each node has.
        targets: int32, shape (number of references,): numbers of nodes, those of the first node first.
        indptr: int64, shape (n + 1,), written.
        indices: int32, shape (number of references,), written from the start, as far as ``indptr[n]``.
        own: uint8, shape (n,), written: which rows refer to themselves, which is not in the matrix.

    Raises:
        ValueError: the shapes do not fit, rows are no permutation, or a target is out of range.
        MemoryError: 16 bytes a node and 4 a reference cannot be had.
    """
    cdef int64_t n = rows.shape[0]
    cdef int status
    if n > 0x7fffffff:
        raise ValueError("more than 2^31 - 1 nodes")
    if lengths.shape[0] != n or indptr.shape[0] != n + 1 or own.shape[0] != n or indices.shape[0] != targets.shape[0]:
        raise ValueError("shapes do not fit")
    if n == 0:
        if targets.shape[0]:
            raise ValueError("references of no node")
        indptr[0] = 0
        return
    cdef const int32_t *columns = &targets[0] if targets.shape[0] else NULL
    cdef int32_t *out = &indices[0] if indices.shape[0] else NULL
    with nogil:
        status = graph_matrix(n, targets.shape[0], &rows[0], &lengths[0], columns, &indptr[0], out, &own[0])
    if status == GRAPH_BAD_INDPTR:
        raise ValueError("the lengths are not those of the targets")
    if status == GRAPH_BAD_ORDER:
        raise ValueError("rows are no permutation")
    _raise_graph_status(status)


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
    const int32_t[::1] groups, const int64_t[::1] weights, int64_t joined, int64_t times,
) except -1:
    """What is to be distributed, checked, so many times the greatest sum too; sizes of groups are not limited."""
    cdef int64_t n = sizes.shape[0], words = sets.shape[1], total = 0, i
    if n > 0x7fffffff or counts.shape[0] != n or sets.shape[0] != n or groups.shape[0] != n:
        raise ValueError("sizes, counts, sets and groups must have the same length, below 2^31")
    if weights.shape[0] != words or joined < 0 or min(weights, default=0) < 0:
        raise ValueError("each word must have a weight, and none may be negative")
    for i in range(n):
        if sizes[i] < 0 or counts[i] < 1 or sizes[i] > (1 << 62) - total:
            raise ValueError("sizes must not be negative and their sum below 2^62, counts at least 1")
        total += sizes[i]
    weight = 64 * sum(weights) + int(joined)
    if max(int(total), 1) * weight * times >= 1 << 62:
        raise ValueError(f"the sum of all sizes times the weight of all events must be below 2^62 / {times}")
    items.n, items.words, items.joined = n, words, joined
    items.least = items.most = 0
    items.sizes = &sizes[0] if n else NULL
    items.counts = &counts[0] if n else NULL
    items.sets = &sets[0, 0] if n and words else NULL
    items.weights = &weights[0] if words else NULL
    return 0


def partition(
    const int64_t[::1] sizes,
    const int64_t[::1] counts,
    const uint64_t[:, ::1] sets,
    int32_t[::1] groups,
    int64_t limit,
    *,
    const int64_t[::1] weights,
    int64_t joined,
    int64_t least=0,
    int64_t most=0,
    int64_t passes=0,
):
    """Distribute items over groups that cost little: each its size, times the weight of all events of its members.

    The two groups that are cheapest to merge are merged until there are ``limit``; then items are moved to where they
    cost least, one by one in their order. Of pairs that cost the same the smallest is merged; else the lowest numbers
    decide.

    Args:
        sizes: int64, shape (n,), each at least 0.
        counts: int64, shape (n,). How many members an item stands for.
        sets: uint64, shape (n, words). The events of each item, a bit each.
        groups: int32, shape (n,), written: each item's group, by the number of the first item in it.
        limit: how many groups there may be, at least 1.
        weights: int64, shape (words,), each at least 0. Of an event in each word.
        joined: weight that a group of more than one member has besides.
        least: groups that are smaller are merged further; 0 for none.
        most: groups that would be larger are not made; 0 for none.
        passes: how often each item may move.

    Returns:
        How many groups there are before any item moves; more than ``limit`` where ``most`` leaves no other way.

    Raises:
        ValueError: the shapes do not fit, or the sum of all sizes times the weight of all events is not below 2^62.
        MemoryError: 512 bytes a word of each group, or a second copy of the sets, cannot be had.
    """
    cdef int64_t n = sizes.shape[0], left = 0
    cdef int status
    cdef c_partition items
    if limit < 1:
        raise ValueError("limit must be at least 1")
    describe_items(&items, sizes, counts, sets, groups, weights, joined, 1)
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
    const int64_t[::1] weights,
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
        weights: int64, shape (words,), each at least 0. Of an event in each word.
        joined: weight that a group of more than one member has besides.
        least: a group that would be smaller is not made; 0 for none.
        most: nothing comes into a group that would be larger; 0 for none.
        passes: how often each item may move.

    Raises:
        ValueError: the shapes do not fit, a group is none of those that there are, or the sum of all sizes times the
            weight of all events is not below 2^60.
        MemoryError: 512 bytes a word of each group cannot be had.
    """
    cdef int64_t n = sizes.shape[0], count = fixed.shape[0], i
    cdef int status
    cdef c_partition items
    describe_items(&items, sizes, counts, sets, groups, weights, joined, 4)
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
