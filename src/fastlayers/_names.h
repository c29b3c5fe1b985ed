/* References by name, as JSON has them, to references by number. Plain C: no Python, no global state. */
#ifndef FASTLAYERS_NAMES_H
#define FASTLAYERS_NAMES_H

#include <stdint.h>

enum names_status {
    NAMES_OK = 0,
    NAMES_NO_MEMORY,
    NAMES_NOT_PLAIN, /* anything out of the ordinary: a reader that is slow and exact must look at it */
};

/* names: n strings, a quotation mark after each, no two the same. lists[n], sizes[n]: as many JSON lists of those
 * strings. lengths[n]: how many strings each list has; positions[capacity]: which names they are. */
int names_resolve(int64_t n, const char *names, int64_t names_size, const char *const *lists, const int64_t *sizes,
                  int64_t *lengths, int32_t *positions, int64_t capacity);

#endif
