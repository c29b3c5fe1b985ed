#include "_graph.h"
#include "_processors.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MULTIVERSION TARGET_CLONES("avx512f", "avx2", "default")

enum { BLOCK = 512, WORDS = BLOCK / 64, BYTES = BLOCK / 8 };

typedef unsigned __int128 wide;
typedef uint64_t bits __attribute__((vector_size(BYTES)));

/* malloc(0) may be NULL, which is no failure. */
static void *allocate(int64_t items, size_t size) { return malloc(items ? (size_t)items * size : 1); }

int graph_check(int64_t n, int64_t references, const int64_t *indptr, const int32_t *indices)
{
    if (indptr[0] != 0 || indptr[n] != references)
        return GRAPH_BAD_INDPTR;
    for (int64_t i = 0; i < n; i++)
        if (indptr[i] > indptr[i + 1])
            return GRAPH_BAD_INDPTR;
    uint32_t last = (uint32_t)n - 1, bad = 0; /* no early exit and no comparison: so any compiler vectorises it */
    for (int64_t k = 0; k < references; k++)
        bad |= (uint32_t)indices[k] | (last - (uint32_t)indices[k]); /* bit 31: negative, or past the last */
    return bad >> 31 ? GRAPH_BAD_INDEX : GRAPH_OK;
}

/* Two passes of a counting sort: by column, then by row, which leaves each row's columns sorted. */
int graph_matrix(int64_t n, int64_t targets, const int32_t *rows, const int64_t *lengths, const int32_t *target,
                 int64_t *indptr, int32_t *indices, uint8_t *own)
{
    int status = GRAPH_NO_MEMORY;
    int64_t *at = calloc((size_t)n + 1, sizeof *at); /* where each column's next row goes */
    int64_t *filled = allocate(n, sizeof *filled);   /* where each row's next column goes */
    int32_t *referrers = allocate(targets, sizeof *referrers);
    if (!at || !filled || !referrers)
        goto end;
    memset(indptr, 0, ((size_t)n + 1) * sizeof *indptr);
    memset(own, 0, (size_t)n);

    int64_t left = targets;
    for (int64_t i = 0; i < n; i++) {
        if (rows[i] < 0 || rows[i] >= n || own[rows[i]]++) {
            status = GRAPH_BAD_ORDER;
            goto end;
        }
        if (lengths[i] < 0 || lengths[i] > left) {
            status = GRAPH_BAD_INDPTR;
            goto end;
        }
        left -= lengths[i];
        indptr[rows[i] + 1] = lengths[i];
    }
    memset(own, 0, (size_t)n);
    if (left) {
        status = GRAPH_BAD_INDPTR;
        goto end;
    }
    for (int64_t k = 0; k < targets; k++) {
        if (target[k] < 0 || target[k] >= n) {
            status = GRAPH_BAD_INDEX;
            goto end;
        }
        at[rows[target[k]] + 1]++;
    }
    for (int64_t i = 0; i < n; i++) {
        at[i + 1] += at[i];
        indptr[i + 1] += indptr[i];
    }
    for (int64_t i = 0, k = 0; i < n; i++)
        for (int64_t end = k + lengths[i]; k < end; k++)
            referrers[at[rows[target[k]]]++] = rows[i];

    for (int64_t i = 0; i < n; i++)
        filled[i] = indptr[i];
    for (int64_t j = 0, k = 0; j < n; j++) /* at[j] is now where column j ends */
        for (; k < at[j]; k++) {
            int32_t i = referrers[k];
            if (i == j)
                own[i] = 1;
            else if (filled[i] == indptr[i] || indices[filled[i] - 1] != j)
                indices[filled[i]++] = (int32_t)j;
        }
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) { /* close the gaps */
        int64_t length = filled[i] - indptr[i];
        if (length) /* there may be no indices at all */
            memmove(indices + total, indices + indptr[i], (size_t)length * sizeof *indices);
        indptr[i] = total;
        total += length;
    }
    indptr[n] = total;
    status = GRAPH_OK;
end:
    free(at);
    free(filled);
    free(referrers);
    return status;
}

/* Kahn's algorithm from the leaves up, with a stack, emitting from the end. Any topological order would be right; this
 * one puts the referrers of a node side by side, so that the sources of one block of graph_popularity share most of
 * their descendants (on nixpkgs a third of the work that the order from the roots down makes). */
