/* The NAR of a tree that is in a layer's table: Nix's own serialisation, whose SHA-256 is the NAR hash.
 *
 * The format is that of E. Dolstra's thesis, "The Purely Functional Software Deployment Model" (2006), figure 5.2: strings,
 * each its length in eight bytes, the least significant first, its bytes, and zeros to a multiple of eight.
 */
#include "_layer.h"

#include <stdlib.h>
#include <string.h>

static size_t padding(uint64_t size) { return (size_t)(-size & 7); }

static char *put_number(char *out, uint64_t value) {
    for (int i = 0; i < 8; i++) *out++ = (char)(value >> 8 * i & 0xff);
    return out;
}

static char *put_text(char *out, const char *text, size_t size) {
    out = put_number(out, size);
    memcpy(out, text, size);
    memset(out + size, 0, padding(size));
    return out + size + padding(size);
}

static char *put_words(char *out, const char *const *words) {
    for (; *words; words++) out = put_text(out, *words, strlen(*words));
    return out;
}

#define WORDS(...) (const char *const[]){__VA_ARGS__, NULL}

enum { HEAD = 512 };  /* more than all words around one entry take, without what closes the directories before it */

/* Closes the entry before, with what is open around it, down to a depth. */
static char *put_ends(char *out, size_t from, size_t depth) {
    for (size_t i = from + 1; i > depth; i--) out = put_words(out, i > 1 ? WORDS(")", ")") : WORDS(")"));
    return out;
}

static size_t depth_of(const char *path) {
    size_t depth = 0;
    for (; *path; path++) depth += *path == '/';
    return depth;
}

static int nar_format(struct fl_stream *stream) {
    const struct fl_layer *layer = stream->layer;
    int end = stream->next == stream->count;
    const char *path = end ? "" : stream->order[stream->next].path;
    const struct entry *entry = stream->entry = end ? NULL : stream->order[stream->next].entry;
    size_t depth = end ? 0 : depth_of(path) - depth_of(stream->order[0].path);
    size_t needed = HEAD + 32 * (stream->depth + 1) + strlen(path) + (end ? 0 : entry->target);
    char *out = fl_grow(stream->header, &stream->header_room, needed, 1);
    if (!out) return 0;
    stream->header = out;
    stream->header_at = stream->zeros = 0;
    stream->left = 0;
    if (stream->next) out = put_ends(out, stream->depth, depth);
    else out = put_words(out, WORDS("nix-archive-1"));
    if (!end) {
        const char *name = strrchr(path, '/') + 1, *target = layer->text + entry->text + entry->own;
        if (depth) {
            out = put_words(out, WORDS("entry", "(", "name"));
            out = put_text(out, name, strlen(name));
            out = put_words(out, WORDS("node"));
        }
        out = put_words(out, WORDS("(", "type"));
        if (entry->type == '5') {
            out = put_words(out, WORDS("directory"));
        } else if (entry->type == '2') {
            out = put_words(out, WORDS("symlink", "target"));
            out = put_text(out, target, entry->target);
        } else {
            out = put_words(out, WORDS("regular"));
            if (entry->mode & 0100) out = put_words(out, WORDS("executable", ""));
            out = put_words(out, WORDS("contents"));
            out = put_number(out, entry->size);
            stream->left = entry->size;
            stream->zeros = padding(entry->size);
        }
        stream->length = strlen(path);
        memcpy(stream->path + layer->root, path, stream->length + 1);
        stream->next++;
        stream->depth = depth;
    }
    stream->header_size = (size_t)(out - stream->header);
    return 1;
}

/* The order of a NAR: the bytes of each name, and a directory before all that is in it. In a tar it is by code point, which
 * is another one where a name is not UTF-8. */
static int compare_named(const void *a, const void *b) {
    const unsigned char *x = (const unsigned char *)((const struct named *)a)->path;
    const unsigned char *y = (const unsigned char *)((const struct named *)b)->path;
    while (*x && *x == *y) x++, y++;
    if (*x == *y) return 0;
    if (!*x || !*y) return *x ? 1 : -1;
    if (*x == '/' || *y == '/') return *x == '/' ? -1 : 1;
    return *x < *y ? -1 : 1;
}

struct fl_stream *fl_stream_new_nar(const struct fl_layer *layer, size_t first, size_t count) {
    struct fl_stream *stream = fl_stream_make(layer, nar_format);
    if (!stream) return NULL;
    const struct entry *entries = layer->entries + first;
    size_t total = 0;
    for (size_t i = 0; i < count; i++) total += entries[i].keep + entries[i].own + 1;
    stream->count = count;
    stream->order = malloc(count * sizeof *stream->order);
    stream->names = malloc(total);
    if (!stream->order || !stream->names) goto no_memory;
    char *path = stream->names, *before = path;
    int sorted = 1;
    for (size_t i = 0; i < count; i++) {
        const struct entry *entry = entries + i;
        memcpy(path, before, entry->keep);
        memcpy(path + entry->keep, layer->text + entry->text, entry->own);
        path[entry->keep + entry->own] = 0;
        stream->order[i] = (struct named){path, entry};
        if (i && compare_named(stream->order + i - 1, stream->order + i) > 0) sorted = 0;
        before = path;
        path += entry->keep + entry->own + 1;
    }
    if (!sorted) qsort(stream->order, count, sizeof *stream->order, compare_named);
    /* The size: all that stands around the files is made once, and again when it is read. */
    do {
        if (!nar_format(stream)) goto no_memory;
        stream->size += stream->header_size + stream->left + stream->zeros;
    } while (stream->entry);
    stream->next = stream->depth = stream->header_size = 0;
    stream->left = stream->zeros = 0;
    return stream;
no_memory:
    fl_stream_free(stream);
    return NULL;
}
