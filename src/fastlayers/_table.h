/* How entries come into a layer's table: _measure.c calls these. */
#ifndef FASTLAYERS_TABLE_H
#define FASTLAYERS_TABLE_H

#include "_layer.h"

/* Room for `size` more bytes of text; NULL when there is no memory. */
char *fl_text_room(struct fl_layer *, size_t size);

/* Makes layer->path root + path; `keep` bytes of the path are there already. 0 when there is no memory. */
int fl_set_path(struct fl_layer *, size_t keep, const char *rest, size_t size);

/* Appends an entry whose path is in layer->path, and whose target or data, `extra` bytes, is at the end of the layer's text. */
enum fl_status fl_append(struct fl_layer *, struct entry, size_t keep, size_t extra, struct fl_place *);

#endif
