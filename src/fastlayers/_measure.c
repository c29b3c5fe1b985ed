/* Measuring what goes into a layer (see _tar.h): trees are walked with getdents and fstatat, no file is opened. */
#include "_stamp.h"
#include "_table.h"
#include "_xattr.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Appends an entry that is made for the image; `data` is its target, bytes or source. */
static enum fl_status add_made(struct fl_layer *layer, struct entry entry, const char *path, const struct fl_attributes *own,
                               const char *data, size_t size, struct fl_place *place) {
    if (!fl_set_path(layer, 0, path, strlen(path))) return FL_NO_MEMORY;
    char *text = fl_text_room(layer, size + own->xattrs_size + 1);
    if (!text) return FL_NO_MEMORY;
    if (size) memcpy(text, data, size);
    if (own->xattrs_size) memcpy(text + size, own->xattrs, own->xattrs_size);
    entry.owner = own->owner;
    entry.xattrs = (uint32_t)own->xattrs_size;
    return fl_append(layer, entry, 0, size + own->xattrs_size, place);
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
        char *text = fl_text_room(layer, room);
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
        char *text = status ? NULL : fl_text_room(layer, size + 1);
        if (text && size) memcpy(text, records, size);
        free(records);
        if (status == FL_NO_MEMORY || (!status && !text)) return FL_NO_MEMORY;
        if (status) return fail(place, status, layer->path);
        entry.xattrs = (uint32_t)size;
        extra = size;
    }
    return fl_append(layer, entry, keep, extra, place);
}

enum fl_status fl_add_path(struct fl_layer *layer, const char *path, struct fl_place *place) {
    size_t length = strlen(path), keep = 0, before = layer->length;
    const char *last = layer->path + layer->root;
    while (keep < before && keep < length && last[keep] == path[keep]) keep++;  /* lists of files share long beginnings */
    if (!layer->count) keep = 0;
    char type;
    if (!fl_set_path(layer, keep, path + keep, length - keep)) return FL_NO_MEMORY;
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
        if (!fl_set_path(layer, parent, "/", 1) || !fl_set_path(layer, parent + 1, child, strlen(child))) status = FL_NO_MEMORY;
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
    if (!fl_set_path(layer, 0, path, strlen(path))) return FL_NO_MEMORY;
    enum fl_status status = add_entry(layer, AT_FDCWD, layer->path, 0, 0, &type, place);
    if (!status && type == '5') status = walk(layer, AT_FDCWD, layer->path, place);
    return status;
}
