/* Graph kernels: a topological order, what is below and above, exact popularity. Plain C: no Python, no global state,
 * no recursion.
 *
 * A graph is n nodes and a CSR matrix: node i refers to indices[indptr[i]] ... indices[indptr[i + 1] - 1].
 * Only graph_check reads a graph that may be malformed; the others trust one that has passed it.
 * Numbers wider than 64 bits are rows of `limbs` uint64_t, the least significant first.
 */
#ifndef FASTLAYERS_GRAPH_H
#define FASTLAYERS_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

enum graph_status {
    GRAPH_OK = 0,
    GRAPH_NO_MEMORY,
    GRAPH_BAD_INDPTR,  /* does not start at 0, falls, or does not end at the number of indices */
    GRAPH_BAD_INDEX,   /* an index is not in [0, n) */
    GRAPH_BAD_ORDER,   /* no permutation of the nodes, or a reference comes before its referrer */
    GRAPH_OVERFLOW,    /* the limbs are too few */
};

/* A CSR matrix whose rows are sorted, from rows in any order: the i-th of these is row `rows[i]` and has lengths[i] of
 * the targets, which are numbers i too. Targets that a row has twice count once, and rows that refer to themselves are
 * told in own[n], not in the matrix. GRAPH_BAD_INDPTR where lengths are not those of the targets, GRAPH_BAD_ORDER where
 * rows are no permutation, GRAPH_BAD_INDEX where a target is no row. */
int graph_matrix(int64_t n, int64_t targets, const int32_t *rows, const int64_t *lengths, const int32_t *target,
                 int64_t *indptr, int32_t *indices, uint8_t *own);

int graph_check(int64_t n, int64_t references, const int64_t *indptr, const int32_t *indices);

/* order[n]: referrers before references. *count < n when there is a cycle: then order[0] ... order[*count - 1] are the
 * nodes that reach no cycle. */
int graph_topological_order(int64_t n, const int64_t *indptr, const int32_t *indices, int32_t *order, int64_t *count);

/* sets[n][words]: to the bits that a node has, add those of all its ancestors, or with `up` of all its descendants. */
int graph_spread(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order, int64_t words, bool up,
                 uint64_t *sets);

/* paths[n][limbs]: how many paths lead to each node from the nodes without referrers. GRAPH_OVERFLOW when the sum of
 * all the counts, which no popularity exceeds, needs more limbs. */
int graph_path_counts(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order, int64_t limbs,
                      uint64_t *paths);

/* counts[n][limbs]: for each node, the sum of the paths of its ancestors and itself. Cannot overflow when paths come
 * from graph_path_counts; takes 77 bytes a node and 4 a reference while it runs. */
int graph_popularity(int64_t n, const int64_t *indptr, const int32_t *indices, const int32_t *order, int64_t limbs,
                     const uint64_t *paths, uint64_t *counts);

#endif
