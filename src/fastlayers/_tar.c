/* Reading a layer as a stream (see _tar.h): headers as tar has them, and its files, into a buffer or a descriptor. */
/* POSIX alone but for splice, so that it compiles on macOS too, where planning and importing work. */
#if defined(__linux__)
#define _GNU_SOURCE
#elif defined(__APPLE__)
#define _DARWIN_C_SOURCE
#else
#define _POSIX_C_SOURCE 200809L
#endif
#include "_layer.h"
#include "_stamp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CHUNK = 256 * 1024,   /* what is written at once */
    SPLICED = 64 * 1024,  /* a file from this size on is not copied into a pipe */
};

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
    size_t records = fl_records_length(layer, entry, path, stream->length, target, &binary, &long_path, &long_target);
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
