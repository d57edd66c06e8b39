/* SPDX-License-Identifier: Apache-2.0 */
/* blob - see blob.h. */

#include "blob.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "chunks.h"
#include "file.h"
#include "inflated.h"
#include "window.h"
#include "zblock.h"

struct obd_blob {
    uint64_t id;                /* never 0, never used twice */
    uint64_t offset;            /* of the payload, in the file */
    uint64_t size;              /* of the stream */
    struct obd_jump *jump;      /* NULL when the stream is stored as it is */
    struct obd_spans *spans;    /* NULL unless there are */
    const struct obd_blob *meta;        /* NULL unless it is two in one, */
    const struct obd_blob *target;      /* and then there is nothing else */
    struct obd_presence presence;
    struct obd_window window;
    int fd;
};

static _Atomic uint64_t last_id;

static struct obd_blob *
make(int fd, uint64_t offset, uint64_t size, struct obd_jump *jump)
{
    struct obd_blob *b = calloc(1, sizeof *b);

    if (b == NULL) {
        obd_jump_free(jump);
        return NULL;
    }
    b->id = atomic_fetch_add(&last_id, 1) + 1;
    b->fd = fd;
    b->offset = offset;
    b->size = size;
    b->jump = jump;
    return b;
}

struct obd_blob *
obd_blob_new_plain(int fd, uint64_t offset, uint64_t size)
{
    return make(fd, offset, size, NULL);
}

struct obd_blob *
obd_blob_new_zfile(int fd, uint64_t offset, struct obd_jump *jump)
{
    return make(fd, offset, jump->size, jump);
}

struct obd_blob *
obd_blob_new_spans(int fd, struct obd_spans *spans)
{
    struct obd_blob *b = make(fd, 0, spans->size, NULL);

    if (b == NULL)
        obd_spans_free(spans);
    else
        b->spans = spans;
    return b;
}

struct obd_blob *
obd_blob_new_turbo(const struct obd_blob *meta, const struct obd_blob *target)
{
    struct obd_blob *b = make(-1, 0, meta->size, NULL);

    if (b != NULL) {
        b->meta = meta;
        b->target = target;
    }
    return b;
}

/* The blob that an offset is one of; takes the bit off. */
static const struct obd_blob *
side(const struct obd_blob *b, uint64_t *offset)
{
    if (OBD_LIKELY(b->target == NULL))
        return b;
    b = *offset & OBD_TARGET_BIT ? b->target : b->meta;
    *offset &= ~OBD_TARGET_BIT;
    return b;
}

void
obd_blob_free(struct obd_blob *b)
{
    if (b == NULL)
        return;
    if (b->spans != NULL)
        obd_chunks_forget(b->id);
    obd_spans_free(b->spans);
    obd_jump_free(b->jump);
    obd_presence_end(&b->presence);
    obd_window_end(&b->window, b->offset + b->size);
    free(b);
}

uint64_t
obd_blob_size(const struct obd_blob *b)
{
    return b->size;
}

size_t
obd_blob_memory(const struct obd_blob *b)
{
    size_t size = sizeof *b + obd_presence_memory(&b->presence);

    if (b->target != NULL)
        size += obd_blob_memory(b->meta) + obd_blob_memory(b->target);
    if (b->spans != NULL)
        size += obd_spans_memory(b->spans);
    return b->jump != NULL ? size + obd_jump_memory(b->jump) : size;
}

struct obd_presence *
obd_blob_presence(struct obd_blob *b)
{
    return &b->presence;
}

bool
obd_blob_present(const struct obd_blob *b, uint64_t file_offset,
                 uint64_t file_size)
{
    b = side(b, &file_offset);
    return obd_presence_here(&b->presence, file_offset, file_size);
}

/* Fill buf from the file, or say why not.  What is said of presence may
 * change by it, which is no part of what the blob is.
 */
static int
load(const struct obd_blob *b, uint64_t at, uint8_t *buf, size_t size,
     struct obd_fault *fault)
{
    if (b->presence.here == NULL)
        return obd_file_read(b->fd, at, buf, size, fault);
    return obd_presence_read((struct obd_presence *)&b->presence, b->fd, at,
                             buf, size, fault);
}

/* How many blocks from first, up to last, fit in the scratch when stored. */
static uint64_t
run_of(const struct obd_jump *j, uint64_t first, uint64_t last)
{
    uint64_t start = obd_jump_at(j, first), n = last - first + 1;

    while (obd_jump_at(j, first + n) - start > OBD_STORED_CAP)
        n = n / 2;
    return n;
}

