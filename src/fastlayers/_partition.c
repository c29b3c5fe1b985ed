#include "_partition.h"
#include "_processors.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MULTIVERSION TARGET_CLONES("arch=x86-64-v3", "popcnt", "default")

static void *allocate(int64_t items, size_t size) { return malloc(items ? (size_t)items * size : 1); }

/* What it adds to the cost to merge two groups, and the size of what they become. */
struct offer {
    int64_t cost, bytes;
};

/* Groups of partition_merge, each at the number of its first member. */
struct merging {
    const struct partition *items;
    int64_t left;     /* groups */
    int32_t *alive;   /* [left], ascending */
    uint64_t *sets;   /* [n][words] */
    int64_t *sizes;   /* [n] */
    int64_t *members; /* [n] */
    int64_t *weights; /* [n] of the events */
    int64_t *costs;   /* [n] */
    struct offer *best; /* [n] for merging with ... */
    int32_t *partner;   /* [n] ... this later one, the best; -1 for none */
    bool *stale;        /* [n] the partner is another group by now, and no later one is better than best */
};

INLINE int64_t weigh(const struct partition *items, const uint64_t *a, const uint64_t *b)
{
    int64_t weight = 0;
    for (int64_t w = 0; w < items->words; w++)
        weight += items->weights[w] * __builtin_popcountll(a[w] | b[w]);
    return weight;
}

INLINE bool precedes(struct offer a, struct offer b) { return a.cost != b.cost ? a.cost < b.cost : a.bytes < b.bytes; }

/* If to merge two groups is better than *best, it is *best; whether it is. Too large a group is not made. */
INLINE bool improve(const struct merging *m, int32_t a, int32_t b, struct offer *best)
{
    const struct partition *items = m->items;
    int64_t words = items->words, costs = m->costs[a] + m->costs[b];
    struct offer offer = {.bytes = m->sizes[a] + m->sizes[b]};
    if (items->most && offer.bytes > items->most)
        return false;
    int64_t weight = m->weights[a] > m->weights[b] ? m->weights[a] : m->weights[b]; /* the union has no less */
    offer.cost = offer.bytes * (weight + items->joined) - costs;
    if (!precedes(offer, *best))
        return false;
    weight = weigh(items, m->sets + a * words, m->sets + b * words);
    offer.cost = offer.bytes * (weight + items->joined) - costs;
    if (!precedes(offer, *best))
        return false;
    *best = offer;
    return true;
}

static const struct offer NONE = {INT64_MAX, INT64_MAX};

/* Find the best partner of the group at place `at` of alive, among those behind it. */
INLINE void look(struct merging *m, int64_t at)
{
    int32_t a = m->alive[at];
    m->partner[a] = -1;
    m->stale[a] = false;
    m->best[a] = NONE;
    for (int64_t k = at + 1; k < m->left; k++)
        if (improve(m, a, m->alive[k], m->best + a))
            m->partner[a] = m->alive[k];
}

MULTIVERSION
static void look_all(struct merging *m)
{
    for (int64_t at = 0; at < m->left; at++)
        look(m, at);
}

/* The best pair. A partner that is stale is looked for anew only where its group would be chosen. */
MULTIVERSION
static bool best_pair(struct merging *m, int32_t *first, int32_t *second)
{
    for (;;) {
        int64_t chosen = -1;
        for (int64_t at = 0; at < m->left; at++) {
            int32_t a = m->alive[at];
            if (m->partner[a] >= 0 && (chosen < 0 || precedes(m->best[a], m->best[m->alive[chosen]])))
                chosen = at;
        }
        if (chosen < 0)
            return false;
        *first = m->alive[chosen];
        *second = m->partner[*first];
        if (!m->stale[*first])
            return true;
        look(m, chosen);
    }
}

/* The smallest of the groups that are too small, with its best partner. */
MULTIVERSION
static bool too_small(struct merging *m, int32_t *first, int32_t *second)
{
    int32_t small = -1;
    for (int64_t at = 0; m->left > 1 && at < m->left; at++) {
        int32_t a = m->alive[at];
        if (m->sizes[a] < m->items->least && (small < 0 || m->sizes[a] < m->sizes[small]))
            small = a;
    }
    struct offer best = NONE;
    for (int64_t at = 0; small >= 0 && at < m->left; at++) {
        int32_t a = m->alive[at];
        if (a != small && improve(m, a, small, &best)) {
            *first = a < small ? a : small;
            *second = a < small ? small : a;
        }
    }
    return precedes(best, NONE);
}

