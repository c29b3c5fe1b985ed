/* The extended attributes of a file, as pax records. */
#ifndef FASTLAYERS_XATTR_H
#define FASTLAYERS_XATTR_H

#include "_tar.h"

/* Every attribute that is an image's: security.capability and user.*; not the labels and lists of the machine that the file
 * is on. Records are "SCHILY.xattr.NAME", as star and GNU tar have them, sorted by name; *records is malloc'ed. FL_SYSTEM
 * leaves errno. */
enum fl_status fl_read_xattrs(const char *path, char **records, size_t *size);

/* Whether an attribute of this name is kept. */
int fl_keeps_xattr(const char *name);

#endif
