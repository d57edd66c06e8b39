/* SPDX-License-Identifier: Apache-2.0 */
/* gunzip - see gunzip.h and spans.h; how a span is inflated. */

#include "gunzip.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "bytes.h"
#include "crc32c.h"
#include "file.h"
#include "spans.h"

#define TRAILER_SIZE 8          /* crc and size, behind a member */

z_stream *
obd_gunzip_begin(void **kept, int wbits)
{
    z_stream *z = *kept;

    if (z != NULL)
        return inflateReset2(z, wbits) == Z_OK ? z : NULL;
    z = calloc(1, sizeof *z);
    if (z == NULL || inflateInit2(z, wbits) != Z_OK) {
        free(z);
        return NULL;
    }
    *kept = z;
    return z;
}

void
obd_gunzip_clear(void **kept)
{
    if (*kept != NULL)
        inflateEnd(*kept);
    free(*kept);
    *kept = NULL;
}

/* One span on its way. */
struct job {
    const struct obd_spans *spans;
    const struct obd_loader *from;
    struct obd_scratch *scratch;
    struct obd_fault *fault;
    uint64_t number;
    uint64_t at;                /* what of the file is next, up to */
    uint64_t end;
    uint8_t *dst;
    size_t size;
    z_stream *z;
};

static int
bad(const struct job *j, size_t got)
{
    j->fault->got = got;
    j->fault->want = j->size;
    return OBD_BAD_BLOCK;
}

static size_t
done(const struct job *j)
{
    return j->size - j->z->avail_out;
}

/* More of the file into the scratch; OBD_BAD_BLOCK where it ends. */
static int
refill(struct job *j)
{
    size_t n = (size_t)obd_min(OBD_STORED_CAP, j->end - j->at);

    if (n == 0)
        return bad(j, j->z->avail_out > 0 ? done(j) : 0);
    int status = j->from->load(j->from->file, j->at, j->scratch->stored, n,
                               j->fault);

    j->at += n;
    j->z->next_in = j->scratch->stored;
    j->z->avail_in = (unsigned)n;
    return status;
}

/* Copy the next n bytes of the file to p, NULL for nowhere. */
static int
take(struct job *j, uint8_t *p, size_t n)
{
    while (n > 0) {
        int status = j->z->avail_in == 0 ? refill(j) : OBD_OK;

        if (status != OBD_OK)
            return status;
        size_t part = n < j->z->avail_in ? n : j->z->avail_in;

        if (p != NULL) {
            memcpy(p, j->z->next_in, part);
            p += part;
        }
        j->z->next_in += part;
        j->z->avail_in -= (unsigned)part;
        n -= part;
    }
    return OBD_OK;
}

/* The window of a point into the scratch's block. */
static int
load_window(const struct job *j, const struct obd_span *p)
{
    struct obd_scratch *s = j->scratch;
    uint8_t *to = j->spans->packed ? s->stored : s->block;
    int status = obd_file_read(j->spans->index_fd, p->window, to,
                               p->window_size, j->fault);

    if (status != OBD_OK || !j->spans->packed)
        return status;
    z_stream *z = obd_gunzip_begin(&s->codec.gunzip, OBD_WBITS_ZLIB);

    if (z == NULL)
        return OBD_NOMEM;
    z->next_in = to;
    z->avail_in = p->window_size;
    z->next_out = s->block;
    z->avail_out = OBD_WINDOW_SIZE;
    int r = inflate(z, Z_FINISH);
    size_t got = OBD_WINDOW_SIZE - z->avail_out;

    if (r == Z_STREAM_END && got == OBD_WINDOW_SIZE)
        return OBD_OK;
    j->fault->got = got;
    j->fault->want = OBD_WINDOW_SIZE;
    return OBD_BAD_WINDOW;
}

/* Make the decoder know what it knew at the point. */
static int
start(struct job *j, const struct obd_span *p)
{
    struct obd_scratch *s = j->scratch;
    bool member = p->bits == OBD_POINT_MEMBER;
    int status = member ? OBD_OK : load_window(j, p);

    if (status != OBD_OK)
        return status;
    j->z = obd_gunzip_begin(&s->codec.gunzip,
                            member ? OBD_WBITS_MEMBER : OBD_WBITS_RAW);
    if (j->z == NULL)
        return OBD_NOMEM;
    j->z->next_out = j->dst;
    j->z->avail_out = (unsigned)j->size;
    j->z->avail_in = 0;
    if (member)
        return OBD_OK;
    if (p->bits != 0) {
        uint8_t byte = 0;

        status = take(j, &byte, 1);
        if (status != OBD_OK)
            return status;
        (void)inflatePrime(j->z, p->bits, byte >> (8 - p->bits));
    }
    (void)inflateSetDictionary(j->z, s->block, OBD_WINDOW_SIZE);
    return OBD_OK;
}