/* Part of one request: what is wanted, and where it goes. */
struct want {
    uint64_t offset;            /* in the stream */
    uint8_t *buf;
    size_t size;
};

static void
advance(struct want *w, size_t done)
{
    w->offset += done;
    w->buf += done;
    w->size -= done;
}

/* Bytes of w that are in its first block, which starts with w or before. */
static size_t
part_of(const struct obd_jump *j, uint64_t block, const struct want *w,
        size_t *skip)
{
    *skip = (size_t)(w->offset - (block << j->block_shift));
    size_t part = obd_jump_inflated(j, block) - *skip;

    return part < w->size ? part : w->size;
}

/* Take what w wants of its first block from those that are kept. */
static bool
copy_kept(const struct obd_blob *b, uint64_t block, struct want *w)
{
    size_t skip, part = part_of(b->jump, block, w, &skip);

    /* All of it goes where it is wanted, and is kept by whoever that is. */
    if (part == obd_jump_inflated(b->jump, block)
        || !obd_inflated_copy(b->id, block, skip, w->buf, part))
        return false;
    advance(w, part);
    return true;
}

/* Inflate one stored block for w: in place when w wants all of it, else by
 * way of the scratch, and to be kept.
 */
static int
inflate(const struct obd_blob *b, uint64_t block, const uint8_t *src,
        struct want *w, struct obd_scratch *s, struct obd_fault *fault)
{
    const struct obd_jump *j = b->jump;
    size_t n = (size_t)(obd_jump_at(j, block + 1) - obd_jump_at(j, block));
    size_t size = obd_jump_inflated(j, block), skip;
    size_t part = part_of(j, block, w, &skip);
    bool whole = part == size;
    int status = obd_zblock_decode(&s->codec, j->algo, j->verify, src, n,
                                   whole ? w->buf : s->block, size, fault);

    if (OBD_UNLIKELY(status != OBD_OK)) {
        fault->block = block;
        fault->at = b->offset + obd_jump_at(j, block);
        return status;
    }
    if (!whole) {
        memcpy(w->buf, s->block + skip, part);
        obd_inflated_keep(b->id, block, &s->block);
    }
    advance(w, part);
    return OBD_OK;
}

static int
read_zfile(const struct obd_blob *b, struct want w, struct obd_scratch *s,
           struct obd_fault *fault)
{
    const struct obd_jump *j = b->jump;

    while (w.size > 0) {
        uint64_t first = w.offset >> j->block_shift;

        if (copy_kept(b, first, &w))
            continue;
        uint64_t last = (w.offset + w.size - 1) >> j->block_shift;
        uint64_t start = obd_jump_at(j, first), n = run_of(j, first, last);
        uint64_t end = obd_jump_at(j, first + n);
        int status = load(b, b->offset + start, s->stored,
                          (size_t)(end - start), fault);

        for (uint64_t i = first; status == OBD_OK && i < first + n; i++)
            status = inflate(b, i, s->stored + (obd_jump_at(j, i) - start),
                             &w, s, fault);
        if (status != OBD_OK)
            return status;
    }
    return OBD_OK;
}

static int
load_for(const void *file, uint64_t at, uint8_t *buf, size_t size,
         struct obd_fault *fault)
{
    return load(file, at, buf, size, fault);
}

static int
inflate_span(const struct obd_blob *b, uint64_t i, uint8_t *dst,
             struct obd_scratch *scratch, struct obd_fault *fault)
{
    struct obd_loader from = { b, load_for };

    return obd_spans_inflate(b->spans, i, &from, dst, scratch, fault);
}

/* Span i, held; NULL with *status. */
static struct obd_chunk *
chunk_of(const struct obd_blob *b, uint64_t i, struct obd_scratch *scratch,
         struct obd_fault *fault, int *status)
{
    struct obd_chunk *c = obd_chunk_find(b->id, i);
    uint64_t at, end;
    bool fill;

    *status = OBD_OK;
    if (OBD_LIKELY(c != NULL))
        return c;
    /* What cannot be inflated yet must not take the place of another. */
    obd_spans_stored(b->spans, i, &at, &end);
    if (!obd_presence_here(&b->presence, at, end - at)) {
        fault->at = at;
        fault->want = end - at;
        *status = OBD_ABSENT;
        return NULL;
    }
    c = obd_chunk_claim(b->id, i, obd_spans_inflated(b->spans, i), &fill);
    if (c == NULL)
        *status = OBD_NOMEM;
    else if (fill)
        *status = inflate_span(b, i, c->data, scratch, fault);
    if (c == NULL || !fill)
        return c;
    obd_chunk_settle(c, *status == OBD_OK);
    return *status == OBD_OK ? c : NULL;
}

