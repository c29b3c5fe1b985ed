/* What tells whether a file is still the same as when it was measured. */
#ifndef FASTLAYERS_STAMP_H
#define FASTLAYERS_STAMP_H

#include "_layer.h"

#include <sys/stat.h>

#ifdef __APPLE__
#define st_mtim st_mtimespec
#define st_ctim st_ctimespec
#endif

static inline int64_t nanoseconds(struct timespec time) { return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec; }

static inline void set_stamp(struct entry *entry, const struct stat *st) {
    entry->inode = st->st_ino;
    entry->mtime = nanoseconds(st->st_mtim);
    entry->ctime = nanoseconds(st->st_ctim);
    entry->st_mode = (uint16_t)st->st_mode;
}

/* Without the ctime: when Nix optimises its store, files of valid paths get more links, and with them a new one. */
static inline int same_stamp(const struct entry *entry, const struct stat *st) {
    return entry->inode == st->st_ino && entry->st_mode == (uint16_t)st->st_mode && entry->mtime == nanoseconds(st->st_mtim);
}

#endif
