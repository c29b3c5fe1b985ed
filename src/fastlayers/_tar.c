/* The tar writer (see _tar.h): measuring walks trees with getdents and fstatat, streaming opens and reads files. */
/* POSIX alone but for splice, so that it compiles on macOS too, where planning and importing work. */
#if defined(__linux__)
#define _GNU_SOURCE
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#define st_mtim st_mtimespec
#else
#define _POSIX_C_SOURCE 200809L
#endif
#include "_layer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    RECORD = 10240,       /* an archive's size is a multiple of it */
    CHUNK = 256 * 1024,   /* what is written at once */
    SPLICED = 64 * 1024,  /* a file from this size on is not copied into a pipe */
};

/* --- a layer's entries ---------------------------------------------------------------------------------------------*/

void *fl_grow(void *block, size_t *room, size_t needed, size_t unit) {
    if (needed <= *room) return block;
    size_t wanted = *room ? *room + *room / 2 : 64;
    if (wanted < needed) wanted = needed;
    void *larger = realloc(block, wanted * unit);
    if (larger) *room = wanted;
    return larger;
}

static enum fl_status fail(struct fl_place *place, enum fl_status status, const char *path) {
    place->error = status == FL_SYSTEM || status == FL_OUTPUT ? errno : 0;
    free(place->path);
    place->path = strdup(path);
    return place->path ? status : FL_NO_MEMORY;
}

struct fl_layer *fl_layer_new(const struct fl_profile *profile) {
    struct fl_layer *layer = calloc(1, sizeof *layer);
    if (!layer) return NULL;
    size_t uname = strlen(profile->uname), gname = strlen(profile->gname), root = strlen(profile->root);
    layer->path = fl_grow(NULL, &layer->path_room, root + 1, 1);
    layer->owner = malloc(uname + gname + 256);
    if (!layer->path || !layer->owner) {
        fl_layer_free(layer);
        return NULL;
    }
    memcpy(layer->path, profile->root, root + 1);
    layer->root = root;
    layer->whiteouts = profile->whiteouts;

    struct text_kind kinds[2] = {fl_kind_of(profile->uname, uname), fl_kind_of(profile->gname, gname)};
    layer->owner_utf8 = kinds[0].utf8 && kinds[1].utf8;
    char *out = layer->owner;
    if (!kinds[0].ascii || uname > OWNER_LENGTH) out = fl_put_record(out, "uname", profile->uname, uname);
    if (!kinds[1].ascii || gname > OWNER_LENGTH) out = fl_put_record(out, "gname", profile->gname, gname);
    layer->owner_length = (size_t)(out - layer->owner);
    int64_t ids[2] = {profile->uid, profile->gid}, mtime = profile->mtime;
    for (int i = 0; i < 2; i++)
        if (ids[i] < 0 || ids[i] > MAX_ID) {
            out = fl_put_number_record(out, i ? "gid" : "uid", ids[i]);
            ids[i] = 0;
        }
    layer->ids_length = (size_t)(out - layer->owner) - layer->owner_length;
    char *before = out;
    if (mtime < 0 || mtime > MAX_SIZE) {
        out = fl_put_number_record(out, "mtime", mtime);
        mtime = 0;
    }
    layer->mtime_length = (size_t)(out - before);

    char *header = layer->header;
    fl_put_octal(header + 108, 7, (uint64_t)ids[0]);
    fl_put_octal(header + 116, 7, (uint64_t)ids[1]);
    fl_put_octal(header + 136, 11, (uint64_t)mtime);
    memcpy(header + 257, "ustar\00000", 8);
    fl_put_text(header + 265, OWNER_LENGTH, profile->uname, uname);
    fl_put_text(header + 297, OWNER_LENGTH, profile->gname, gname);
    return layer;
}

void fl_layer_free(struct fl_layer *layer) {
    if (!layer) return;
    free(layer->entries);
    free(layer->text);
    free(layer->path);
    free(layer->owner);
    free(layer);
}

/* The length of an entry's pax records; 0 when it needs none. path is the name in the archive but for the slash of a
 * directory, which counts. */