/* The second of two groups goes into the first, which is before it; then whatever was best with one of them. */
MULTIVERSION
static void merge(struct merging *m, int32_t a, int32_t b)
{
    const struct partition *items = m->items;
    int64_t words = items->words, place = 0;
    for (int64_t w = 0; w < words; w++)
        m->sets[a * words + w] |= m->sets[b * words + w];
    m->sizes[a] += m->sizes[b];
    m->members[a] += m->members[b];
    m->weights[a] = weigh(items, m->sets + a * words, m->sets + a * words);
    m->costs[a] = m->sizes[a] * (m->weights[a] + items->joined);
    while (m->alive[place] != b)
        place++;
    m->left--;
    memmove(m->alive + place, m->alive + place + 1, (size_t)(m->left - place) * sizeof *m->alive);
    bool before = true;
    for (int64_t at = 0; at < m->left; at++) {
        int32_t g = m->alive[at];
        if (g == a) {
            before = false;
            look(m, at);
            continue;
        }
        if (m->partner[g] < 0)
            continue;
        /* Among equals the partner is the first one. That may be a: but not where it is not known who is the partner. */
        struct offer best = m->best[g];
        best.bytes += !m->stale[g] && a <= m->partner[g];
        m->stale[g] |= m->partner[g] == a || m->partner[g] == b;
        if (before && improve(m, g, a, &best)) {
            m->best[g] = best;
            m->partner[g] = a;
            m->stale[g] = false;
        }
    }
}

int partition_merge(const struct partition *items, int64_t limit, int32_t *groups, int64_t *left)
{
    int64_t n = items->n, words = items->words;
    int status = PARTITION_NO_MEMORY;
    struct merging m = {
        .items = items,
        .left = n,
        .alive = allocate(n, sizeof *m.alive),
        .sets = allocate(n * words, sizeof *m.sets),
        .sizes = allocate(n, sizeof *m.sizes),
        .members = allocate(n, sizeof *m.members),
        .weights = allocate(n, sizeof *m.weights),
        .costs = allocate(n, sizeof *m.costs),
        .best = allocate(n, sizeof *m.best),
        .partner = allocate(n, sizeof *m.partner),
        .stale = allocate(n, sizeof *m.stale),
    };
    if (!m.alive || !m.sets || !m.sizes || !m.members || !m.weights || !m.costs || !m.best || !m.partner || !m.stale)
        goto end;
    memcpy(m.sets, items->sets, (size_t)(n * words) * sizeof *m.sets);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t *set = items->sets + i * words;
        m.alive[i] = groups[i] = (int32_t)i;
        m.sizes[i] = items->sizes[i];
        m.members[i] = items->counts[i];
        m.weights[i] = weigh(items, set, set);
        m.costs[i] = m.sizes[i] * (m.weights[i] + (m.members[i] > 1 ? items->joined : 0));
    }
    look_all(&m);
    for (int32_t a, b; m.left > limit ? best_pair(&m, &a, &b) : too_small(&m, &a, &b);) {
        merge(&m, a, b);
        groups[b] = a;
    }
    for (int64_t i = 0; i < n; i++) /* a group's own number is lower than those of the groups that went into it */
        groups[i] = groups[groups[i]];
    *left = m.left;
    status = PARTITION_OK;
end:
    free(m.alive);
    free(m.sets);
    free(m.sizes);
    free(m.members);
    free(m.weights);
    free(m.costs);
    free(m.best);
    free(m.partner);
    free(m.stale);
    return status;
}

/* Groups of partition_move, numbered without gaps. */
struct moving {
    const struct partition *items;
    int64_t count;    /* groups */
    int32_t *group;   /* [n] of each item */
    int32_t *uses;    /* [count][64 * words] how many members have an event */
    uint64_t *sets;   /* [count][words] events that some member has */
    uint64_t *once;   /* [count][words] events that one member alone has */
    int64_t *sizes;   /* [count] */
    int64_t *members; /* [count] */
    int64_t *entries; /* [count] items */
};

static void change(struct moving *m, int64_t item, int64_t group, int sign)
{
    const struct partition *items = m->items;
    int64_t words = items->words;
    int32_t *uses = m->uses + group * 64 * words;
    m->sizes[group] += sign * items->sizes[item];
    m->members[group] += sign * items->counts[item];
    m->entries[group] += sign;
    for (int64_t w = 0; w < words; w++)
        for (uint64_t left = items->sets[item * words + w]; left; left &= left - 1) {
            int64_t bit = __builtin_ctzll(left);
            int32_t now = uses[64 * w + bit] += sign;
            uint64_t mask = UINT64_C(1) << bit, *set = m->sets + group * words + w, *once = m->once + group * words + w;
            *set = now ? *set | mask : *set & ~mask;
            *once = now == 1 ? *once | mask : *once & ~mask;
        }
}