int graph_topological_order(int64_t n, const int64_t *indptr, const int32_t *indices, int32_t *order, int64_t *count)
{
    int status = GRAPH_NO_MEMORY;
    int64_t references = indptr[n];
    int64_t *first = calloc((size_t)n + 1, sizeof *first); /* the referrers of j: referrers[first[j]] ... */
    int64_t *left = allocate(n, sizeof *left);             /* references that are not emitted yet */
    int32_t *referrers = allocate(references, sizeof *referrers);
    if (!first || !left || !referrers)
        goto end;
    for (int64_t k = 0; k < references; k++)
        first[indices[k]]++;
    for (int64_t j = 0, sum = 0; j <= n; j++)
        first[j] = sum += first[j];
    for (int64_t i = n; i-- > 0;)
        for (int64_t k = indptr[i]; k < indptr[i + 1]; k++)
            referrers[--first[indices[k]]] = (int32_t)i;

    /* A node is on the stack or emitted, never both, so the stack lives in the part of order that is not filled. */
    int64_t top = 0, filled = n;
    for (int64_t i = 0; i < n; i++) {
        left[i] = indptr[i + 1] - indptr[i];
        if (left[i] == 0)
            order[top++] = (int32_t)i;
    }
    while (top > 0) {
        int32_t j = order[--top];
        order[--filled] = j;
        for (int64_t k = first[j]; k < first[j + 1]; k++)
            if (--left[referrers[k]] == 0)
                order[top++] = referrers[k];
        assert(top <= filled);
    }
    *count = n - filled;
    memmove(order, order + filled, (size_t)*count * sizeof *order);
    status = GRAPH_OK;
end:
    free(first);
    free(left);
    free(referrers);
    return status;
}

INLINE void send(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order, int64_t words, bool up,
                 uint64_t *sets)
{
    for (int64_t r = 0; r < n; r++) {
        int32_t i = order[up ? n - 1 - r : r];
        uint64_t *own = sets + i * words;
        uint64_t any = 0;
        for (int64_t w = 0; w < words; w++)
            any |= own[w];
        if (!up && any == 0)
            continue;
        for (int64_t k = indptr[i]; k < indptr[i + 1]; k++) {
            uint64_t *other = sets + indices[k] * words;
            for (int64_t w = 0; w < words; w++)
                if (up)
                    own[w] |= other[w];
                else
                    other[w] |= own[w];
        }
    }
}

int graph_spread(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order, int64_t words, bool up,
                 uint64_t *sets)
{
    int status = GRAPH_BAD_ORDER;
    bool *passed = calloc((size_t)n + 1, sizeof *passed);
    if (!passed)
        return GRAPH_NO_MEMORY;
    for (int64_t r = 0; r < n; r++) {
        int32_t i = order[r];
        if (i < 0 || i >= n || passed[i])
            goto end;
        passed[i] = true;
        for (int64_t k = indptr[i]; k < indptr[i + 1]; k++)
            if (passed[indices[k]])
                goto end;
    }
    if (words == 1) /* each a loop of its own, so that the compiler knows the width and the direction */
        up ? send(n, indptr, indices, order, 1, true, sets) : send(n, indptr, indices, order, 1, false, sets);
    else
        up ? send(n, indptr, indices, order, words, true, sets) : send(n, indptr, indices, order, words, false, sets);
    status = GRAPH_OK;
end:
    free(passed);
    return status;
}

/* to += from; whether it overflows. */
INLINE bool add(uint64_t *to, const uint64_t *from, int64_t limbs)
{
    if (limbs == 1)
        return __builtin_add_overflow(to[0], from[0], &to[0]);
    if (limbs == 2) {
        wide sum;
        bool over = __builtin_add_overflow((wide)to[1] << 64 | to[0], (wide)from[1] << 64 | from[0], &sum);
        to[0] = (uint64_t)sum;
        to[1] = (uint64_t)(sum >> 64);
        return over;
    }
    bool carry = false;
    for (int64_t w = 0; w < limbs; w++) {
        wide sum = (wide)to[w] + from[w] + carry;
        to[w] = (uint64_t)sum;
        carry = sum >> 64;
    }
    return carry;
}

INLINE int count_paths(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order, int64_t limbs,
                       uint64_t *paths, bool *passed, uint64_t *total)
{
    for (int64_t r = 0; r < n; r++) {
        int32_t i = order[r];
        if (i < 0 || i >= n || passed[i])
            return GRAPH_BAD_ORDER;
        passed[i] = true;
        uint64_t *own = paths + i * limbs;
        uint64_t any = 0;
        for (int64_t w = 0; w < limbs; w++)
            any |= own[w];
        if (any == 0) /* no referrers: each would have brought a path */
            own[0] = 1;
        bool over = add(total, own, limbs), back = false;
        for (int64_t k = indptr[i]; k < indptr[i + 1]; k++) {
            int32_t j = indices[k];
            back |= passed[j];
            over |= add(paths + j * limbs, own, limbs);
        }
        if (back)
            return GRAPH_BAD_ORDER;
        if (over)
            return GRAPH_OVERFLOW;
    }
    return GRAPH_OK;
}