static size_t records_length(const struct fl_layer *layer, const struct entry *entry, const char *path, size_t length,
                             const char *target, int *binary, int *long_path, int *long_target) {
    struct text_kind kind = fl_kind_of(path, length);
    size_t total = layer->owner_length + layer->ids_length + layer->mtime_length;
    size_t name = length + (entry->type == '5');
    *long_path = !kind.ascii || name > NAME_LENGTH;
    *binary = (*long_path && !kind.utf8) || (layer->owner_length && !layer->owner_utf8);
    *long_target = 0;
    if (*long_path) total += fl_record_length(4, name);
    if (entry->type == '2') {
        kind = fl_kind_of(target, entry->target);
        *long_target = !kind.ascii || entry->target > NAME_LENGTH;
        if (*long_target) {
            total += fl_record_length(8, entry->target);
            *binary |= !kind.utf8;
        }
    }
    if (entry->size > (uint64_t)MAX_SIZE) {
        char digits[NUMBER_LENGTH];
        total += fl_record_length(4, (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)entry->size));
    }
    return total ? total + (*binary ? 21 : 0) : 0;
}

static size_t padded(size_t size) { return (size + BLOCK - 1) / BLOCK * BLOCK; }

static uint64_t mix(uint64_t state, uint64_t value) {  /* a round of splitmix64's finaliser */
    state ^= value + 0x9e3779b97f4a7c15u;
    state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
    state = (state ^ (state >> 27)) * 0x94d049bb133111ebu;
    return state ^ (state >> 31);
}

static uint64_t mix_text(uint64_t state, const char *text, size_t size) {
    uint64_t word;
    state = mix(state, size);
    for (; size >= sizeof word; size -= sizeof word, text += sizeof word) {
        memcpy(&word, text, sizeof word);
        state = mix(state, word);
    }
    word = 0;
    memcpy(&word, text, size);
    return mix(state, word);
}

