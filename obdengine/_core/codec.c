/* SPDX-License-Identifier: Apache-2.0 */
/* codec - see codec.h. */

#include "codec.h"

#include <limits.h>
#include <lz4.h>
#include <lz4hc.h>
#include <stdlib.h>
#include <zstd.h>

#include "gunzip.h"

#define LZ4HC_FROM 3

bool
obd_codec_known(int algo)
{
    return algo == OBD_ALGO_LZ4 || algo == OBD_ALGO_ZSTD;
}

size_t
obd_codec_bound(int algo, size_t size)
{
    if (algo == OBD_ALGO_ZSTD)
        return ZSTD_compressBound(size);
    return (size_t)LZ4_compressBound((int)size);
}

static int
inflate_lz4(const uint8_t *src, size_t n, uint8_t *dst, size_t size,
            uint64_t *got)
{
    if (n > INT_MAX || size > INT_MAX)
        return OBD_BAD_ARGUMENT;
    int r = LZ4_decompress_safe((const char *)src, (char *)dst, (int)n,
                                (int)size);
    *got = r < 0 ? 0 : (uint64_t)r;
    return OBD_OK;
}

static int
inflate_zstd(struct obd_codec *c, const uint8_t *src, size_t n,
             uint8_t *dst, size_t size, uint64_t *got)
{
    if (c->inflate == NULL)
        c->inflate = ZSTD_createDCtx();
    if (c->inflate == NULL)
        return OBD_NOMEM;
    size_t r = ZSTD_decompressDCtx(c->inflate, dst, size, src, n);
    *got = ZSTD_isError(r) ? 0 : r;
    return OBD_OK;
}

int
obd_codec_inflate(struct obd_codec *c, int algo, const uint8_t *src, size_t n,
                  uint8_t *dst, size_t size, struct obd_fault *fault)
{
    uint64_t got = 0;
    int status;

    if (algo == OBD_ALGO_LZ4)
        status = inflate_lz4(src, n, dst, size, &got);
    else if (algo == OBD_ALGO_ZSTD)
        status = inflate_zstd(c, src, n, dst, size, &got);
    else
        status = OBD_BAD_ARGUMENT;
    if (status == OBD_OK && got != size) {
        fault->got = got;
        fault->want = size;
        status = OBD_BAD_BLOCK;
    }
    return status;
}

static int
deflate_lz4(int level, const uint8_t *src, size_t n, uint8_t *dst,
            size_t cap, size_t *stored)
{
    int r;

    if (level >= LZ4HC_FROM)
        r = LZ4_compress_HC((const char *)src, (char *)dst, (int)n, (int)cap,
                            level);
    else
        r = LZ4_compress_default((const char *)src, (char *)dst, (int)n,
                                 (int)cap);
    *stored = r > 0 ? (size_t)r : 0;
    return r > 0 ? OBD_OK : OBD_NOMEM;
}

static int
deflate_zstd(struct obd_codec *c, int level, const uint8_t *src, size_t n,
             uint8_t *dst, size_t cap, size_t *stored)
{
    if (c->deflate == NULL)
        c->deflate = ZSTD_createCCtx();
    if (c->deflate == NULL)
        return OBD_NOMEM;
    size_t r = ZSTD_compressCCtx(c->deflate, dst, cap, src, n, level);
    if (ZSTD_isError(r))
        return OBD_NOMEM;
    *stored = r;
    return OBD_OK;
}

int
obd_codec_deflate(struct obd_codec *c, int algo, int level,
                  const uint8_t *src, size_t n, uint8_t *dst, size_t cap,
                  size_t *stored)
{
    if (n > OBD_BLOCK_MAX || cap > INT_MAX)
        return OBD_BAD_ARGUMENT;
    if (algo == OBD_ALGO_LZ4)
        return deflate_lz4(level, src, n, dst, cap, stored);
    if (algo == OBD_ALGO_ZSTD)
        return deflate_zstd(c, level, src, n, dst, cap, stored);
    return OBD_BAD_ARGUMENT;
}

void
obd_codec_clear(struct obd_codec *c)
{
    ZSTD_freeDCtx(c->inflate);
    ZSTD_freeCCtx(c->deflate);
    obd_gunzip_clear(&c->gunzip);
    free(c->bulk);
    *c = (struct obd_codec){ 0 };
}
