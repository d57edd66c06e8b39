/* SPDX-License-Identifier: Apache-2.0 */
/* indexer - see indexer.h. */

#include "indexer.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "bytes.h"
#include "gunzip.h"
#include "spans.h"

struct obd_indexer {
    void *gunzip;
    ZSTD_DStream *unzstd;
    uint64_t span;
    uint64_t in;
    uint64_t out;
    uint64_t last_in;           /* of the last point */
    uint64_t last_out;
    bool pointed;               /* there was one */
    bool ended;                 /* a member or frame has */
};

struct obd_indexer *
obd_indexer_new(int kind, uint64_t span)
{
    struct obd_indexer *x = calloc(1, sizeof *x);

    if (x == NULL)
        return NULL;
    x->span = span;
    bool made;

    if (kind == OBD_SPANS_ZSTD) {
        x->unzstd = ZSTD_createDStream();
        made = x->unzstd != NULL;
        x->ended = true;        /* so that next() makes the first point */
    } else {
        made = obd_gunzip_begin(&x->gunzip, OBD_WBITS_MEMBER) != NULL;
    }
    if (!made) {
        obd_indexer_free(x);
        return NULL;
    }
    return x;
}

void
obd_indexer_free(struct obd_indexer *x)
{
    if (x == NULL)
        return;
    obd_gunzip_clear(&x->gunzip);
    ZSTD_freeDStream(x->unzstd);
    free(x);
}

/* Whether a point may be here: far enough from the last. */
static bool
is_due(const struct obd_indexer *x)
{
    return !x->pointed
           || (x->out - x->last_out >= x->span && x->in > x->last_in);
}

static void
point(struct obd_indexer *x, struct obd_index_step *step, int bits)
{
    x->pointed = true;
    x->last_in = x->in;
    x->last_out = x->out;
    step->event = OBD_INDEX_POINT;
    step->bits = bits;
}

static int
bad(const struct obd_indexer *x, struct obd_fault *fault, uint64_t how)
{
    fault->at = x->in;
    fault->got = how;
    return OBD_BAD_MEMBER;
}

static uint64_t
how_bad(const z_stream *z)
{
    if (z->msg == NULL)
        return 0;
    if (strcmp(z->msg, "incorrect data check") == 0)
        return 1;
    return strcmp(z->msg, "incorrect length check") == 0 ? 2 : 0;
}

static int
step_gzip(struct obd_indexer *x, const uint8_t *src, size_t n, uint8_t *dst,
          size_t cap, struct obd_index_step *step, struct obd_fault *fault)
{
    z_stream *z = x->gunzip;

    z->next_in = src;
    z->avail_in = (unsigned)n;
    z->next_out = dst;
    z->avail_out = (unsigned)cap;
    while (step->event == OBD_INDEX_NONE) {
        const uint8_t *was_in = z->next_in, *was_out = z->next_out;
        int r = inflate(z, Z_BLOCK);

        x->in += (uint64_t)(z->next_in - was_in);
        x->out += (uint64_t)(z->next_out - was_out);
        if (r == Z_STREAM_END)
            step->event = OBD_INDEX_END;
        else if (r != Z_OK && r != Z_BUF_ERROR)
            return bad(x, fault, how_bad(z));
        else if ((z->data_type & 128) && !(z->data_type & 64) && is_due(x)
                 && (z->next_in != was_in || z->next_out != was_out))
            point(x, step, z->data_type & 7);
        else if (z->avail_in == 0 || z->avail_out == 0)
            break;
    }
    step->used = n - z->avail_in;
    step->made = cap - z->avail_out;
    return OBD_OK;
}

static int
step_zstd(struct obd_indexer *x, const uint8_t *src, size_t n, uint8_t *dst,
          size_t cap, struct obd_index_step *step, struct obd_fault *fault)
{
    ZSTD_inBuffer in = { src, n, 0 };
    ZSTD_outBuffer out = { dst, cap, 0 };

    /* Once at least: it may still hold what was inflated before. */
    do {
        size_t was_in = in.pos, was_out = out.pos;
        size_t r = ZSTD_decompressStream(x->unzstd, &out, &in);

        x->in += in.pos - was_in;
        x->out += out.pos - was_out;
        if (ZSTD_isError(r))
            return bad(x, fault, 0);
        if (r == 0 && in.pos + out.pos > was_in + was_out)
            step->event = OBD_INDEX_END;
    } while (step->event == OBD_INDEX_NONE
             && in.pos < in.size && out.pos < out.size);
    step->used = in.pos;
    step->made = out.pos;
    return OBD_OK;
}

int
obd_indexer_step(struct obd_indexer *x, const uint8_t *src, size_t n,
                 uint8_t *dst, size_t cap, struct obd_index_step *step,
                 struct obd_fault *fault)
{
    if (n > INT_MAX || cap > INT_MAX)
        return OBD_BAD_ARGUMENT;
    *step = (struct obd_index_step){ 0 };
    x->ended = false;
    int status = x->unzstd
                 ? step_zstd(x, src, n, dst, cap, step, fault)
                 : step_gzip(x, src, n, dst, cap, step, fault);

    x->ended = step->event == OBD_INDEX_END;
    step->in = x->in;
    step->out = x->out;
    if (status == OBD_OK && (x->out - x->last_out > OBD_SPAN_MAX
                             || x->in - x->last_in > OBD_SPAN_STORED_MAX)) {
        fault->at = x->last_in;
        fault->got = x->out - x->last_out;
        fault->want = OBD_SPAN_MAX;
        status = OBD_POINT_FAR;
    }
    return status;
}

int
obd_indexer_next(struct obd_indexer *x, struct obd_index_step *step)
{
    *step = (struct obd_index_step){ .in = x->in, .out = x->out };
    if (!x->ended)
        return OBD_BAD_ARGUMENT;
    x->ended = false;
    if (x->gunzip && inflateReset2(x->gunzip, OBD_WBITS_MEMBER) != Z_OK)
        return OBD_NOMEM;
    if (is_due(x))
        point(x, step, OBD_POINT_MEMBER);
    return OBD_OK;
}

void
obd_indexer_window(struct obd_indexer *x, uint8_t *dst)
{
    unsigned size = 0;

    memset(dst, 0, OBD_WINDOW_SIZE);
    if (x->gunzip == NULL)
        return;
    uint8_t found[OBD_WINDOW_SIZE];

    if (inflateGetDictionary(x->gunzip, found, &size) == Z_OK)
        memcpy(dst + OBD_WINDOW_SIZE - size, found, size);
}
