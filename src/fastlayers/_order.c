#include "_order.h"
#include "_processors.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MULTIVERSION TARGET_CLONES("arch=x86-64-v3", "popcnt", "default")

enum { SEGMENT = 4, FEW = 512 };

/* What the search needs besides the layers. Prefixes are unions of sets: prefixes[k] is of the first k layers. */
struct search {
    const struct ordering *layers;
    uint64_t *prefixes;       /* [n + 1][words] */
    int64_t *weights;         /* [n + 1] of the prefixes */
    int64_t *costs;           /* [n + 1] */
    int64_t *added;           /* [n] */
    uint64_t *segment;        /* [SEGMENT + 1][words] unions of the first layers of what is moved */
    int32_t *rest, *best;     /* [n] */
    bool *taken;              /* [n] */
    int64_t work;             /* words of sets that may still be read */
};

static void *allocate(int64_t items, size_t size) { return malloc(items ? (size_t)items * size : 1); }

static const uint64_t *set_of(const struct ordering *layers, int64_t k) { return layers->sets + k * layers->words; }

/* Weight of the events of a that are not in b. */
INLINE int64_t weigh(const struct ordering *layers, const uint64_t *a, const uint64_t *b)
{
    int64_t weight = 0;
    for (int64_t w = 0; w < layers->words; w++)
        weight += layers->weights[w] * __builtin_popcountll(a[w] & ~b[w]);
    return weight;
}

INLINE void unite(int64_t words, uint64_t *out, const uint64_t *a, const uint64_t *b)
{
    for (int64_t w = 0; w < words; w++)
        out[w] = a[w] | b[w];
}

/* The size of layer k and of all that can follow it for nothing. */
INLINE int64_t with_followers(struct search *s, int32_t k, uint64_t *both)
{
    const struct ordering *layers = s->layers;
    int64_t size = layers->sizes[k];
    unite(layers->words, both, s->prefixes, set_of(layers, k));
    for (int64_t j = 0; j < layers->n; j++)
        if (j != k && !s->taken[j] && s->added[j] <= s->added[k] && weigh(layers, set_of(layers, j), both) == 0)
            size += layers->sizes[j];
    return size;
}

/* An order from the bottom up: always the layer next that adds the least weight for its size. */
MULTIVERSION static void build(struct search *s, bool followers, int32_t *order)
{
    const struct ordering *layers = s->layers;
    int64_t n = layers->n, words = layers->words;
    memset(s->prefixes, 0, (size_t)words * sizeof *s->prefixes);
    memset(s->taken, 0, (size_t)n * sizeof *s->taken);
    for (int64_t place = 0; place < n; place++) {
        int64_t best = -1, best_size = 0;
        for (int64_t k = 0; k < n; k++)
            if (!s->taken[k])
                s->added[k] = weigh(layers, set_of(layers, k), s->prefixes);
        for (int64_t k = 0; k < n; k++) {
            if (s->taken[k])
                continue;
            int64_t size = layers->sizes[k];
            if (followers && s->added[k])
                size = with_followers(s, (int32_t)k, s->segment);
            int64_t less = best < 0 ? 1 : s->added[best] * size - s->added[k] * best_size;
            if (less == 0)
                less = s->added[best] - s->added[k];
            if (less == 0)
                less = layers->sizes[k] - layers->sizes[best];
            if (less > 0) {
                best = k;
                best_size = size;
            }
        }
        order[place] = (int32_t)best;
        s->taken[best] = true;
        unite(words, s->prefixes, s->prefixes, set_of(layers, best));
    }
}

/* Prefixes and their weights, of `count` layers. */
INLINE void sum_up(struct search *s, int64_t count, const int32_t *order)
{
    const struct ordering *layers = s->layers;
    int64_t words = layers->words;
    memset(s->prefixes, 0, (size_t)words * sizeof *s->prefixes);
    s->weights[0] = 0;
    for (int64_t k = 0; k < count; k++) {
        const uint64_t *set = set_of(layers, order[k]), *below = s->prefixes + k * words;
        s->weights[k + 1] = s->weights[k] + weigh(layers, set, below);
        unite(words, s->prefixes + (k + 1) * words, below, set);
    }
}

