/* Writing back (see _disk.h): sync_file_range where the kernel has it. */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "_disk.h"

#include <errno.h>
#include <fcntl.h>

void fl_start_writing(int fd, int64_t offset, int64_t size) {
#ifdef SYNC_FILE_RANGE_WRITE
    sync_file_range(fd, offset, size, SYNC_FILE_RANGE_WRITE);
#else
    (void)fd, (void)offset, (void)size;
#endif
}

int fl_wait_written(int fd, int64_t offset, int64_t size) {
#ifdef SYNC_FILE_RANGE_WRITE
    unsigned how = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    /* Some file systems cannot: fsync, which follows, says what is wrong. */
    if (sync_file_range(fd, offset, size, how) && errno != EINVAL && errno != ENOSYS && errno != ESPIPE) return errno;
#else
    (void)fd, (void)offset, (void)size;
#endif
    return 0;
}
