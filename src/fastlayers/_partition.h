/* Items into groups at the least cost: merging from the bottom up, then moving. Plain C: no Python, no global state.
 *
 * An item has a size and a set of events; a group is sent again when an event of any of its members happens. What a
 * group costs is its size times the weight of the union of its members' events; a group of several members has
 * `joined` added to that weight, since others are less likely to have the very same group.
 *
 * Sums are 64 bits wide: the caller sees to it that the sum of all sizes times the weight of all events is below 2^62.
 */
#ifndef FASTLAYERS_PARTITION_H
#define FASTLAYERS_PARTITION_H

#include <stdint.h>

enum partition_status {
    PARTITION_OK = 0,
    PARTITION_NO_MEMORY,
};

struct partition {
    int64_t n;              /* items */
    int64_t words;          /* of an item's set of events */
    int64_t joined;         /* weight of having more than one member */
    int64_t least, most;    /* bytes: a smaller group is merged further, a larger one is not made; 0 for none */
    const int64_t *sizes;   /* [n] */
    const int64_t *counts;  /* [n] members that an item stands for */
    const uint64_t *sets;   /* [n][words] */
    const int64_t *weights; /* [words] of each event in a word */
};

/* groups[n]: from each item in a group of its own, merge the two groups that cost least to merge (of pairs that cost
 * the same the smallest one, then the one with the lowest numbers), until there are `limit` and none is smaller than
 * `least`. A group has the number of its first member. *left is how many there are: more than `limit` where `most` leaves no other way. */
int partition_merge(const struct partition *items, int64_t limit, int32_t *groups, int64_t *left);

/* Move single items, in their order, to the group where they cost least, until no move helps or `passes` are over.
 * groups[n] as partition_merge gives it; `free_groups` more may come to be. */
int partition_move(const struct partition *items, int64_t free_groups, int64_t passes, int32_t *groups);

/* Move single items, in their order, between groups that lie on each other, so that groups and their order cost least:
 * a group's cost as above, and the size of each group times the weight of all events of it and of the groups below.
 * groups[n] are numbers below `count`, the bottom one 0; nothing leaves or comes into a group that is fixed[count]. An
 * item stays where nothing is cheaper; among places that cost the same it goes to the lowest. */
int partition_settle(const struct partition *items, int64_t count, const uint8_t *fixed, int64_t passes,
                     int32_t *groups);

#endif