MULTIVERSION static int64_t cost(struct search *s, const int32_t *order)
{
    int64_t total = 0;
    sum_up(s, s->layers->n, order);
    for (int64_t k = 0; k < s->layers->n; k++)
        total += s->layers->sizes[order[k]] * s->weights[k + 1];
    return total;
}

/* Move the layers in places first ... first + length - 1 to where they make the order cheapest; whether they moved. */
MULTIVERSION static bool move(struct search *s, int64_t first, int64_t length, int32_t *order)
{
    const struct ordering *layers = s->layers;
    int64_t words = layers->words, left = layers->n - length, above = 0, best = first;
    int32_t moved[SEGMENT];
    memcpy(moved, order + first, (size_t)length * sizeof *order);
    memcpy(s->rest, order, (size_t)first * sizeof *order);
    memcpy(s->rest + first, order + first + length, (size_t)(left - first) * sizeof *order);
    sum_up(s, left, s->rest);
    memset(s->segment, 0, (size_t)words * sizeof *s->segment);
    for (int64_t k = 0; k < length; k++)
        unite(words, s->segment + (k + 1) * words, s->segment + k * words, set_of(layers, moved[k]));
    for (int64_t place = left; place >= 0; place--) {
        const uint64_t *below = s->prefixes + place * words;
        int64_t own = 0;
        if (place < left) /* what lies above them is sent more often */
            above += layers->sizes[s->rest[place]] * weigh(layers, s->segment + length * words, below + words);
        for (int64_t k = 0; k < length; k++)
            own += layers->sizes[moved[k]] * (s->weights[place] + weigh(layers, s->segment + (k + 1) * words, below));
        s->costs[place] = own + above;
    }
    for (int64_t place = 0; place <= left; place++)
        if (s->costs[place] < s->costs[best])
            best = place;
    s->work -= (length + 2) * (left + 1) * words;
    if (best == first)
        return false;
    memcpy(order, s->rest, (size_t)best * sizeof *order);
    memcpy(order + best, moved, (size_t)length * sizeof *order);
    memcpy(order + best + length, s->rest + best, (size_t)(left - best) * sizeof *order);
    return true;
}

static void improve(struct search *s, int64_t work, int32_t *order)
{
    int64_t n = s->layers->n;
    bool moved = true;
    s->work = work;
    while (moved) {
        moved = false;
        for (int64_t length = 1; length <= SEGMENT && length < n; length++)
            for (int64_t first = 0; first + length <= n; first++) {
                if (s->work <= 0)
                    return;
                moved |= move(s, first, length, order);
            }
    }
}

int order_layers(const struct ordering *layers, int64_t work, int32_t *order)
{
    static const uint64_t nothing;
    int64_t n = layers->n, words = layers->words;
    struct ordering known = *layers;
    if (!words) /* there may be no sets at all, and nothing may be added to NULL, not even 0 */
        known.sets = &nothing;
    struct search s = {.layers = &known};
    s.prefixes = allocate((n + 1) * words, sizeof *s.prefixes);
    s.weights = allocate(n + 1, sizeof *s.weights);
    s.costs = allocate(n + 1, sizeof *s.costs);
    s.added = allocate(n, sizeof *s.added);
    s.segment = allocate((SEGMENT + 1) * words, sizeof *s.segment);
    s.rest = allocate(n, sizeof *s.rest);
    s.best = allocate(n, sizeof *s.best);
    s.taken = allocate(n, sizeof *s.taken);
    int status = ORDER_NO_MEMORY;
    if (s.prefixes && s.weights && s.costs && s.added && s.segment && s.rest && s.best && s.taken) {
        build(&s, false, order);
        improve(&s, work / 2, order);
        if (n <= FEW) { /* with followers it takes n^3 */
            build(&s, true, s.best);
            improve(&s, work / 2, s.best);
            if (cost(&s, s.best) < cost(&s, order))
                memcpy(order, s.best, (size_t)n * sizeof *order);
        }
        status = ORDER_OK;
    }
    free(s.prefixes);
    free(s.weights);
    free(s.costs);
    free(s.added);
    free(s.segment);
    free(s.rest);
    free(s.best);
    free(s.taken);
    return status;
}