/* Without the ctime: when Nix optimises its store, files of valid paths get more links, and with them a new one. */
static uint64_t stamp_of(const struct stat *st) {
    uint64_t state = mix(st->st_ino, (uint64_t)st->st_mode);
    return mix(state, (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec) | 1;
}

/* Room for `size` more bytes of text; NULL when there is no memory. */
static char *text_room(struct fl_layer *layer, size_t size) {
    char *text = fl_grow(layer->text, &layer->text_room, layer->used + size, 1);
    if (!text) return NULL;
    layer->text = text;
    return text + layer->used;
}

/* Makes layer->path root + path; `keep` bytes of the path are there already. */
static int set_path(struct fl_layer *layer, size_t keep, const char *rest, size_t size) {
    char *path = fl_grow(layer->path, &layer->path_room, layer->root + keep + size + 1, 1);
    if (!path) return 0;
    layer->path = path;
    memcpy(path + layer->root + keep, rest, size);
    layer->length = keep + size;
    path[layer->root + layer->length] = 0;
    return 1;
}

/* Appends an entry whose path is in layer->path, and whose target or data is at the end of the layer's text. */
static enum fl_status append(struct fl_layer *layer, struct entry entry, size_t keep, size_t extra, struct fl_place *place) {
    const char *path = layer->path + layer->root;
    const char *name = strrchr(path, '/') + 1;
    if (!layer->whiteouts && strncmp(name, ".wh.", 4) == 0) return fail(place, FL_WHITEOUT, path);
    entry.keep = (uint32_t)keep;
    entry.own = (uint32_t)(layer->length - keep);
    entry.text = layer->used;
    char *text = text_room(layer, extra + entry.own);
    struct entry *entries = fl_grow(layer->entries, &layer->room, layer->count + 1, sizeof entry);
    if (entries) layer->entries = entries;
    if (!text || !entries) return FL_NO_MEMORY;
    memmove(text + entry.own, text, extra);
    memcpy(text, path + keep, entry.own);
    layer->used += entry.own + extra;
    layer->entries[layer->count++] = entry;
    if (layer->length > layer->longest) layer->longest = layer->length;

    int binary, long_path, long_target;
    size_t records = records_length(layer, &entry, path, layer->length, text + entry.own, &binary, &long_path, &long_target);
    layer->size += (records ? BLOCK + padded(records) : 0) + BLOCK + (entry.size + BLOCK - 1) / BLOCK * BLOCK;
    uint64_t state = mix_text(layer->fingerprint, path, layer->length);
    state = mix(mix(mix(state, (uint64_t)entry.type << 16 | entry.mode), entry.size), entry.stamp);
    layer->fingerprint = entry.type == '2' || entry.made ? mix_text(state, text + entry.own, extra) : state;
    return FL_OK;
}

static enum fl_status add_made(struct fl_layer *layer, struct entry entry, const char *path, const char *data, size_t extra,
                               struct fl_place *place) {
    if (!set_path(layer, 0, path, strlen(path))) return FL_NO_MEMORY;
    char *text = text_room(layer, extra);
    if (!text && extra) return FL_NO_MEMORY;
    if (extra) memcpy(text, data, extra);
    return append(layer, entry, 0, extra, place);
}

enum fl_status fl_add_directory(struct fl_layer *layer, const char *path, uint32_t mode, struct fl_place *place) {
    return add_made(layer, (struct entry){.type = '5', .mode = mode & 07777}, path, "", 0, place);
}

enum fl_status fl_add_file(struct fl_layer *layer, const char *path, uint32_t mode, const char *data, size_t size,
                           struct fl_place *place) {
    return add_made(layer, (struct entry){.type = '0', .mode = mode & 07777, .size = size, .made = 1}, path, data, size, place);
}

enum fl_status fl_add_symlink(struct fl_layer *layer, const char *path, const char *target, struct fl_place *place) {
    size_t size = strlen(target);
    return add_made(layer, (struct entry){.type = '2', .mode = 0777, .target = (uint32_t)size}, path, target, size, place);
}

/* Adds the entry at layer->path, which is `name` in the directory `at`; its kind is left in *type. With `plain_mode` of
 * its mode only what its owner may execute counts. */
static enum fl_status add_entry(struct fl_layer *layer, int at, const char *name, size_t keep, int plain_mode, char *type,
                                struct fl_place *place) {
    struct stat st;
    struct entry entry = {0};
    size_t extra = 0;
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW)) return fail(place, FL_SYSTEM, layer->path);
    entry.mode = st.st_mode & 07777;
    if (plain_mode && !S_ISLNK(st.st_mode)) entry.mode = S_ISDIR(st.st_mode) || st.st_mode & S_IXUSR ? 0755 : 0644;
    entry.stamp = stamp_of(&st);
    if (S_ISREG(st.st_mode)) {
        entry.type = '0';
        entry.size = (uint64_t)st.st_size;
    } else if (S_ISDIR(st.st_mode)) {
        entry.type = '5';
    } else if (S_ISLNK(st.st_mode)) {
        entry.type = '2';
        size_t room = st.st_size > 0 ? (size_t)st.st_size + 1 : 4097;  /* /proc-like file systems say 0 */
        char *text = text_room(layer, room);
        if (!text) return FL_NO_MEMORY;
        ssize_t got = readlinkat(at, name, text, room);
        if (got < 0) return fail(place, FL_SYSTEM, layer->path);
        if ((size_t)got == room) return fail(place, FL_CHANGED, layer->path);
        entry.target = (uint32_t)got;
        extra = (size_t)got;
    } else {
        return fail(place, FL_KIND, layer->path);
    }
    *type = entry.type;
    return append(layer, entry, keep, extra, place);
}

enum fl_status fl_add_path(struct fl_layer *layer, const char *path, struct fl_place *place) {
    size_t length = strlen(path), keep = 0, before = layer->length;
    const char *last = layer->path + layer->root;
    while (keep < before && keep < length && last[keep] == path[keep]) keep++;  /* lists of files share long beginnings */
    if (!layer->count) keep = 0;
    char type;
    if (!set_path(layer, keep, path + keep, length - keep)) return FL_NO_MEMORY;
    return add_entry(layer, AT_FDCWD, layer->path, keep, 1, &type, place);
}

