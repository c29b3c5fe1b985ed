/* Extended attributes (see _xattr.h). */
#include "_xattr.h"

#include "_header.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int fl_keeps_xattr(const char *name) {
    return strcmp(name, "security.capability") == 0 || strncmp(name, "user.", 5) == 0;
}

#ifdef __linux__
#include <sys/xattr.h>

enum { NAMES = 65536, VALUE = 65536 };  /* what Linux gives at most: XATTR_LIST_MAX, XATTR_SIZE_MAX */

#define PREFIX "SCHILY.xattr."

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Appends a record; 0 when there is no memory. */
static int append(char **records, size_t *size, const char *name, const char *value, size_t length) {
    char key[sizeof PREFIX + 255] = PREFIX;  /* XATTR_NAME_MAX is 255 */
    strncat(key, name, 255);
    char *out = realloc(*records, *size + fl_record_length(strlen(key), length) + 1);  /* and sprintf's zero */
    if (!out) return 0;
    *records = out;
    *size = (size_t)(fl_put_record(out + *size, key, value, length) - out);
    return 1;
}

enum fl_status fl_read_xattrs(const char *path, char **records, size_t *size) {
    char few[1024], *names = few, *value = NULL, **sorted = NULL;
    size_t count = 0, i = 0;
    ssize_t length = llistxattr(path, names, sizeof few);
    *records = NULL;
    *size = 0;
    if (length == 0 || (length < 0 && errno == ENOTSUP)) return FL_OK;  /* which is nearly always so */
    enum fl_status status = FL_NO_MEMORY;
    if (length < 0 && errno == ERANGE) {
        if (!(names = malloc(NAMES))) return FL_NO_MEMORY;
        length = llistxattr(path, names, NAMES);
    }
    if (length < 0) {
        status = FL_SYSTEM;
        goto end;
    }
    /* The shortest name has two bytes with its zero. */
    if (!(sorted = malloc(((size_t)length / 2 + 1) * sizeof *sorted)) || !(value = malloc(VALUE))) goto end;
    for (char *name = names; name < names + length; name += strlen(name) + 1)
        if (fl_keeps_xattr(name)) sorted[count++] = name;
    qsort(sorted, count, sizeof *sorted, compare_names);
    for (; i < count; i++) {
        ssize_t got = lgetxattr(path, sorted[i], value, VALUE);
        if (got < 0) status = FL_SYSTEM;
        else if (strchr(sorted[i], '=')) status = FL_XATTR;  /* where a pax record's key ends */
        else if (append(records, size, sorted[i], value, (size_t)got)) continue;
        goto end;
    }
    status = FL_OK;
end:;
    int error = errno;
    if (status) {
        free(*records);
        *records = NULL;
    }
    if (names != few) free(names);
    free(sorted);
    free(value);
    errno = error;
    return status;
}

#else

enum fl_status fl_read_xattrs(const char *path, char **records, size_t *size) {
    (void)path, *records = NULL, *size = 0;
    errno = ENOTSUP;
    return FL_SYSTEM;
}

#endif
