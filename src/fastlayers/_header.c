/* Header fields, pax records and the order of names (see _header.h). */
#include "_header.h"

#include <stdio.h>
#include <string.h>

/* The code point at text[0..size), its length in *length. A byte that is not part of valid UTF-8 stands for itself as
 * Python's surrogateescape has it, U+DC80 to U+DCFF: that is how the original sorts and counts such names. */
static uint32_t code_point(const unsigned char *text, size_t size, size_t *length) {
    unsigned char first = text[0];
    *length = 1;
    if (first < 0x80) return first;
    size_t more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || size <= more) return 0xdc00u + first;
    uint32_t value = first & (0x3fu >> more);
    for (size_t i = 1; i <= more; i++) {
        if ((text[i] & 0xc0) != 0x80) return 0xdc00u + first;
        value = value << 6 | (text[i] & 0x3fu);
    }
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (value < least[more] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return 0xdc00u + first;
    *length = more + 1;
    return value;
}

int fl_compare_names(const char *a, const char *b) {
    const unsigned char *x = (const unsigned char *)a, *y = (const unsigned char *)b;
    size_t i = 0;
    int ascii = 1;
    for (; x[i] && x[i] == y[i]; i++) ascii &= x[i] < 0x80;
    if (x[i] == y[i]) return 0;
    if (ascii && x[i] < 0x80 && y[i] < 0x80) return x[i] < y[i] ? -1 : 1;
    size_t sizes[2] = {strlen(a), strlen(b)}, at[2] = {0, 0}, lengths[2];
    while (at[0] < sizes[0] && at[1] < sizes[1]) {
        uint32_t one = code_point(x + at[0], sizes[0] - at[0], &lengths[0]);
        uint32_t two = code_point(y + at[1], sizes[1] - at[1], &lengths[1]);
        if (one != two) return one < two ? -1 : 1;
        at[0] += lengths[0];
        at[1] += lengths[1];
    }
    return at[0] < sizes[0] ? 1 : -1;
}

struct text_kind fl_kind_of(const char *text, size_t size) {
    struct text_kind kind = {1, 1};
    size_t length;
    for (size_t i = 0; i < size; i += length) {
        unsigned char byte = (unsigned char)text[i];
        length = 1;
        if (byte < 0x80) continue;
        kind.ascii = 0;
        uint32_t point = code_point((const unsigned char *)text + i, size - i, &length);
        if (point >= 0xdc80 && point <= 0xdcff) kind.utf8 = 0;
    }
    return kind;
}

void fl_put_text(char *field, size_t room, const char *text, size_t size) {
    size_t length, n = 0;
    for (size_t i = 0; i < size && n < room; i += length) {
        length = 1;
        uint32_t point = (unsigned char)text[i] < 0x80 ? (unsigned char)text[i]
                                                       : code_point((const unsigned char *)text + i, size - i, &length);
        field[n++] = point < 0x80 ? (char)point : '?';
    }
}

void fl_put_octal(char *field, int digits, uint64_t value) {
    for (int i = digits - 1; i >= 0; i--, value >>= 3) field[i] = (char)('0' + (value & 7));
    field[digits] = 0;
}

size_t fl_record_length(size_t key, size_t value) {
    size_t rest = key + value + 3, digits = 1;
    for (size_t limit = 10; rest + digits >= limit; limit *= 10) digits++;
    return rest + digits;
}

char *fl_put_record(char *out, const char *key, const char *value, size_t size) {
    size_t key_length = strlen(key);
    out += sprintf(out, "%zu %s=", fl_record_length(key_length, size), key);
    memcpy(out, value, size);
    out[size] = '\n';
    return out + size + 1;
}

char *fl_put_number_record(char *out, const char *key, int64_t value) {
    char text[NUMBER_LENGTH];
    int size = snprintf(text, sizeof text, "%lld", (long long)value);
    return fl_put_record(out, key, text, (size_t)size);
}

void fl_put_checksum(char *header) {
    memset(header + 148, ' ', 8);
    unsigned sum = 0;
    for (int i = 0; i < BLOCK; i++) sum += (unsigned char)header[i];
    fl_put_octal(header + 148, 6, sum);
}
