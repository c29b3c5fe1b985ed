/* What a tar header is made of: fields, pax records, and the order of names. */
#ifndef FASTLAYERS_HEADER_H
#define FASTLAYERS_HEADER_H

#include <stddef.h>
#include <stdint.h>

enum {
    BLOCK = 512,
    NAME_LENGTH = 100,    /* of the name and linkname fields */
    OWNER_LENGTH = 32,    /* of the uname and gname fields */
    NUMBER_LENGTH = 24,   /* of a decimal number in a pax record, at most */
};

#define MAX_ID 07777777LL           /* what seven octal digits hold */
#define MAX_SIZE 077777777777LL     /* eleven */

/* What a text needs: a pax record where it is not ASCII or longer than its field, and the record that says BINARY where
 * it is not UTF-8. */
struct text_kind { int ascii, utf8; };

struct text_kind fl_kind_of(const char *text, size_t size);

/* The order of two names as Python strings: by code point. */
int fl_compare_names(const char *a, const char *b);

/* Copies into a header field, a question mark for each code point that is not ASCII. */
void fl_put_text(char *field, size_t room, const char *text, size_t size);
void fl_put_octal(char *field, int digits, uint64_t value);
void fl_put_checksum(char *header);

/* A pax record is "LENGTH key=value\n", where LENGTH counts itself; key and value are given by their lengths. */
size_t fl_record_length(size_t key, size_t value);
/* These give the place behind the record. */
char *fl_put_record(char *out, const char *key, const char *value, size_t size);
char *fl_put_number_record(char *out, const char *key, int64_t value);

#endif