INLINE int64_t cost(const struct partition *items, int64_t size, int64_t weight, int64_t members)
{
    return size * (weight + (members > 1 ? items->joined : 0));
}

/* Where an item costs least: its own group, unless another is cheaper by something. */
MULTIVERSION
static int64_t best_group(const struct moving *m, int64_t item)
{
    const struct partition *items = m->items;
    int64_t words = items->words, size = items->sizes[item], own = m->group[item], members = items->counts[item];
    const uint64_t *set = items->sets + item * words, *here = m->sets + own * words, *once = m->once + own * words;
    int64_t without = 0;
    for (int64_t w = 0; w < words; w++)
        without += items->weights[w] * __builtin_popcountll(here[w] & ~(once[w] & set[w]));
    int64_t saved = cost(items, m->sizes[own], weigh(items, here, here), m->members[own]) -
                    cost(items, m->sizes[own] - size, without, m->members[own] - members);
    if (m->entries[own] > 1 && items->least && m->sizes[own] - size < items->least)
        return own;
    int64_t best = own, least = saved;
    for (int64_t g = 0; g < m->count; g++) {
        if (g == own || (items->most && m->entries[g] && m->sizes[g] + size > items->most))
            continue;
        if (!m->entries[g] && size < items->least)
            continue;
        const uint64_t *there = m->sets + g * words;
        int64_t more = cost(items, m->sizes[g] + size, weigh(items, there, set), m->members[g] + members) -
                       cost(items, m->sizes[g], weigh(items, there, there), m->members[g]);
        if (more < least) {
            least = more;
            best = g;
        }
    }
    return best;
}

int partition_move(const struct partition *items, int64_t free_groups, int64_t passes, int32_t *groups)
{
    int64_t n = items->n, words = items->words;
    int status = PARTITION_NO_MEMORY;
    int32_t *number = allocate(n, sizeof *number), *names = NULL;
    struct moving m = {.items = items, .group = allocate(n, sizeof *m.group)};
    if (!number || !m.group)
        goto end;
    memset(number, -1, (size_t)n * sizeof *number);
    for (int64_t i = 0; i < n; i++) {
        if (number[groups[i]] < 0)
            number[groups[i]] = (int32_t)m.count++;
        m.group[i] = number[groups[i]];
    }
    m.count += free_groups;
    m.uses = calloc((size_t)(m.count * 64 * words) + 1, sizeof *m.uses);
    m.sets = calloc((size_t)(m.count * words) + 1, sizeof *m.sets);
    m.once = calloc((size_t)(m.count * words) + 1, sizeof *m.once);
    m.sizes = calloc((size_t)m.count + 1, sizeof *m.sizes);
    m.members = calloc((size_t)m.count + 1, sizeof *m.members);
    m.entries = calloc((size_t)m.count + 1, sizeof *m.entries);
    names = allocate(m.count, sizeof *names);
    if (!m.uses || !m.sets || !m.once || !m.sizes || !m.members || !m.entries || !names)
        goto end;
    for (int64_t i = 0; i < n; i++)
        change(&m, i, m.group[i], 1);
    bool moved = true;
    for (int64_t pass = 0; moved && pass < passes; pass++) {
        moved = false;
        for (int64_t i = 0; i < n; i++) {
            int64_t to = best_group(&m, i);
            if (to != m.group[i]) {
                change(&m, i, m.group[i], -1);
                change(&m, i, to, 1);
                m.group[i] = (int32_t)to;
                moved = true;
            }
        }
    }
    memset(names, -1, (size_t)m.count * sizeof *names);
    for (int64_t i = 0; i < n; i++) { /* a group has the number of its first member */
        if (names[m.group[i]] < 0)
            names[m.group[i]] = (int32_t)i;
        groups[i] = names[m.group[i]];
    }
    status = PARTITION_OK;
end:
    free(number);
    free(names);
    free(m.group);
    free(m.uses);
    free(m.sets);
    free(m.once);
    free(m.sizes);
    free(m.members);
    free(m.entries);
    return status;
}

/* Groups of partition_settle, in their order; and where in it each event comes first. */
struct settling {
    struct moving m;
    int32_t *first;  /* [64 * words] the lowest group that has an event; `count` where none has it */
    int64_t *starts; /* [count + 1] weight of the events that come first in a group */
    int64_t *sooner; /* [count + 1] of those that come first there, the weight of what an item has too */
    int64_t *above;  /* [count + 1] bytes of a group and of all groups above it */
};

