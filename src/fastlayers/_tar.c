/* The tar writer (see _tar.h): measuring walks trees with getdents and fstatat, streaming opens and reads files. */
/* POSIX alone but for splice, so that it compiles on macOS too, where planning and importing work. */
#if defined(__linux__)
#define _GNU_SOURCE
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#define st_mtim st_mtimespec
#define st_ctim st_ctimespec
#else
#define _POSIX_C_SOURCE 200809L
#endif
#include "_layer.h"
#include "_xattr.h"

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

/* 0 when there is no memory. */
static int add_owner(struct fl_layer *layer, int64_t uid, int64_t gid, const char *uname, const char *gname) {
    size_t lengths[2] = {strlen(uname), strlen(gname)};
    struct owner *owners = fl_grow(layer->owners, &layer->owners_room, layer->owners_count + 1, sizeof *owners);
    if (!owners) return 0;
    layer->owners = owners;
    struct owner *owner = memset(&owners[layer->owners_count], 0, sizeof *owner);
    char *out = owner->records = malloc(lengths[0] + lengths[1] + 192);
    if (!out) return 0;
    layer->owners_count++;
    struct text_kind kinds[2] = {fl_kind_of(uname, lengths[0]), fl_kind_of(gname, lengths[1])};
    owner->utf8 = kinds[0].utf8 && kinds[1].utf8;
    if (!kinds[0].ascii || lengths[0] > OWNER_LENGTH) out = fl_put_record(out, "uname", uname, lengths[0]);
    if (!kinds[1].ascii || lengths[1] > OWNER_LENGTH) out = fl_put_record(out, "gname", gname, lengths[1]);
    owner->names = (size_t)(out - owner->records);
    int64_t ids[2] = {uid, gid};
    for (int i = 0; i < 2; i++)
        if (ids[i] < 0 || ids[i] > MAX_ID) {
            out = fl_put_number_record(out, i ? "gid" : "uid", ids[i]);
            ids[i] = 0;
        }
    owner->ids = (size_t)(out - owner->records) - owner->names;

    char *header = owner->header;
    fl_put_octal(header + 108, 7, (uint64_t)ids[0]);
    fl_put_octal(header + 116, 7, (uint64_t)ids[1]);
    fl_put_octal(header + 136, 11, (uint64_t)layer->mtime);
    memcpy(header + 257, "ustar\00000", 8);
    fl_put_text(header + 265, OWNER_LENGTH, uname, lengths[0]);
    fl_put_text(header + 297, OWNER_LENGTH, gname, lengths[1]);
    return 1;
}

struct fl_layer *fl_layer_new(const struct fl_profile *profile) {
    struct fl_layer *layer = calloc(1, sizeof *layer);
    if (!layer) return NULL;
    size_t root = strlen(profile->root);
    layer->path = fl_grow(NULL, &layer->path_room, root + 1, 1);
    layer->uname = strdup(profile->uname);
    layer->gname = strdup(profile->gname);
    layer->uid = profile->uid;
    layer->gid = profile->gid;
    layer->mtime = profile->mtime;
    if (layer->mtime < 0 || layer->mtime > MAX_SIZE) {
        layer->mtime_length = (size_t)(fl_put_number_record(layer->mtime_record, "mtime", layer->mtime) - layer->mtime_record);
        layer->mtime = 0;
    }
    if (!layer->path || !layer->uname || !layer->gname ||
        !add_owner(layer, profile->uid, profile->gid, profile->uname, profile->gname)) {
        fl_layer_free(layer);
        return NULL;
    }
    memcpy(layer->path, profile->root, root + 1);
    layer->root = root;
    layer->whiteouts = profile->whiteouts;
    layer->xattrs = profile->xattrs;
    return layer;
}

uint32_t fl_layer_owner(struct fl_layer *layer, int64_t uid, int64_t gid) {
    const char *uname = uid == layer->uid ? layer->uname : "", *gname = gid == layer->gid ? layer->gname : "";
    return add_owner(layer, uid, gid, uname, gname) ? (uint32_t)(layer->owners_count - 1) : 0;
}

void fl_layer_free(struct fl_layer *layer) {
    if (!layer) return;
    for (size_t i = 0; i < layer->owners_count; i++) free(layer->owners[i].records);
    free(layer->owners);
    free(layer->uname);
    free(layer->gname);
    free(layer->entries);
    free(layer->text);
    free(layer->path);
    free(layer);
}

/* The length of an entry's pax records; 0 when it needs none. path is the name in the archive but for the slash of a
 * directory, which counts. */
