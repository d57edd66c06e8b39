/* SPDX-License-Identifier: Apache-2.0 */
/* obd - words that every part of the core uses: status, fault, segment.
 *
 * The core reads and checks bytes that are on this machine.  It opens no
 * file, starts no thread but its helpers, logs nothing and knows nothing of
 * Python.  Words from outside are checked and reported, never asserted.
 */

#ifndef OBD_H
#define OBD_H

#include <stddef.h>
#include <stdint.h>

#define OBD_CORE_VERSION 2

#define OBD_NONNULL(...) __attribute__((nonnull(__VA_ARGS__)))
#define OBD_MUST_USE __attribute__((warn_unused_result))
#define OBD_LIKELY(x) __builtin_expect(!!(x), 1)
#define OBD_UNLIKELY(x) __builtin_expect(!!(x), 0)

enum obd_status {
    OBD_OK = 0,
    OBD_ABSENT,             /* not resident; at, want: range of the file */
    OBD_IO,                 /* the kernel refused; got: errno */
    OBD_SHORT,              /* the file ended early; at: where it was read */
    OBD_NOMEM,
    OBD_OUT_OF_RANGE,       /* at, want: the request; got: the size */
    OBD_NO_KERNEL,          /* this machine lacks the instructions */
    OBD_EMPTY_ENTRY,        /* an index entry of no sectors */
    OBD_DISORDER,           /* it starts (got) before the last ended (want) */
    OBD_BEYOND_DISK,        /* it ends (got) after the disk (want) */
    OBD_BEFORE_DATA,        /* its data is (got) before the first (want) */
    OBD_BEYOND_DATA,        /* its data ends (got) after the last (want) */
    OBD_TOO_MANY,           /* more entries or blocks (got) than (want) */
    OBD_BAD_LENGTH,         /* a block of length got, at most want */
    OBD_BAD_SUM,            /* blocks end at got, must end at want */
    OBD_BAD_CRC,            /* got: computed; want: stored */
    OBD_BAD_BLOCK,          /* inflated to got bytes, must be want */
    OBD_FULL,               /* no room left; got: errno */
    OBD_READ_ONLY,
    OBD_POINT_ORDER,        /* a position (got) not after the last (want) */
    OBD_POINT_BEYOND,       /* it is (got) past the end (want) */
    OBD_POINT_FAR,          /* so many bytes (got) to inflate, at most want */
    OBD_POINT_BITS,         /* got, at most want */
    OBD_POINT_WINDOW,       /* length or place (got) of a window, want */
    OBD_BAD_WINDOW,         /* a window inflated to got bytes, must be want */
    OBD_MORE_MEMBERS,       /* another gzip member follows at */
    OBD_BAD_MEMBER,         /* got: 0 does not inflate, 1 crc, 2 size */
    OBD_BAD_TAG,            /* an entry of kind got, at most want */
    OBD_BAD_ARGUMENT        /* the caller's mistake */
};

/* What was wrong, and where.  C fills it; Python writes the sentence. */
struct obd_fault {
    uint64_t at;            /* byte offset in the file, or entry number */
    uint64_t got;
    uint64_t want;
    uint64_t block;         /* number of the block, where it is about one */
    uint32_t layer;         /* number in the stack, where there is one */
};

#define OBD_SECTOR_SHIFT 9

/* An index entry with the bits that it has on disk (LSMT, sectors):
 *
 *   lo = start | length << 50
 *   hi = moffset | zeroed << 55 | tag << 56
 *
 * In memory the tag is the number of the layer, 0 at the bottom.
 */
struct obd_segment {
    uint64_t lo;
    uint64_t hi;
};

#define OBD_START_BITS 50
#define OBD_START_MASK ((UINT64_C(1) << OBD_START_BITS) - 1)
#define OBD_MOFFSET_BITS 55
#define OBD_MOFFSET_MASK ((UINT64_C(1) << OBD_MOFFSET_BITS) - 1)
#define OBD_ZEROED_BIT (UINT64_C(1) << OBD_MOFFSET_BITS)
#define OBD_TAG_SHIFT 56
#define OBD_MAX_LENGTH ((UINT64_C(1) << 14) - 1)

static inline uint64_t
obd_start(const struct obd_segment *s)
{
    return s->lo & OBD_START_MASK;
}

static inline uint64_t
obd_length(const struct obd_segment *s)
{
    return s->lo >> OBD_START_BITS;
}

static inline uint64_t
obd_end(const struct obd_segment *s)
{
    return obd_start(s) + obd_length(s);
}

static inline uint64_t
obd_moffset(const struct obd_segment *s)
{
    return s->hi & OBD_MOFFSET_MASK;
}

static inline int
obd_zeroed(const struct obd_segment *s)
{
    return (s->hi & OBD_ZEROED_BIT) != 0;
}

static inline unsigned
obd_tag(const struct obd_segment *s)
{
    return (unsigned)(s->hi >> OBD_TAG_SHIFT);
}

/* The part of s from sector start to sector end, which lie inside it. */
static inline struct obd_segment
obd_piece(const struct obd_segment *s, uint64_t start, uint64_t end)
{
    struct obd_segment r;

    r.lo = start | (end - start) << OBD_START_BITS;
    r.hi = obd_zeroed(s) ? s->hi : s->hi + (start - obd_start(s));
    return r;
}

#endif
