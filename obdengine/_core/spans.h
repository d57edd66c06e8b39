/* SPDX-License-Identifier: Apache-2.0 */
/* spans - where reading can start in a compressed file, and what is between.
 *
 * A gzip or zstd file is inflated from its start, unless one knows a point
 * and what the decoder knew there.  A span is what lies from one point to
 * the next: it is inflated as a whole.  Points come from outside, entry by
 * entry as in overlaybd's gzip.meta (docs/formats/turbo.md), and memory grows
 * with what has come.  Windows stay in the index file until they are needed.
 */

#ifndef OBD_SPANS_H
#define OBD_SPANS_H

#include <stdbool.h>

#include "obd.h"
#include "scratch.h"

#define OBD_POINT_SIZE 29           /* bytes of an entry */
#define OBD_WINDOW_SIZE 32768
#define OBD_WINDOW_STORED_MAX 65536
#define OBD_SPAN_MAX (UINT64_C(32) << 20)   /* inflated */
#define OBD_SPAN_STORED_MAX (UINT64_C(64) << 20)

/* Instead of a number of bits: here a member or frame starts. */
#define OBD_POINT_MEMBER 0x80

enum obd_spans_kind {
    OBD_SPANS_GZIP = 1,         /* one member, as overlaybd has it */
    OBD_SPANS_MEMBERS = 2,      /* gzip, any number of members */
    OBD_SPANS_ZSTD = 3          /* zstd, points are starts of frames */
};

struct obd_span {
    uint64_t out;               /* where it starts, inflated */
    uint64_t in;                /* where it starts in the file */
    uint64_t window;            /* where the index file has its window */
    uint32_t window_size;       /* stored; 0: none */
    uint32_t crc;               /* of what it inflates to */
    uint8_t bits;               /* of the byte before in; or POINT_MEMBER */
};

struct obd_spans {
    uint64_t n;
    uint64_t fed;               /* entries that there were */
    uint64_t capacity;
    uint64_t size;              /* inflated bytes of all */
    uint64_t file_size;         /* compressed bytes */
    uint64_t windows_end;       /* of the index file */
    struct obd_span *span;      /* and one more, the end, when finished */
    int kind;
    int index_fd;               /* borrowed */
    bool packed;                /* windows are stored by zlib */
    bool summed;                /* crcs are known */
};

/* NULL without memory.  Windows lie before windows_end of index_fd. */
extern struct obd_spans *obd_spans_new(int kind, int packed, int index_fd,
                                       uint64_t windows_end, uint64_t size,
                                       uint64_t file_size)
    OBD_MUST_USE;

extern void obd_spans_free(struct obd_spans *s);

extern size_t obd_spans_memory(const struct obd_spans *s) OBD_NONNULL(1);

extern uint64_t obd_spans_count(const struct obd_spans *s) OBD_NONNULL(1);

/* The next n entries.  On failure fault->block is the number of the wrong
 * one, and the table is unusable.
 */
extern int obd_spans_feed(struct obd_spans *s, const uint8_t *src, size_t n,
                          struct obd_fault *fault)
    OBD_NONNULL(1, 2, 4) OBD_MUST_USE;

/* All were fed: judge the whole. */
extern int obd_spans_finish(struct obd_spans *s, struct obd_fault *fault)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

/* The crcs of all spans, 4 bytes each, after finish. */
extern int obd_spans_sum(struct obd_spans *s, const uint8_t *src, size_t n)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

/* Number of the span that has the byte at offset, which lies inside. */
extern uint64_t obd_spans_find(const struct obd_spans *s, uint64_t offset)
    OBD_NONNULL(1);

/* The range of the file that span i needs. */
extern void obd_spans_stored(const struct obd_spans *s, uint64_t i,
                             uint64_t *offset, uint64_t *end)
    OBD_NONNULL(1, 3, 4);

static inline size_t
obd_spans_inflated(const struct obd_spans *s, uint64_t i)
{
    return (size_t)(s->span[i + 1].out - s->span[i].out);
}

/* Fills buf with size bytes at offset of the file, as obd_file_read does. */
struct obd_loader {
    const void *file;
    int (*load)(const void *file, uint64_t offset, uint8_t *buf, size_t size,
                struct obd_fault *fault);
};

/* Inflate span i to dst, which has room for it, and verify what can be.
 * fault->block is i, fault->at where its bytes are stored.
 */
extern int obd_spans_inflate(const struct obd_spans *s, uint64_t i,
                             const struct obd_loader *from, uint8_t *dst,
                             struct obd_scratch *scratch,
                             struct obd_fault *fault)
    OBD_NONNULL(1, 3, 4, 5, 6) OBD_MUST_USE;

#endif
