/* Bytes of a file on their way to the disk. */
#ifndef FASTLAYERS_DISK_H
#define FASTLAYERS_DISK_H

#include <stdint.h>

/* Lets the kernel begin to write a part of a file, and returns at once; it is a hint, and nothing where there is none. */
void fl_start_writing(int fd, int64_t offset, int64_t size);
/* Waits until a part of a file, where bytes have been written, has left the cache: not yet that it is safe. Gives errno or 0. */
int fl_wait_written(int fd, int64_t offset, int64_t size);

#endif