static int
read_spans(const struct obd_blob *b, struct want w,
           struct obd_scratch *scratch, struct obd_fault *fault)
{
    while (w.size > 0) {
        uint64_t i = obd_spans_find(b->spans, w.offset);
        int status;
        struct obd_chunk *c = chunk_of(b, i, scratch, fault, &status);

        if (c == NULL)
            return status;
        size_t skip = (size_t)(w.offset - b->spans->span[i].out);
        size_t part = c->size - skip < w.size ? c->size - skip : w.size;

        memcpy(w.buf, c->data + skip, part);
        obd_chunk_give(c);
        advance(&w, part);
    }
    return OBD_OK;
}

static int
read_turbo(const struct obd_blob *b, uint64_t offset, uint8_t *buf,
           size_t size, struct obd_scratch *scratch, struct obd_fault *fault)
{
    uint64_t bit = offset & OBD_TARGET_BIT;
    const struct obd_blob *one = side(b, &offset);
    int status = obd_blob_read(one, offset, buf, size, scratch, fault);

    if (OBD_UNLIKELY(status != OBD_OK)) {
        fault->at |= bit;
        fault->block |= bit;
    }
    return status;
}

bool
obd_blob_is_plain(const struct obd_blob *b)
{
    return b->jump == NULL && b->spans == NULL && b->target == NULL;
}

int
obd_blob_read_plain(const struct obd_blob *b, uint64_t offset, uint8_t *buf,
                    size_t size, struct obd_fault *fault)
{
    uint64_t end;

    if (OBD_LIKELY(obd_add(offset, size, &end) && end <= b->size))
        return load(b, b->offset + offset, buf, size, fault);
    fault->at = offset;
    fault->want = size;
    fault->got = b->size;
    return OBD_OUT_OF_RANGE;
}

int
obd_blob_read(const struct obd_blob *b, uint64_t offset, uint8_t *buf,
              size_t size, struct obd_scratch *scratch,
              struct obd_fault *fault)
{
    uint64_t end;

    if (OBD_UNLIKELY(b->target != NULL))
        return read_turbo(b, offset, buf, size, scratch, fault);
    if (!obd_add(offset, size, &end) || end > b->size) {
        fault->at = offset;
        fault->want = size;
        fault->got = b->size;
        return OBD_OUT_OF_RANGE;
    }
    if (OBD_UNLIKELY(b->spans != NULL))
        return read_spans(b, (struct want){ offset, buf, size }, scratch,
                          fault);
    if (b->jump == NULL)
        return load(b, b->offset + offset, buf, size, fault);
    return read_zfile(b, (struct want){ offset, buf, size }, scratch, fault);
}

int
obd_blob_pread(const struct obd_blob *b, uint64_t offset, uint8_t *buf,
               size_t size, struct obd_fault *fault)
{
    struct obd_scratch *s = obd_scratch_take();

    if (s == NULL)
        return OBD_NOMEM;
    int status = obd_blob_read(b, offset, buf, size, s, fault);
    obd_scratch_give(s);
    return status;
}

static int
check_plain(const struct obd_blob *b, struct obd_scratch *s,
            struct obd_fault *fault)
{
    int status = OBD_OK;

    for (uint64_t at = 0; status == OBD_OK && at < b->size;
         at += OBD_STORED_CAP)
        status = load(b, b->offset + at, s->stored,
                      (size_t)obd_min(OBD_STORED_CAP, b->size - at), fault);
    return status;
}

static int
check_zfile(const struct obd_blob *b, uint64_t first, uint64_t end,
            struct obd_scratch *s, struct obd_fault *fault)
{
    const struct obd_jump *j = b->jump;

    while (first < end) {
        uint64_t start = obd_jump_at(j, first), n = run_of(j, first, end - 1);

        fault->block = first;
        int status = load(b, b->offset + start, s->stored,
                          (size_t)(obd_jump_at(j, first + n) - start), fault);
        for (uint64_t i = first; status == OBD_OK && i < first + n; i++) {
            uint64_t at = obd_jump_at(j, i);

            status = obd_zblock_decode(&s->codec, j->algo, j->verify,
                                       s->stored + (at - start),
                                       (size_t)(obd_jump_at(j, i + 1) - at),
                                       s->block, obd_jump_inflated(j, i),
                                       fault);
            fault->block = i;
            if (status != OBD_OK)
                fault->at = b->offset + at;
        }
        if (status != OBD_OK)
            return status;
        first += n;
    }
    return OBD_OK;
}