/* After the last member in overlaybd's form there must not be another. */
static int
nothing_follows(struct job *j)
{
    uint8_t head[3];

    if (j->end - j->at + j->z->avail_in < TRAILER_SIZE + sizeof head)
        return OBD_OK;
    int status = take(j, NULL, TRAILER_SIZE);

    if (status == OBD_OK)
        status = take(j, head, sizeof head);
    if (status == OBD_OK && memcmp(head, "\x1f\x8b\x08", sizeof head) == 0)
        status = OBD_MORE_MEMBERS;
    return status;
}

/* All was inflated, and a member must end here: see that it does, by which
 * zlib verifies its crc if the span began with it.
 */
static int
end_member(struct job *j)
{
    for (;;) {
        int status = j->z->avail_in == 0 ? refill(j) : OBD_OK;

        if (status != OBD_OK)
            return status;
        int r = inflate(j->z, Z_NO_FLUSH);

        if (r == Z_STREAM_END)
            return OBD_OK;
        if ((r != Z_OK && r != Z_BUF_ERROR) || j->z->avail_in > 0)
            return bad(j, j->size + 1);
    }
}

static int
gunzip(struct job *j)
{
    const struct obd_spans *s = j->spans;
    const struct obd_span *p = &s->span[j->number];
    bool raw = p->bits != OBD_POINT_MEMBER, ended = false;
    int status = start(j, p);

    while (status == OBD_OK && j->z->avail_out > 0) {
        if (j->z->avail_in == 0 && (status = refill(j)) != OBD_OK)
            break;
        int r = inflate(j->z, Z_NO_FLUSH);

        if (r == Z_STREAM_END && j->z->avail_out == 0) {
            ended = true;
        } else if (r == Z_STREAM_END && s->kind == OBD_SPANS_MEMBERS) {
            /* A bare stream has left its trailer. */
            status = take(j, NULL, raw ? TRAILER_SIZE : 0);
            raw = false;
            if (inflateReset2(j->z, OBD_WBITS_MEMBER) != Z_OK)
                status = OBD_NOMEM;
        } else if (r != Z_OK && r != Z_BUF_ERROR) {
            status = bad(j, r == Z_STREAM_END ? done(j) : 0);
        }
    }
    bool last = j->number + 1 == s->n;

    if (status == OBD_OK && !ended
        && (last || p[1].bits == OBD_POINT_MEMBER))
        status = end_member(j);
    if (status == OBD_OK && last && s->kind == OBD_SPANS_GZIP)
        status = nothing_follows(j);
    return status;
}

/* Frames are inflated at once: a stream would take a window of its own, as
 * large as the file says.
 */
static int
unzstd(struct job *j)
{
    struct obd_codec *c = &j->scratch->codec;
    size_t n = (size_t)(j->end - j->at);

    if (c->bulk_size < n) {
        free(c->bulk);
        c->bulk = malloc(n);
        c->bulk_size = c->bulk == NULL ? 0 : n;
    }
    if (c->bulk == NULL)
        return OBD_NOMEM;
    int status = j->from->load(j->from->file, j->at, c->bulk, n, j->fault);

    if (status != OBD_OK)
        return status;
    status = obd_codec_inflate(c, OBD_ALGO_ZSTD, c->bulk, n, j->dst, j->size,
                               j->fault);
    return status;
}

int
obd_spans_inflate(const struct obd_spans *s, uint64_t i,
                  const struct obd_loader *from, uint8_t *dst,
                  struct obd_scratch *scratch, struct obd_fault *fault)
{
    struct job j = { .spans = s, .from = from, .scratch = scratch,
                     .fault = fault, .number = i, .dst = dst,
                     .size = obd_spans_inflated(s, i) };
    uint64_t at;

    obd_spans_stored(s, i, &j.at, &j.end);
    at = j.at;
    int status = s->kind == OBD_SPANS_ZSTD ? unzstd(&j) : gunzip(&j);

    if (status == OBD_OK && s->summed) {
        uint32_t crc = obd_crc32c(0, dst, j.size);

        if (crc != s->span[i].crc) {
            fault->got = crc;
            fault->want = s->span[i].crc;
            status = OBD_BAD_CRC;
        }
    }
    fault->block = i;
    if (status == OBD_BAD_BLOCK || status == OBD_BAD_CRC
        || status == OBD_BAD_WINDOW || status == OBD_MORE_MEMBERS)
        fault->at = at;
    return status;
}