static size_t records_length(const struct fl_layer *layer, const struct entry *entry, const char *path, size_t length,
                             const char *target, int *binary, int *long_path, int *long_target) {
    const struct owner *owner = &layer->owners[entry->owner];
    struct text_kind kind = fl_kind_of(path, length);
    size_t total = owner->names + owner->ids + layer->mtime_length + entry->xattrs;
    size_t name = length + (entry->type == '5');
    *long_path = !kind.ascii || name > NAME_LENGTH;
    *binary = (*long_path && !kind.utf8) || (owner->names && !owner->utf8);
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

static int64_t nanoseconds(struct timespec time) { return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec; }

/* Keeps what tells whether a file is still the same. */
static void set_stamp(struct entry *entry, const struct stat *st) {
    entry->inode = st->st_ino;
    entry->mtime = nanoseconds(st->st_mtim);
    entry->ctime = nanoseconds(st->st_ctim);
    entry->st_mode = (uint16_t)st->st_mode;
}

/* Without the ctime: when Nix optimises its store, files of valid paths get more links, and with them a new one. */
static int same_stamp(const struct entry *entry, const struct stat *st) {
    return entry->inode == st->st_ino && entry->st_mode == (uint16_t)st->st_mode && entry->mtime == nanoseconds(st->st_mtim);
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
    state = mix(mix(mix(state, (uint64_t)entry.owner << 32 | (uint64_t)entry.type << 16 | entry.mode), entry.size), entry.inode);
    state = mix(mix(state, (uint64_t)entry.mtime), entry.st_mode);
    layer->fingerprint = extra ? mix_text(state, text + entry.own, extra) : state;
    return FL_OK;
}

/* Appends an entry that is made for the image; `data` is its target, bytes or source. */
static enum fl_status add_made(struct fl_layer *layer, struct entry entry, const char *path, const struct fl_attributes *own,
                               const char *data, size_t size, struct fl_place *place) {
    if (!set_path(layer, 0, path, strlen(path))) return FL_NO_MEMORY;
    char *text = text_room(layer, size + own->xattrs_size + 1);
    if (!text) return FL_NO_MEMORY;
    if (size) memcpy(text, data, size);
    if (own->xattrs_size) memcpy(text + size, own->xattrs, own->xattrs_size);
    entry.owner = own->owner;
    entry.xattrs = (uint32_t)own->xattrs_size;
    return append(layer, entry, 0, size + own->xattrs_size, place);
}

enum fl_status fl_add_directory(struct fl_layer *layer, const char *path, const struct fl_attributes *own,
                                struct fl_place *place) {
    return add_made(layer, (struct entry){.type = '5', .mode = own->mode & 07777}, path, own, "", 0, place);
}

enum fl_status fl_add_file(struct fl_layer *layer, const char *path, const struct fl_attributes *own, const char *data,
                           size_t size, struct fl_place *place) {
    struct entry entry = {.type = '0', .mode = own->mode & 07777, .size = size, .bytes = IN_TEXT};
    return add_made(layer, entry, path, own, data, size, place);
}

enum fl_status fl_add_symlink(struct fl_layer *layer, const char *path, const struct fl_attributes *own, const char *target,
                              struct fl_place *place) {
    size_t size = strlen(target);
    return add_made(layer, (struct entry){.type = '2', .mode = 0777, .target = (uint32_t)size}, path, own, target, size, place);
}

enum fl_status fl_add_part(struct fl_layer *layer, const char *path, const struct fl_attributes *own, const char *source,
                           uint64_t offset, int64_t size, struct fl_place *place) {
    struct stat st;
    if (lstat(source, &st)) return fail(place, FL_SYSTEM, source);
    if (!S_ISREG(st.st_mode)) return fail(place, FL_CHANGED, source);
    struct part part = {offset, (uint64_t)st.st_size};
    uint64_t bytes = size < 0 ? part.whole - offset : (uint64_t)size;
    if (offset > part.whole || bytes > part.whole - offset) return fail(place, FL_SHRUNK, source);
    size_t length = sizeof part + strlen(source) + 1;
    char *data = malloc(length);
    if (!data) return FL_NO_MEMORY;
    memcpy(data, &part, sizeof part);
    memcpy(data + sizeof part, source, length - sizeof part);
    struct entry entry = {.type = '0', .mode = own->mode & 07777, .size = bytes, .bytes = IN_PART};
    set_stamp(&entry, &st);
    entry.target = (uint32_t)length;
    enum fl_status status = add_made(layer, entry, path, own, data, length, place);
    free(data);
    return status;
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
    set_stamp(&entry, &st);
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
    if (layer->xattrs && entry.type != '2') {
        char *records = NULL;
        size_t size = 0;
        enum fl_status status = fl_read_xattrs(layer->path, &records, &size);
        char *text = status ? NULL : text_room(layer, size + 1);
        if (text && size) memcpy(text, records, size);
        free(records);
        if (status == FL_NO_MEMORY || (!status && !text)) return FL_NO_MEMORY;
        if (status) return fail(place, status, layer->path);
        entry.xattrs = (uint32_t)size;
        extra = size;
    }
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

void fl_layer_look(const struct fl_layer *layer, struct fl_look *look) {
    *look = (struct fl_look){
        .entries = layer->entries, .entries_size = layer->count * sizeof *layer->entries,
        .text = layer->text, .text_size = layer->used,
        .newest = INT64_MIN, .canonical = 1,
    };
    for (size_t i = 0; i < layer->count; i++) {
        const struct entry *entry = &layer->entries[i];
        if (!entry->st_mode) continue;
        if (entry->ctime > look->newest) look->newest = entry->ctime;
        if (entry->type == '0') look->bytes += entry->size;
        mode_t mode = entry->st_mode & 07777;
        if (entry->type != '2' && mode != 0444 && mode != 0555) look->canonical = 0;
    }
}

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

/* The records of an entry's extended attributes, which follow its target, its bytes or its source. */
static const char *xattrs_of(const struct entry *entry, const char *target) {
    return target + (entry->bytes == IN_TEXT ? entry->size : entry->target);
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
        const struct owner *owner = &layer->owners[entry->owner];
        out += BLOCK;
        char *start = out;
        if (binary) out = fl_put_record(out, "hdrcharset", "BINARY", 6);
        if (long_path) out = fl_put_record(out, "path", path, name);
        if (long_target) out = fl_put_record(out, "linkpath", target, entry->target);
        memcpy(out, owner->records, owner->names + owner->ids);
        out += owner->names + owner->ids;
        if (entry->size > (uint64_t)MAX_SIZE) out = fl_put_number_record(out, "size", (int64_t)entry->size);
        memcpy(out, layer->mtime_record, layer->mtime_length);
        out += layer->mtime_length;
        if (entry->xattrs) memcpy(out, xattrs_of(entry, target), entry->xattrs);
        out = start + padded(records);
    }
    memcpy(out, layer->owners[entry->owner].header, BLOCK);
    fl_put_text(out, NAME_LENGTH, path, name);
    fl_put_octal(out + 100, 7, entry->mode);
    fl_put_octal(out + 124, 11, entry->size > (uint64_t)MAX_SIZE ? 0 : entry->size);
    out[156] = entry->type;
    if (entry->type == '2') fl_put_text(out + 157, NAME_LENGTH, target, entry->target);
    fl_put_checksum(out);
    path[stream->length] = 0;

    stream->left = entry->size;
    stream->zeros = (BLOCK - entry->size % BLOCK) % BLOCK;
    stream->made = entry->bytes == IN_TEXT ? target : NULL;
    stream->source = NULL;
    if (entry->bytes == IN_PART) {
        memcpy(&stream->part, target, sizeof stream->part);
        stream->source = target + sizeof stream->part;
    }
    stream->at += stream->header_size + stream->left + stream->zeros;
    return 1;
}

struct fl_stream *fl_stream_new(const struct fl_layer *layer) {
    struct fl_stream *stream = fl_stream_make(layer, tar_format);
    if (stream) stream->size = fl_layer_size(layer);
    return stream;
}

uint64_t fl_stream_size(const struct fl_stream *stream) { return stream->size; }

/* The file that has the bytes of the entry in hand. */
static const char *file_of(const struct fl_stream *stream) { return stream->source ? stream->source : stream->path; }

/* After the last byte of a file: it must have no more, and must be the file that was measured, unchanged. */
static enum fl_status close_file(struct fl_stream *stream, struct fl_place *place) {
    uint64_t size = stream->source ? stream->part.whole : stream->entry->size;
    struct stat st;
    int bad = fstat(stream->fd, &st);
    enum fl_status status = FL_OK;
    if (bad) status = fail(place, FL_SYSTEM, file_of(stream));
    else if ((uint64_t)st.st_size > size) status = fail(place, FL_GREW, file_of(stream));
    else if ((uint64_t)st.st_size < size) status = fail(place, FL_SHRUNK, file_of(stream));
    else if (!same_stamp(stream->entry, &st)) status = fail(place, FL_CHANGED, file_of(stream));
    close(stream->fd);
    stream->fd = -1;
    return status;
}

static enum fl_status open_file(struct fl_stream *stream, struct fl_place *place) {
    if (stream->fd >= 0) return FL_OK;
    /* Not to wait for the other end, should the file have become a pipe. */
    stream->fd = open(file_of(stream), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (stream->fd < 0) return fail(place, errno == ELOOP ? FL_CHANGED : FL_SYSTEM, file_of(stream));
    if (stream->source && lseek(stream->fd, (off_t)stream->part.offset, SEEK_SET) < 0)
        return fail(place, FL_SYSTEM, stream->source);
    return FL_OK;
}

/* An empty file is not opened; it may have grown all the same. */
static enum fl_status check_empty(struct fl_stream *stream, struct fl_place *place) {
    struct stat st;
    uint64_t size = stream->source ? stream->part.whole : 0;
    if (fstatat(AT_FDCWD, file_of(stream), &st, AT_SYMLINK_NOFOLLOW)) return fail(place, FL_SYSTEM, file_of(stream));
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size != size)
        return fail(place, (uint64_t)st.st_size > size ? FL_GREW : FL_SHRUNK, file_of(stream));
    return same_stamp(stream->entry, &st) ? FL_OK : fail(place, FL_CHANGED, file_of(stream));
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
    if (bytes < 0) return fail(place, FL_SYSTEM, file_of(stream));
    if (bytes == 0) return fail(place, FL_SHRUNK, file_of(stream));
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
            else if (stream->entry->type == '0' && !stream->left && stream->entry->st_mode) status = check_empty(stream, place);
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
                status = fail(place, FL_SHRUNK, file_of(stream));
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
