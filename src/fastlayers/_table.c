/* A layer's table of entries (see _table.h and, for what is done with a whole one, _tar.h). */
#include "_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

enum { RECORD = 10240 };  /* an archive's size is a multiple of it */

void *fl_grow(void *block, size_t *room, size_t needed, size_t unit) {
    if (needed <= *room) return block;
    size_t wanted = *room ? *room + *room / 2 : 64;
    if (wanted < needed) wanted = needed;
    void *larger = realloc(block, wanted * unit);
    if (larger) *room = wanted;
    return larger;
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

size_t fl_records_length(const struct fl_layer *layer, const struct entry *entry, const char *path, size_t length,
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

char *fl_text_room(struct fl_layer *layer, size_t size) {
    char *text = fl_grow(layer->text, &layer->text_room, layer->used + size, 1);
    if (!text) return NULL;
    layer->text = text;
    return text + layer->used;
}

int fl_set_path(struct fl_layer *layer, size_t keep, const char *rest, size_t size) {
    char *path = fl_grow(layer->path, &layer->path_room, layer->root + keep + size + 1, 1);
    if (!path) return 0;
    layer->path = path;
    memcpy(path + layer->root + keep, rest, size);
    layer->length = keep + size;
    path[layer->root + layer->length] = 0;
    return 1;
}

enum fl_status fl_append(struct fl_layer *layer, struct entry entry, size_t keep, size_t extra, struct fl_place *place) {
    const char *path = layer->path + layer->root;
    const char *name = strrchr(path, '/') + 1;
    if (!layer->whiteouts && strncmp(name, ".wh.", 4) == 0) return fail(place, FL_WHITEOUT, path);
    entry.keep = (uint32_t)keep;
    entry.own = (uint32_t)(layer->length - keep);
    entry.text = layer->used;
    char *text = fl_text_room(layer, extra + entry.own);
    struct entry *entries = fl_grow(layer->entries, &layer->room, layer->count + 1, sizeof entry);
    if (entries) layer->entries = entries;
    if (!text || !entries) return FL_NO_MEMORY;
    memmove(text + entry.own, text, extra);
    memcpy(text, path + keep, entry.own);
    layer->used += entry.own + extra;
    layer->entries[layer->count++] = entry;
    if (layer->length > layer->longest) layer->longest = layer->length;

    int binary, long_path, long_target;
    size_t records = fl_records_length(layer, &entry, path, layer->length, text + entry.own, &binary, &long_path, &long_target);
    layer->size += (records ? BLOCK + padded(records) : 0) + BLOCK + (entry.size + BLOCK - 1) / BLOCK * BLOCK;
    uint64_t state = mix_text(layer->fingerprint, path, layer->length);
    state = mix(mix(mix(state, (uint64_t)entry.owner << 32 | (uint64_t)entry.type << 16 | entry.mode), entry.size), entry.inode);
    state = mix(mix(state, (uint64_t)entry.mtime), entry.st_mode);
    layer->fingerprint = extra ? mix_text(state, text + entry.own, extra) : state;
    return FL_OK;
}

enum fl_status fl_add_layer(struct fl_layer *layer, const struct fl_layer *other, struct fl_place *place) {
    enum fl_status status = FL_OK;
    for (size_t i = 0; i < other->count && !status; i++) {
        const struct entry *entry = &other->entries[i];
        const char *own = other->text + entry->text;
        size_t end = i + 1 < other->count ? other->entries[i + 1].text : other->used;
        size_t extra = end - entry->text - entry->own;
        char *text = fl_text_room(layer, extra);
        if (!fl_set_path(layer, entry->keep, own, entry->own) || (!text && extra)) return FL_NO_MEMORY;
        if (extra) memcpy(text, own + entry->own, extra);
        status = fl_append(layer, *entry, entry->keep, extra, place);
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