/* The names in a directory, each zero-terminated, sorted. */
struct names {
    char *text;
    size_t used, room;
    char **sorted;
    size_t count;
};

static int compare_pointers(const void *a, const void *b) {
    return fl_compare_names(*(char *const *)a, *(char *const *)b);
}

static enum fl_status list_names(int fd, struct names *names) {  /* closes fd */
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int error = errno;
        close(fd);
        errno = error;
        return FL_SYSTEM;
    }
    for (struct dirent *item; errno = 0, (item = readdir(dir));) {
        const char *name = item->d_name;
        if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]))) continue;
        size_t size = strlen(name) + 1;
        char *text = fl_grow(names->text, &names->room, names->used + size, 1);
        if (!text) {
            closedir(dir);
            return FL_NO_MEMORY;
        }
        names->text = text;
        memcpy(text + names->used, name, size);
        names->used += size;
        names->count++;
    }
    int error = errno;
    closedir(dir);
    errno = error;
    if (error) return FL_SYSTEM;
    names->sorted = malloc((names->count + 1) * sizeof *names->sorted);
    if (!names->sorted) return FL_NO_MEMORY;
    char *text = names->text;
    for (size_t i = 0; i < names->count; i++, text += strlen(text) + 1) names->sorted[i] = text;
    qsort(names->sorted, names->count, sizeof *names->sorted, compare_pointers);
    return FL_OK;
}

/* Adds what is below the directory at layer->path, which is `name` in `at`. Its depth is bounded by the length that a
 * path may have. */
static enum fl_status walk(struct fl_layer *layer, int at, const char *name, struct fl_place *place) {
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return fail(place, FL_SYSTEM, layer->path);
    /* closedir closes the one, the entries are looked at through the other. */
    int listed = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    struct names names = {0};
    enum fl_status status = listed < 0 ? FL_SYSTEM : FL_OK;
    if (!status) status = list_names(listed, &names);
    if (status == FL_SYSTEM) status = fail(place, FL_SYSTEM, layer->path);
    size_t parent = layer->length;
    for (size_t i = 0; i < names.count && !status; i++) {
        char type = 0, *child = names.sorted[i];
        if (!set_path(layer, parent, "/", 1) || !set_path(layer, parent + 1, child, strlen(child))) status = FL_NO_MEMORY;
        else if (layer->root + layer->length >= 4096) errno = ENAMETOOLONG, status = fail(place, FL_SYSTEM, layer->path);
        else status = add_entry(layer, fd, child, i ? parent + 1 : parent, 0, &type, place);
        if (!status && type == '5') status = walk(layer, fd, child, place);
    }
    free(names.text);
    free(names.sorted);
    close(fd);
    return status;
}

enum fl_status fl_add_tree(struct fl_layer *layer, const char *path, struct fl_place *place) {
    char type = 0;
    if (!set_path(layer, 0, path, strlen(path))) return FL_NO_MEMORY;
    enum fl_status status = add_entry(layer, AT_FDCWD, layer->path, 0, 0, &type, place);
    if (!status && type == '5') status = walk(layer, AT_FDCWD, layer->path, place);
    return status;
}

enum fl_status fl_add_layer(struct fl_layer *layer, const struct fl_layer *other, struct fl_place *place) {
    enum fl_status status = FL_OK;
    for (size_t i = 0; i < other->count && !status; i++) {
        const struct entry *entry = &other->entries[i];
        const char *own = other->text + entry->text;
        size_t end = i + 1 < other->count ? other->entries[i + 1].text : other->used;
        size_t extra = end - entry->text - entry->own;
        char *text = text_room(layer, extra);
        if (!set_path(layer, entry->keep, own, entry->own) || (!text && extra)) return FL_NO_MEMORY;
        if (extra) memcpy(text, own + entry->own, extra);
        status = append(layer, *entry, entry->keep, extra, place);
    }
    return status;
}

/* What is packed before the entries and the text. */
struct packed {
    uint64_t magic, count, used, longest, size, fingerprint;
};