int graph_path_counts(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order, int64_t limbs,
                      uint64_t *paths)
{
    int status = GRAPH_NO_MEMORY;
    bool *passed = calloc((size_t)n + 1, sizeof *passed);
    uint64_t *total = calloc((size_t)limbs, sizeof *total);
    if (passed && total) {
        memset(paths, 0, (size_t)n * (size_t)limbs * sizeof *paths);
        if (limbs == 1)
            status = count_paths(n, indptr, indices, order, 1, paths, passed, total);
        else if (limbs == 2)
            status = count_paths(n, indptr, indices, order, 2, paths, passed, total);
        else
            status = count_paths(n, indptr, indices, order, limbs, paths, passed, total);
    }
    free(passed);
    free(total);
    return status;
}

/* The graph with its nodes numbered in topological order, and a set of up to BLOCK sources for each node. */
struct graph {
    int64_t n;
    int64_t *indptr;
    int32_t *indices;
    bits *sets;       /* which of the block's sources are ancestors or the node itself; zero between blocks */
    uint64_t *active; /* a bit for each node whose set is not empty */
};

/* What one block adds to each popularity. For sums that fit, sums[p][v] is the sum of the weights of the sources that
 * the p-th byte of a set holds when its value is v; the wide table is there when `sum_limbs` is 2. */
struct block {
    int64_t sum_limbs;
    union {
        uint64_t narrow[BYTES][256];
        wide broad[BYTES][256];
    } sums;
};

#define FILL(table, weight)                                                                                            \
    for (int64_t p = 0; p < BYTES && p / 8 * 64 < sources; p++) {                                                           \
        (table)[p][0] = 0;                                                                                             \
        for (int b = 0; b < 8; b++)                                                                                    \
            for (int v = 0; v < 1 << b; v++)                                                                           \
                (table)[p][(1 << b) + v] = (table)[p][v] + (p * 8 + b < sources ? (weight) : 0);                       \
    }

static void prepare(struct block *block, const uint64_t *paths, const int32_t *order, int64_t sources, int64_t limbs,
                    uint64_t *total)
{
    memset(total, 0, (size_t)limbs * sizeof *total);
    for (int64_t s = 0; s < sources; s++)
        add(total, paths + order[s] * limbs, limbs);
    block->sum_limbs = limbs;
    while (block->sum_limbs > 1 && total[block->sum_limbs - 1] == 0)
        block->sum_limbs--;
    if (block->sum_limbs == 1)
        FILL(block->sums.narrow, paths[order[p * 8 + b] * limbs])
    else if (block->sum_limbs == 2)
        FILL(block->sums.broad,
             (wide)paths[order[p * 8 + b] * limbs + 1] << 64 | paths[order[p * 8 + b] * limbs])
}

/* Words are often 0; within another word, a branch for each byte costs more than the look-up. */
#define LOOK_UP(sum, table)                                                                                            \
    for (int w = 0; w < WORDS; w++) {                                                                                  \
        uint64_t word = (*set)[w];                                                                                     \
        if (word)                                                                                                      \
            (sum) += ((table)[w * 8][word & 255] + (table)[w * 8 + 1][word >> 8 & 255]) +                              \
                     ((table)[w * 8 + 2][word >> 16 & 255] + (table)[w * 8 + 3][word >> 24 & 255]) +                   \
                     ((table)[w * 8 + 4][word >> 32 & 255] + (table)[w * 8 + 5][word >> 40 & 255]) +                   \
                     ((table)[w * 8 + 6][word >> 48 & 255] + (table)[w * 8 + 7][word >> 56]);                          \
    }

