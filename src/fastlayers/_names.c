#include "_names.h"

#include <stdlib.h>
#include <string.h>

/* An open hash table with linear probing, at most half full. */
struct slot {
    uint32_t hash;
    int32_t name; /* -1: empty */
};

struct table {
    uint64_t mask;
    struct slot *slots;
    const char *names;
    int64_t *starts; /* name i is names[starts[i]] ... names[starts[i + 1] - 2]; a quotation mark follows it */
};

static uint64_t hash_of(const char *text, int64_t size)
{
    uint64_t hash = (uint64_t)size, word;
    for (; size >= 8; size -= 8, text += 8) {
        memcpy(&word, text, 8);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    word = 0;
    memcpy(&word, text, (size_t)size);
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

/* The slot of this text: the one that has it, or the empty one where it belongs. */
static struct slot *find(const struct table *table, const char *text, int64_t size, uint64_t hash)
{
    for (uint64_t at = hash & table->mask;; at = (at + 1) & table->mask) {
        struct slot *slot = &table->slots[at];
        if (slot->name < 0)
            return slot;
        if (slot->hash == (uint32_t)(hash >> 32)) {
            int64_t start = table->starts[slot->name];
            if (table->starts[slot->name + 1] - start == size + 1 && memcmp(table->names + start, text, size) == 0)
                return slot;
        }
    }
}

static int fill(struct table *table, int64_t n, int64_t size)
{
    const char *at = table->names, *end = at + size;
    table->starts[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        const char *quote = at < end ? memchr(at, '"', (size_t)(end - at)) : NULL;
        if (!quote)
            return NAMES_NOT_PLAIN;
        uint64_t hash = hash_of(at, quote - at);
        struct slot *slot = find(table, at, quote - at, hash);
        if (slot->name >= 0)
            return NAMES_NOT_PLAIN;
        *slot = (struct slot){(uint32_t)(hash >> 32), (int32_t)i};
        at = quote + 1;
        table->starts[i + 1] = at - table->names;
    }
    return at == end ? NAMES_OK : NAMES_NOT_PLAIN;
}

/* The next character that is not JSON's white space, or 0 at the end. */
static inline char next(const char **at, const char *end)
{
    while (*at < end) {
        char c = *(*at)++;
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r')
            return c;
    }
    return 0;
}

/* Read one list of at most `capacity` names. */
static int read_list(const struct table *table, const char *at, const char *end, int64_t *length, int32_t *positions,
                     int64_t capacity)
{
    int64_t found = 0;
    if (next(&at, end) != '[')
        return NAMES_NOT_PLAIN;
    for (char c = next(&at, end); c != ']' || found > 0; c = next(&at, end)) {
        const char *quote = c == '"' && at < end ? memchr(at, '"', (size_t)(end - at)) : NULL;
        if (!quote || found == capacity)
            return NAMES_NOT_PLAIN;
        const struct slot *slot = find(table, at, quote - at, hash_of(at, quote - at));
        if (slot->name < 0)
            return NAMES_NOT_PLAIN;
        positions[found++] = slot->name;
        at = quote + 1;
        c = next(&at, end);
        if (c == ']')
            break;
        if (c != ',')
            return NAMES_NOT_PLAIN;
    }
    *length = found;
    return next(&at, end) == 0 ? NAMES_OK : NAMES_NOT_PLAIN;
}

int names_resolve(int64_t n, const char *names, int64_t names_size, const char *const *lists, const int64_t *sizes,
                  int64_t *lengths, int32_t *positions, int64_t capacity)
{
    int status = NAMES_NO_MEMORY;
    uint64_t slots = 2;
    while (slots < 2 * (uint64_t)n)
        slots *= 2;
    struct table table = {.mask = slots - 1, .names = names};
    table.slots = malloc(slots * sizeof *table.slots);
    table.starts = malloc(((size_t)n + 1) * sizeof *table.starts);
    if (table.slots && table.starts) {
        memset(table.slots, -1, slots * sizeof *table.slots);
        status = fill(&table, n, names_size);
        for (int64_t i = 0; status == NAMES_OK && i < n; i++) {
            status = read_list(&table, lists[i], lists[i] + sizes[i], &lengths[i], positions, capacity);
            if (status == NAMES_OK) {
                positions += lengths[i];
                capacity -= lengths[i];
            }
        }
    }
    free(table.slots);
    free(table.starts);
    return status;
}
