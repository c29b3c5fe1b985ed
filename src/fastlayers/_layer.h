/* A layer's table of entries, and the stream that reads it: as a tar (_tar.c) or as NARs (_nar.c). */
#ifndef FASTLAYERS_LAYER_H
#define FASTLAYERS_LAYER_H

#include "_header.h"
#include "_tar.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    uint64_t size;    /* of the file's bytes */
    uint64_t inode;   /* of what is on disk, as it was; mtime and ctime in ns since 1970 */
    int64_t mtime, ctime;
    size_t text;      /* in the layer's text: the path's own part, then target, data or part; then xattrs */
    uint32_t keep;    /* how many bytes of the path before are the start of this one */
    uint32_t own;     /* length of the path's own part */
    uint32_t target;  /* length of a symlink's target, or of a part */
    uint32_t xattrs;  /* length of the pax records of extended attributes */
    uint32_t owner;   /* which of the layer's owners */
    uint16_t mode;
    uint16_t st_mode; /* kind and mode on disk; 0 for what is not there */
    char type;        /* '0' file, '2' symlink, '5' directory: tar's type flag */
    char bytes;       /* where a file's bytes are: enum bytes */
    uint16_t none[3]; /* zeros, for all of an entry is hashed */
};

enum bytes {
    AT_PATH,  /* in the file at root + path */
    IN_TEXT,  /* in the layer's text */
    IN_PART,  /* in another file: the text has a struct part and that file's path, zero-terminated */
};

struct part {
    uint64_t offset;  /* where the bytes start */
    uint64_t whole;   /* size of the file that has them */
};

/* What the headers of one owner's entries have in common. */
struct owner {
    char header[BLOCK];
    char *records;      /* the pax records of the owner's names, then of its numbers */
    size_t names, ids;  /* their lengths */
    int utf8;
};

struct fl_layer {
    struct entry *entries;
    size_t count, room;
    char *text;
    size_t used, text_room;
    char *path;           /* root + the path of the last entry, zero-terminated */
    size_t root, length;  /* lengths: of root, of the path behind it */
    size_t path_room, longest;
    uint64_t size, fingerprint;
    struct owner *owners; /* the profile's, then others */
    size_t owners_count, owners_room;
    int64_t uid, gid;     /* the profile's */
    char *uname, *gname;
    int64_t mtime;        /* as the headers have it */
    char mtime_record[64];
    size_t mtime_length;
    int whiteouts, xattrs;
};

/* An entry of a NAR, with its whole path. */
struct named {
    const char *path;
    const struct entry *entry;
};

/* What comes next in a format: what stands before an entry's bytes, or at the end. Sets everything from `entry` to
 * `made` below; 0 when there is no memory. */
struct fl_stream;
typedef int fl_format(struct fl_stream *);

struct fl_stream {
    const struct fl_layer *layer;
    fl_format *format;
    uint64_t size;          /* of the whole stream */
    size_t next;            /* the number of the entry whose header comes next */
    const struct entry *entry;  /* in hand; NULL at the end */
    char *path;             /* root + its path */
    size_t length;          /* of its path */
    char *header;
    size_t header_room, header_size, header_at;
    uint64_t left;          /* of its bytes */
    uint64_t zeros;         /* that follow them */
    const char *made;       /* its bytes, where they are not on disk */
    struct part part;       /* its file, where another has its bytes; `source` is that file's path, else NULL */
    const char *source;
    uint64_t at;            /* bytes given so far, with what is in hand; of a tar */
    char *chunk;            /* what was read and is not yet written, when the stream is written to a descriptor */
    size_t chunk_size, chunk_at;
    int fd;                 /* of its file, or -1 */
    int ended;
    struct named *order;    /* of a NAR: its entries, `count` of them, in its order */
    size_t count;
    char *names;            /* where their paths are */
    size_t depth;           /* of the entry before */
};

/* A block of at least `needed` units, of which *room are there; NULL when there is no memory. */
void *fl_grow(void *block, size_t *room, size_t needed, size_t unit);

/* A stream that has nothing yet but its layer and its format. */
struct fl_stream *fl_stream_make(const struct fl_layer *, fl_format *);

/* Leaves where something went wrong, and why. */
static inline enum fl_status fail(struct fl_place *place, enum fl_status status, const char *path) {
    place->error = status == FL_SYSTEM || status == FL_OUTPUT ? errno : 0;
    free(place->path);
    place->path = strdup(path);
    return place->path ? status : FL_NO_MEMORY;
}

static inline size_t padded(size_t size) { return (size + BLOCK - 1) / BLOCK * BLOCK; }

/* The length of an entry's pax records; 0 when it needs none. path is the name in the archive but for the slash of a
 * directory, which counts. */
size_t fl_records_length(const struct fl_layer *, const struct entry *, const char *path, size_t length,
                         const char *target, int *binary, int *long_path, int *long_target);

#endif