static const uint64_t PACKED = 0x666c6c6179657231u ^ sizeof(struct entry);

size_t fl_layer_pack(const struct fl_layer *layer, char *out) {
    struct packed packed = {PACKED, layer->count, layer->used, layer->longest, layer->size, layer->fingerprint};
    size_t entries = layer->count * sizeof *layer->entries;
    if (out) {
        memcpy(out, &packed, sizeof packed);
        if (entries) memcpy(out + sizeof packed, layer->entries, entries);
        if (layer->used) memcpy(out + sizeof packed + entries, layer->text, layer->used);
    }
    return sizeof packed + entries + layer->used;
}

enum fl_status fl_layer_unpack(struct fl_layer *layer, const char *from, size_t size) {
    struct packed packed;
    if (size < sizeof packed) return FL_KIND;
    memcpy(&packed, from, sizeof packed);
    size_t rest = size - sizeof packed, entries = packed.count * sizeof *layer->entries;
    if (packed.magic != PACKED || packed.count > rest / sizeof *layer->entries || packed.used != rest - entries) return FL_KIND;
    layer->entries = fl_grow(layer->entries, &layer->room, packed.count + 1, sizeof *layer->entries);
    layer->text = fl_grow(layer->text, &layer->text_room, packed.used + 1, 1);
    if (!layer->entries || !layer->text) return FL_NO_MEMORY;
    memcpy(layer->entries, from + sizeof packed, entries);
    memcpy(layer->text, from + sizeof packed + entries, packed.used);
    layer->count = packed.count;
    layer->used = packed.used;
    layer->longest = packed.longest;
    layer->size = packed.size;
    layer->fingerprint = packed.fingerprint;
    return FL_OK;
}

uint64_t fl_layer_size(const struct fl_layer *layer) {
    return (layer->size + 2 * BLOCK + RECORD - 1) / RECORD * RECORD;
}

uint64_t fl_layer_entries(const struct fl_layer *layer) { return layer->count; }

uint64_t fl_layer_fingerprint(const struct fl_layer *layer) { return layer->fingerprint; }

/* --- reading a layer -----------------------------------------------------------------------------------------------*/

struct fl_stream *fl_stream_make(const struct fl_layer *layer, fl_format *format) {
    struct fl_stream *stream = calloc(1, sizeof *stream);
    if (!stream) return NULL;
    stream->layer = layer;
    stream->format = format;
    stream->fd = -1;
    stream->path = malloc(layer->root + layer->longest + 2);
    if (!stream->path) {
        free(stream);
        return NULL;
    }
    memcpy(stream->path, layer->path, layer->root);
    return stream;
}

void fl_stream_free(struct fl_stream *stream) {
    if (!stream) return;
    if (stream->fd >= 0) close(stream->fd);
    free(stream->path);
    free(stream->header);
    free(stream->chunk);
    free(stream->order);
    free(stream->names);
    free(stream);
}