static void put(struct settling *s, int64_t item, int64_t group, int sign)
{
    const struct partition *items = s->m.items;
    int64_t words = items->words;
    change(&s->m, item, group, sign);
    for (int64_t w = 0; w < words; w++)
        for (uint64_t left = items->sets[item * words + w]; left; left &= left - 1) {
            int64_t event = 64 * w + __builtin_ctzll(left), was = s->first[event], now = was;
            if (sign > 0 && group < was)
                now = group;
            while (sign < 0 && now < s->m.count && !s->m.uses[now * 64 * words + event])
                now++;
            s->starts[was] -= items->weights[w];
            s->starts[now] += items->weights[w];
            s->first[event] = (int32_t)now;
        }
}

/* Where an item that is in no group costs least, by what groups and their order cost; where it was, if that is among
 * the cheapest. */
MULTIVERSION
static int64_t best_place(struct settling *s, int64_t item, int64_t own, const uint8_t *fixed)
{
    const struct moving *m = &s->m;
    const struct partition *items = m->items;
    int64_t words = items->words, size = items->sizes[item], members = items->counts[item], count = m->count;
    const uint64_t *set = items->sets + item * words;
    int64_t prefix = 0, sooner = 0, before = 0, best = -1, least = 0;
    memset(s->sooner, 0, (size_t)(count + 1) * sizeof *s->sooner);
    for (int64_t w = 0; w < words; w++)
        for (uint64_t left = set[w]; left; left &= left - 1)
            s->sooner[s->first[64 * w + __builtin_ctzll(left)]] += items->weights[w];
    s->above[count] = 0;
    for (int64_t g = count - 1; g >= 0; g--) {
        s->above[g] = s->above[g + 1] + m->sizes[g];
        prefix += s->starts[g];
    }
    for (int64_t g = count - 1; g >= 0; prefix -= s->starts[g--]) {
        sooner += s->sooner[g + 1]; /* events of the item that would come first in g, and now come first above it ... */
        before += s->sooner[g + 1] * s->above[g + 1]; /* ... and what they cost there */
        bool too_large = items->most && m->entries[g] && m->sizes[g] + size > items->most;
        bool too_small = !m->entries[g] && size < items->least;
        if (g != own && (fixed[g] || too_large || too_small))
            continue;
        const uint64_t *there = m->sets + g * words;
        int64_t more = cost(items, m->sizes[g] + size, weigh(items, there, set), m->members[g] + members) -
                       cost(items, m->sizes[g], weigh(items, there, there), m->members[g]);
        more += sooner * s->above[g] - before + size * (prefix + sooner);
        if (best < 0 || more < least || (more == least && best != own)) {
            least = more;
            best = g;
        }
    }
    return best;
}

int partition_settle(const struct partition *items, int64_t count, const uint8_t *fixed, int64_t passes,
                     int32_t *groups)
{
    int64_t n = items->n, words = items->words;
    int status = PARTITION_NO_MEMORY;
    struct settling s = {.m = {.items = items, .count = count}};
    struct moving *m = &s.m;
    m->uses = calloc((size_t)(count * 64 * words) + 1, sizeof *m->uses);
    m->sets = calloc((size_t)(count * words) + 1, sizeof *m->sets);
    m->once = calloc((size_t)(count * words) + 1, sizeof *m->once);
    m->sizes = calloc((size_t)count + 1, sizeof *m->sizes);
    m->members = calloc((size_t)count + 1, sizeof *m->members);
    m->entries = calloc((size_t)count + 1, sizeof *m->entries);
    s.first = allocate(64 * words, sizeof *s.first);
    s.starts = calloc((size_t)count + 1, sizeof *s.starts);
    s.sooner = allocate(count + 1, sizeof *s.sooner);
    s.above = allocate(count + 1, sizeof *s.above);
    if (!m->uses || !m->sets || !m->once || !m->sizes || !m->members || !m->entries)
        goto end;
    if (!s.first || !s.starts || !s.sooner || !s.above)
        goto end;
    for (int64_t event = 0; event < 64 * words; event++)
        s.first[event] = (int32_t)count;
    for (int64_t i = 0; i < n; i++)
        put(&s, i, groups[i], 1);
    bool moved = true;
    for (int64_t pass = 0; moved && pass < passes; pass++) {
        moved = false;
        for (int64_t i = 0; i < n; i++) {
            int64_t own = groups[i];
            if (fixed[own] || (m->entries[own] > 1 && m->sizes[own] - items->sizes[i] < items->least))
                continue;
            put(&s, i, own, -1);
            int64_t to = best_place(&s, i, own, fixed);
            put(&s, i, to, 1);
            groups[i] = (int32_t)to;
            moved |= to != own;
        }
    }
    status = PARTITION_OK;
end:
    free(m->uses);
    free(m->sets);
    free(m->once);
    free(m->sizes);
    free(m->members);
    free(m->entries);
    free(s.first);
    free(s.starts);
    free(s.sooner);
    free(s.above);
    return status;
}
