/* The tar writer: a layer is measured first (every entry, no file opened), then read as a stream.
 *
 * Plain C, no Python.h. The bytes are those of CPython's tarfile in PAX_FORMAT as nixpkgs' stream_layered_image.py
 * uses it (docs/formats.md). Every function that can fail gives an enum fl_status; the place is left in a struct
 * fl_place of the caller's.
 */
#ifndef FASTLAYERS_TAR_H
#define FASTLAYERS_TAR_H

#include <stddef.h>
#include <stdint.h>

enum fl_status {
    FL_OK = 0,
    FL_NO_MEMORY,
    FL_SYSTEM,    /* a system call failed: errno is in the place */
    FL_KIND,      /* a socket, a device or a pipe */
    FL_WHITEOUT,  /* a name that starts with .wh. */
    FL_CHANGED,   /* a file is not what it was when the layer was measured */
    FL_SHRUNK,    /* a file ended early */
    FL_GREW,      /* a file has more bytes than it had */
    FL_OUTPUT,    /* the output cannot be written: errno is in the place */
    FL_SIGNAL,    /* a signal came: to be called again */
    FL_XATTR,     /* an extended attribute that no pax record can hold */
};

/* Where something went wrong. */
struct fl_place {
    char *path;   /* malloc'ed, owned by the caller */
    int error;    /* errno, or 0 */
};

/* What every entry of a layer has in common. */
struct fl_profile {
    int64_t uid, gid, mtime;
    const char *uname, *gname;  /* copied */
    const char *root;           /* the folder below which the files are, "" for none; copied */
    int whiteouts;              /* whether names that start with .wh. are let through */
    int xattrs;                 /* whether extended attributes of what is on disk are kept */
};

/* What an entry that is made for the image has of its own. */
struct fl_attributes {
    uint32_t mode;
    uint32_t owner;      /* as fl_layer_owner gave it, or 0: the profile's */
    const char *xattrs;  /* pax records, copied */
    size_t xattrs_size;
};

struct fl_layer;
struct fl_stream;

struct fl_layer *fl_layer_new(const struct fl_profile *profile);
void fl_layer_free(struct fl_layer *layer);

/* Another owner than the profile's: its number from 1 on, or 0 when there is no memory. The profile's names stay with its
 * own numbers; other owners have numbers alone. */
uint32_t fl_layer_owner(struct fl_layer *, int64_t uid, int64_t gid);

/* Entries in the order of the archive. Paths are absolute, without a slash at the end. */
enum fl_status fl_add_directory(struct fl_layer *, const char *path, const struct fl_attributes *, struct fl_place *);
enum fl_status fl_add_file(struct fl_layer *, const char *path, const struct fl_attributes *, const char *data, size_t size,
                           struct fl_place *);
enum fl_status fl_add_symlink(struct fl_layer *, const char *path, const struct fl_attributes *, const char *target,
                              struct fl_place *);
/* A file whose bytes are those of the file `source` from `offset` on: `size` of them, or all when size is negative. */
enum fl_status fl_add_part(struct fl_layer *, const char *path, const struct fl_attributes *, const char *source,
                           uint64_t offset, int64_t size, struct fl_place *);
/* What is on disk at root + path: itself alone, with mode 0755 or 0644, so that a umask decides nothing; or with
 * everything below, sorted and with the modes as nixpkgs has them. */
enum fl_status fl_add_path(struct fl_layer *, const char *path, struct fl_place *);
enum fl_status fl_add_tree(struct fl_layer *, const char *path, struct fl_place *);

/* The entries of another layer of the same profile, behind those that are there. */
enum fl_status fl_add_layer(struct fl_layer *, const struct fl_layer *other, struct fl_place *);

/* A layer's table of entries as bytes, and the way back, into a new layer of the same profile and on the same kind of
 * machine: for other processes. fl_layer_pack with NULL gives the size; fl_layer_unpack gives FL_KIND for anything else. */
size_t fl_layer_pack(const struct fl_layer *, char *out);
enum fl_status fl_layer_unpack(struct fl_layer *, const char *packed, size_t size);

uint64_t fl_layer_size(const struct fl_layer *);         /* bytes of the whole archive */
uint64_t fl_layer_entries(const struct fl_layer *);
uint64_t fl_layer_fingerprint(const struct fl_layer *);  /* of every entry: path, kind, mode, size, mtime, inode */

/* What was seen on disk when a layer was measured. */
struct fl_look {
    const void *entries, *text;      /* all that the table knows, on this kind of machine */
    size_t entries_size, text_size;
    uint64_t bytes;                  /* of files on disk that go into the layer */
    int64_t newest;                  /* the latest ctime, ns since 1970; INT64_MIN where nothing is on disk */
    int canonical;                   /* whether modes on disk are those that Nix gives: 0444 and 0555 */
};
void fl_layer_look(const struct fl_layer *, struct fl_look *);

/* A stream reads its layer, which must live as long and stay as it is. */
struct fl_stream *fl_stream_new(const struct fl_layer *);
/* A stream of the NAR of a tree: of `count` entries of the layer from `first` on, as fl_add_tree added them. */
struct fl_stream *fl_stream_new_nar(const struct fl_layer *, size_t first, size_t count);
void fl_stream_free(struct fl_stream *);
uint64_t fl_stream_size(const struct fl_stream *);  /* bytes of the whole stream */
/* Fills the buffer; *got is less than size at the end of the stream alone. */
enum fl_status fl_stream_read(struct fl_stream *, char *buffer, size_t size, size_t *got, struct fl_place *);
/* Writes to a descriptor, about `most` bytes; *got is 0 at the end of the stream alone, or when a signal came first. With
 * `splice` large files go into a pipe without being copied, where the kernel can: only for files that never change. */
enum fl_status fl_stream_write(struct fl_stream *, int fd, size_t most, int splice, size_t *got, struct fl_place *);

#endif