static int tar_format(struct fl_stream *stream) {
    const struct fl_layer *layer = stream->layer;
    if (stream->next == layer->count) {
        stream->entry = NULL;
        stream->header_at = stream->header_size = 0;
        stream->zeros = fl_layer_size(layer) - stream->at;
        return 1;
    }
    const struct entry *entry = stream->entry = &layer->entries[stream->next++];
    const char *text = layer->text + entry->text, *target = text + entry->own;
    char *path = stream->path + layer->root;
    memcpy(path + entry->keep, text, entry->own);
    stream->length = entry->keep + entry->own;
    path[stream->length] = 0;

    int binary, long_path, long_target;
    size_t records = records_length(layer, entry, path, stream->length, target, &binary, &long_path, &long_target);
    stream->header_size = BLOCK + (records ? BLOCK + padded(records) : 0);
    char *out = fl_grow(stream->header, &stream->header_room, stream->header_size, 1);
    if (!out) return 0;
    stream->header = out;
    stream->header_at = 0;
    if (entry->type == '5') path[stream->length] = '/';
    size_t name = stream->length + (entry->type == '5');
    if (records) {
        memset(out, 0, BLOCK + padded(records));
        memcpy(out, "././@PaxHeader", 14);
        for (int field = 100; field <= 116; field += 8) fl_put_octal(out + field, 7, 0);
        fl_put_octal(out + 124, 11, records);
        fl_put_octal(out + 136, 11, 0);
        out[156] = 'x';
        memcpy(out + 257, "ustar\00000", 8);
        fl_put_checksum(out);
        const char *owner = layer->owner;
        out += BLOCK;
        char *start = out;
        if (binary) out = fl_put_record(out, "hdrcharset", "BINARY", 6);
        if (long_path) out = fl_put_record(out, "path", path, name);
        if (long_target) out = fl_put_record(out, "linkpath", target, entry->target);
        memcpy(out, owner, layer->owner_length + layer->ids_length);
        out += layer->owner_length + layer->ids_length;
        if (entry->size > (uint64_t)MAX_SIZE) out = fl_put_number_record(out, "size", (int64_t)entry->size);
        memcpy(out, owner + layer->owner_length + layer->ids_length, layer->mtime_length);
        out = start + padded(records);
    }
    memcpy(out, layer->header, BLOCK);
    fl_put_text(out, NAME_LENGTH, path, name);
    fl_put_octal(out + 100, 7, entry->mode);
    fl_put_octal(out + 124, 11, entry->size > (uint64_t)MAX_SIZE ? 0 : entry->size);
    out[156] = entry->type;
    if (entry->type == '2') fl_put_text(out + 157, NAME_LENGTH, target, entry->target);
    fl_put_checksum(out);
    path[stream->length] = 0;

    stream->left = entry->size;
    stream->zeros = (BLOCK - entry->size % BLOCK) % BLOCK;
    stream->made = entry->made ? target : NULL;
    stream->at += stream->header_size + stream->left + stream->zeros;
    return 1;
}

struct fl_stream *fl_stream_new(const struct fl_layer *layer) {
    struct fl_stream *stream = fl_stream_make(layer, tar_format);
    if (stream) stream->size = fl_layer_size(layer);
    return stream;
}

uint64_t fl_stream_size(const struct fl_stream *stream) { return stream->size; }

/* After the last byte of a file: it must have no more, and must be the file that was measured, unchanged. */
static enum fl_status close_file(struct fl_stream *stream, struct fl_place *place) {
    const struct entry *entry = stream->entry;
    struct stat st;
    int bad = fstat(stream->fd, &st);
    enum fl_status status = FL_OK;
    if (bad) status = fail(place, FL_SYSTEM, stream->path);
    else if ((uint64_t)st.st_size > entry->size) status = fail(place, FL_GREW, stream->path);
    else if ((uint64_t)st.st_size < entry->size) status = fail(place, FL_SHRUNK, stream->path);
    else if (stamp_of(&st) != entry->stamp) status = fail(place, FL_CHANGED, stream->path);
    close(stream->fd);
    stream->fd = -1;
    return status;
}

