/* SPDX-License-Identifier: Apache-2.0 */
/* unzstd - see unzstd.h. */

#include "unzstd.h"

#include <zstd.h>
#include <zstd_errors.h>

/* struct obd_unzstd is zstd's own stream under our name. */
static ZSTD_DStream *
stream_of(struct obd_unzstd *u)
{
    return (ZSTD_DStream *)(void *)u;
}

struct obd_unzstd *
obd_unzstd_new(void)
{
    ZSTD_DStream *stream = ZSTD_createDStream();

    if (stream != NULL)
        (void)ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax,
                                     OBD_UNZSTD_WINDOW_LOG);
    return (struct obd_unzstd *)(void *)stream;
}

void
obd_unzstd_free(struct obd_unzstd *u)
{
    if (u != NULL)
        ZSTD_freeDStream(stream_of(u));
}

int
obd_unzstd_run(struct obd_unzstd *u, const uint8_t *src, size_t n,
               size_t *used, uint8_t *dst, size_t cap, size_t *made,
               int *ended)
{
    ZSTD_inBuffer in = {src, n, 0};
    ZSTD_outBuffer out = {dst, cap, 0};
    size_t r = ZSTD_decompressStream(stream_of(u), &out, &in);

    *used = in.pos;
    *made = out.pos;
    *ended = r == 0;
    if (!ZSTD_isError(r))
        return OBD_OK;
    switch (ZSTD_getErrorCode(r)) {
    case ZSTD_error_memory_allocation:
        return OBD_NOMEM;
    case ZSTD_error_frameParameter_windowTooLarge:
        return OBD_TOO_MANY;
    default:
        return OBD_BAD_BLOCK;
    }
}