/* Not through the cache: what is there was verified, and it is for reads. */
static int
check_spans(const struct obd_blob *b, uint64_t first, uint64_t end,
            struct obd_scratch *s, struct obd_fault *fault)
{
    uint8_t *buf = NULL;
    size_t capacity = 0;
    int status = OBD_OK;

    for (uint64_t i = first; status == OBD_OK && i < end; i++) {
        if (obd_spans_inflated(b->spans, i) > capacity) {
            capacity = obd_spans_inflated(b->spans, i);
            free(buf);
            buf = malloc(capacity);
        }
        status = buf == NULL ? OBD_NOMEM : inflate_span(b, i, buf, s, fault);
    }
    free(buf);
    return status;
}

int
obd_blob_check(const struct obd_blob *b, uint64_t first, uint64_t count,
               struct obd_fault *fault)
{
    struct obd_scratch *s = obd_scratch_take();
    int status;

    if (s == NULL)
        return OBD_NOMEM;
    if (b->jump == NULL && b->spans == NULL) {
        status = check_plain(b, s, fault);
    } else {
        uint64_t n = b->jump ? b->jump->nblocks : b->spans->n;

        first = obd_min(first, n);
        n = first + obd_min(count, n - first);
        status = b->jump ? check_zfile(b, first, n, s, fault)
                         : check_spans(b, first, n, s, fault);
    }
    obd_scratch_give(s);
    return status;
}

void
obd_blob_stored(const struct obd_blob *b, uint64_t offset, uint64_t size,
                uint64_t *file_offset, uint64_t *file_size)
{
    uint64_t bit = b->target ? offset & OBD_TARGET_BIT : 0;

    if (bit != 0) {
        obd_blob_stored(b->target, offset ^ bit, size, file_offset,
                        file_size);
        *file_offset |= bit;
        return;
    }
    b = side(b, &offset);
    const struct obd_jump *j = b->jump;

    if (b->spans != NULL) {
        uint64_t end, at;

        obd_spans_stored(b->spans, obd_spans_find(b->spans, offset),
                         file_offset, &end);
        obd_spans_stored(b->spans,
                         obd_spans_find(b->spans, offset + size - 1), &at,
                         &end);
        *file_size = end - *file_offset;
        return;
    }
    if (j == NULL) {
        *file_offset = b->offset + offset;
        *file_size = size;
        return;
    }
    uint64_t start = obd_jump_at(j, offset >> j->block_shift);
    uint64_t last = (offset + size - 1) >> j->block_shift;

    *file_offset = b->offset + start;
    *file_size = obd_jump_at(j, last + 1) - start;
}

void
obd_blob_span(const struct obd_blob *b, uint64_t i, uint64_t *file_offset,
              uint64_t *file_size)
{
    uint64_t end;

    obd_spans_stored(b->spans, i, file_offset, &end);
    *file_size = end - *file_offset;
}

uint64_t
obd_blob_block(const struct obd_blob *b)
{
    return b->jump != NULL ? UINT64_C(1) << b->jump->block_shift : 0;
}

uint64_t
obd_blob_step(const struct obd_blob *b, uint64_t offset)
{
    b = side(b, &offset);
    unsigned shift = b->jump ? b->jump->block_shift : b->presence.shift;
    uint64_t step = UINT64_C(1) << shift;

    if (b->presence.here == NULL)
        return b->size - offset;
    if (b->spans != NULL)
        return b->spans->span[obd_spans_find(b->spans, offset) + 1].out
               - offset;
    return obd_min(step - (offset & (step - 1)), b->size - offset);
}

const uint8_t *
obd_blob_window(const struct obd_blob *b, uint64_t offset, uint64_t *size)
{
    uint64_t end;

    b = side(b, &offset);
    if (!obd_blob_is_plain(b) || b->presence.here != NULL
        || !obd_add(offset, *size, &end) || end > b->size)
        return NULL;
    /* What is mapped is no part of what the blob is. */
    return obd_window_find((struct obd_window *)&b->window, b->fd,
                           b->offset + b->size, b->offset + offset, size);
}