/* to += what the sources in `set` weigh. */
INLINE void add_sum(uint64_t *to, const bits *set, const struct block *block, const uint64_t *paths,
                    const int32_t *order, int64_t limbs)
{
    if (block->sum_limbs > 2) {
        for (int w = 0; w < WORDS; w++)
            for (uint64_t rest = (*set)[w]; rest; rest &= rest - 1)
                add(to, paths + order[w * 64 + __builtin_ctzll(rest)] * limbs, limbs);
        return;
    }
    uint64_t low = 0, high = 0;
    if (block->sum_limbs == 1)
        LOOK_UP(low, block->sums.narrow)
    else {
        wide sum = 0;
        LOOK_UP(sum, block->sums.broad)
        low = (uint64_t)sum;
        high = (uint64_t)(sum >> 64);
    }
    uint64_t carry = __builtin_add_overflow(to[0], low, &to[0]);
    for (int64_t w = 1; w < limbs && (high | carry); w++) {
        wide sum = (wide)to[w] + high + carry;
        to[w] = (uint64_t)sum;
        carry = (uint64_t)(sum >> 64);
        high = 0;
    }
}

/* Send the sources first ... first + sources - 1 forward to all their descendants. */
MULTIVERSION
static void propagate(const struct graph *graph, const struct block *block, int64_t first, int64_t sources,
                      const uint64_t *paths, const int32_t *order, int64_t limbs, uint64_t *counts)
{
    bits *sets = graph->sets;
    uint64_t *active = graph->active;
    for (int64_t s = 0; s < sources; s++) {
        sets[first + s][s >> 6] |= (uint64_t)1 << (s & 63);
        active[(first + s) >> 6] |= (uint64_t)1 << ((first + s) & 63);
    }
    for (int64_t w = first >> 6; w <= (graph->n - 1) >> 6; w++)
        while (active[w]) { /* read again each time: nodes become active in the word that is being read */
            int64_t r = w << 6 | __builtin_ctzll(active[w]);
            active[w] &= active[w] - 1;
            bits set = sets[r];
            sets[r] = (bits){0};
            for (int64_t k = graph->indptr[r]; k < graph->indptr[r + 1]; k++) {
                int32_t j = graph->indices[k];
                sets[j] |= set;
                active[j >> 6] |= (uint64_t)1 << (j & 63);
            }
            add_sum(counts + order[r] * limbs, &set, block, paths, order + first, limbs);
        }
}

static int renumber(struct graph *graph, const int64_t *indptr, const int32_t *indices, const int32_t *order)
{
    int64_t n = graph->n;
    int status = GRAPH_BAD_ORDER;
    int32_t *rank = allocate(n, sizeof *rank);
    if (!rank)
        return GRAPH_NO_MEMORY;
    memset(rank, -1, (size_t)n * sizeof *rank);
    for (int64_t r = 0; r < n; r++) {
        if (order[r] < 0 || order[r] >= n || rank[order[r]] >= 0)
            goto end;
        rank[order[r]] = (int32_t)r;
    }
    int64_t filled = 0;
    for (int64_t r = 0; r < n; r++) {
        graph->indptr[r] = filled;
        for (int64_t k = indptr[order[r]]; k < indptr[order[r] + 1]; k++) {
            int32_t j = rank[indices[k]];
            if (j <= r)
                goto end;
            graph->indices[filled++] = j;
        }
    }
    graph->indptr[n] = filled;
    status = GRAPH_OK;
end:
    free(rank);
    return status;
}

int graph_popularity(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order, int64_t limbs,
                     const uint64_t *paths, uint64_t *counts)
{
    int status = GRAPH_NO_MEMORY;
    struct graph graph = {.n = n};
    struct block *block = malloc(sizeof *block);
    uint64_t *total = allocate(limbs, sizeof *total);
    void *sets = NULL;
    graph.indptr = allocate(n + 1, sizeof *graph.indptr);
    graph.indices = allocate(indptr[n], sizeof *graph.indices);
    graph.active = calloc((size_t)n / 64 + 1, sizeof *graph.active);
    if (!block || !total || !graph.indptr || !graph.indices || !graph.active)
        goto end;
    if (posix_memalign(&sets, sizeof(bits), ((size_t)n + 1) * sizeof(bits)) != 0) {
        sets = NULL;
        goto end;
    }
    graph.sets = sets;
    memset(sets, 0, (size_t)n * sizeof(bits));
    memset(counts, 0, (size_t)n * (size_t)limbs * sizeof *counts);
    status = renumber(&graph, indptr, indices, order);
    for (int64_t first = 0; status == GRAPH_OK && first < n; first += BLOCK) {
        int64_t sources = n - first < BLOCK ? n - first : BLOCK;
        prepare(block, paths, order + first, sources, limbs, total);
        propagate(&graph, block, first, sources, paths, order, limbs, counts);
    }
end:
    free(sets);
    free(graph.active);
    free(graph.indices);
    free(graph.indptr);
    free(total);
    free(block);
    return status;
}
