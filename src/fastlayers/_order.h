/* Layers in an order that is cheap for clients that send again whatever lies above a layer that has changed. Plain C: no
 * Python, no global state.
 *
 * A layer has a size and a set of events, each of some weight. In an order, a layer is sent again at every event of its
 * own or of a layer below it, so an order costs the sum over all layers of size * weight of the union of the sets up to
 * there. (It is scheduling with precedences, 1|prec|sum w_j C_j: events are jobs that take their weight's time, and layers
 * jobs that take none and wait for their events.)
 *
 * Sums are 64 bits wide: the caller sees to it that the sum of all sizes times the weight of all events is below 2^62.
 */
#ifndef FASTLAYERS_ORDER_H
#define FASTLAYERS_ORDER_H

#include <stdint.h>

enum order_status {
    ORDER_OK = 0,
    ORDER_NO_MEMORY,
};

struct ordering {
    int64_t n;              /* layers */
    int64_t words;          /* of a layer's set of events */
    const int64_t *sizes;   /* [n] */
    const uint64_t *sets;   /* [n][words] */
    const int64_t *weights; /* [words] of each event in that word */
};

/* order[n]: two orders are made from the bottom up, and no more than four layers at a time are moved in each to where they
 * make it cheapest, until nothing moves; the cheaper one is given. The first order takes next the layer that adds the least weight
 * for its size, the second counts with the size what can then follow for nothing. Of layers that are equal the first comes first.
 *
 * No move is looked for any more once about `work` words of sets have been read, so that the time has a bound. */
int order_layers(const struct ordering *layers, int64_t work, int32_t *order);

#endif