static enum fl_status open_file(struct fl_stream *stream, struct fl_place *place) {
    if (stream->fd >= 0) return FL_OK;
    /* Not to wait for the other end, should the file have become a pipe. */
    stream->fd = open(stream->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (stream->fd >= 0) return FL_OK;
    return fail(place, errno == ELOOP ? FL_CHANGED : FL_SYSTEM, stream->path);
}

/* An empty file is not opened; it may have grown all the same. */
static enum fl_status check_empty(struct fl_stream *stream, struct fl_place *place) {
    struct stat st;
    if (fstatat(AT_FDCWD, stream->path, &st, AT_SYMLINK_NOFOLLOW)) return fail(place, FL_SYSTEM, stream->path);
    if (S_ISREG(st.st_mode) && st.st_size) return fail(place, FL_GREW, stream->path);
    return stamp_of(&st) == stream->entry->stamp ? FL_OK : fail(place, FL_CHANGED, stream->path);
}

static enum fl_status read_file(struct fl_stream *stream, char *buffer, size_t size, size_t *got, struct fl_place *place) {
    if (stream->made) {
        memcpy(buffer, stream->made, size);
        stream->made += size;
        *got = size;
        return FL_OK;
    }
    enum fl_status status = open_file(stream, place);
    if (status) return status;
    ssize_t bytes;
    do bytes = read(stream->fd, buffer, size);
    while (bytes < 0 && errno == EINTR);
    if (bytes < 0) return fail(place, FL_SYSTEM, stream->path);
    if (bytes == 0) return fail(place, FL_SHRUNK, stream->path);
    *got = (size_t)bytes;
    return FL_OK;
}

/* Fills the buffer; stops where at least `large` bytes of a file come next. */
static enum fl_status fill(struct fl_stream *stream, char *buffer, size_t size, uint64_t large, size_t *got,
                           struct fl_place *place) {
    size_t done = 0, part;
    enum fl_status status = FL_OK;
    while (done < size && !status) {
        size_t room = size - done;
        if (stream->header_at < stream->header_size) {
            part = stream->header_size - stream->header_at;
            if (part > room) part = room;
            memcpy(buffer + done, stream->header + stream->header_at, part);
            stream->header_at += part;
        } else if (stream->left) {
            part = 0;
            if (stream->left >= large && !stream->made) break;
            status = read_file(stream, buffer + done, stream->left < room ? (size_t)stream->left : room, &part, place);
            stream->left -= part;
            if (!status && !stream->left && stream->fd >= 0) status = close_file(stream, place);
        } else if (stream->zeros) {
            part = stream->zeros < room ? (size_t)stream->zeros : room;
            memset(buffer + done, 0, part);
            stream->zeros -= part;
        } else if (!stream->ended) {
            part = 0;
            if (!stream->format(stream)) status = FL_NO_MEMORY;
            else if (!stream->entry) stream->ended = 1;
            else if (stream->entry->type == '0' && !stream->left && stream->entry->stamp) status = check_empty(stream, place);
        } else {
            break;
        }
        done += part;
    }
    *got = done;
    return status;
}

enum fl_status fl_stream_read(struct fl_stream *stream, char *buffer, size_t size, size_t *got, struct fl_place *place) {
    return fill(stream, buffer, size, UINT64_MAX, got, place);
}

static enum fl_status output_failed(struct fl_place *place) {
    return errno == EINTR ? FL_SIGNAL : fail(place, FL_OUTPUT, "");
}

enum fl_status fl_stream_write(struct fl_stream *stream, int fd, size_t most, int splice_large, size_t *got,
                               struct fl_place *place) {
    size_t done = 0;
    enum fl_status status = FL_OK;
#ifndef __linux__
    splice_large = 0;
#endif
    if (!stream->chunk && !(stream->chunk = malloc(CHUNK))) return FL_NO_MEMORY;
    while (done < most && !status) {
        if (stream->chunk_at < stream->chunk_size) {
            ssize_t bytes = write(fd, stream->chunk + stream->chunk_at, stream->chunk_size - stream->chunk_at);
            if (bytes < 0) status = output_failed(place);
            else stream->chunk_at += (size_t)bytes, done += (size_t)bytes;
            continue;
        }
        stream->chunk_at = stream->chunk_size = 0;
        status = fill(stream, stream->chunk, CHUNK, splice_large ? SPLICED : UINT64_MAX, &stream->chunk_size, place);
        if (status || stream->chunk_size) continue;
#ifdef __linux__
        if (stream->left) {  /* a large file: its pages go into the pipe as they are */
            status = open_file(stream, place);
            if (status) break;
            ssize_t bytes = splice(stream->fd, NULL, fd, NULL, stream->left, SPLICE_F_MOVE | SPLICE_F_MORE);
            if (bytes < 0 && errno == EINVAL) {
                splice_large = 0;  /* not with this file system: copy */
            } else if (bytes < 0) {
                status = output_failed(place);
            } else if (bytes == 0) {
                status = fail(place, FL_SHRUNK, stream->path);
            } else {
                stream->left -= (uint64_t)bytes;
                done += (size_t)bytes;
                if (!stream->left) status = close_file(stream, place);
            }
            continue;
        }
#endif
        break;
    }
    *got = done;
    return status;
}
