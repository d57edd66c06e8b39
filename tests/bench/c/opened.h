/* SPDX-License-Identifier: Apache-2.0 */
/* opened - a layer and its device without Python, and a bare loop beside it.
 *
 * The layers come from the engine's own writer in the same run, so nothing of
 * them is checked here that the core does not check.
 */

#ifndef BENCH_OPENED_H
#define BENCH_OPENED_H

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <lz4.h>
#include <zstd.h>

#include "bytes.h"
#include "crc32c.h"
#include "device.h"
#include "record.h"
#include "timing.h"
#include "zblock.h"

#define SLOT 512
#define TRAILER 4096

struct opened {
    const char *name;
    int fd;
    struct obd_jump *jump;      /* a second one for the bare loop, or NULL */
    struct obd_blob *blob;
    struct obd_segmap *map;
    struct obd_device *device;
    uint64_t size;              /* of the disk, bytes */
    ZSTD_DCtx *zstd;
    uint8_t *stored;            /* for the bare loop */
};

static inline void
must(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "failed: %s\n", what);
        exit(1);
    }
}

static inline void
must_pread(int fd, void *buf, size_t size, uint64_t at)
{
    must(pread(fd, buf, size, (off_t)at) == (ssize_t)size, "pread");
}

/* The table of a ZFile, as its trailer has it; NULL when it is none. */
static inline struct obd_jump *
load_jump(int fd, uint64_t file_size)
{
    uint8_t t[SLOT];
    struct obd_fault fault;

    must_pread(fd, t, sizeof t, file_size - SLOT);
    if (memcmp(t, "ZFile", 5) != 0)
        return NULL;
    uint64_t at = obd_load64(t + 40), n = obd_load64(t + 48);
    unsigned shift = (unsigned)__builtin_ctz(obd_load32(t + 72));
    struct obd_jump *j = need(obd_jump_new(t[76], t[88], shift,
                                           obd_load64(t + 56), SLOT, at));
    uint8_t *table = need(malloc(n * 4));

    must_pread(fd, table, n * 4, at);
    must(obd_jump_feed(j, table, n, &fault) == OBD_OK
         && obd_jump_finish(j, &fault) == OBD_OK, "table of blocks");
    free(table);
    return j;
}

static inline void
load_index(struct opened *o)
{
    uint8_t t[TRAILER];
    struct obd_fault fault;
    size_t kept;
    uint64_t end = obd_blob_size(o->blob);

    must(obd_blob_pread(o->blob, end - TRAILER, t, sizeof t, &fault)
         == OBD_OK && memcmp(t, "LSMT", 4) == 0, "trailer");
    uint64_t at = obd_load64(t + 32), n = obd_load64(t + 40);
    uint8_t *raw = need(malloc(n * OBD_RECORD_SIZE + 1));
    struct obd_segment *s = need(malloc((n + 1) * sizeof *s));
    struct obd_bounds bounds = { obd_load64(t + 48) >> OBD_SECTOR_SHIFT, 8,
                                 at >> OBD_SECTOR_SHIFT };

    must(obd_blob_pread(o->blob, at, raw, n * OBD_RECORD_SIZE, &fault)
         == OBD_OK && obd_record_unpack(raw, n, &bounds, s, &kept, &fault)
         == OBD_OK, "index");
    o->size = obd_load64(t + 48);
    o->map = need(obd_segmap_new(s, kept));
    free(raw);
    free(s);
}

static inline struct opened
open_layer(const char *name, const char *path)
{
    struct opened o = { .name = name, .fd = open(path, O_RDONLY) };

    must(o.fd >= 0, path);
    uint64_t size = (uint64_t)lseek(o.fd, 0, SEEK_END);
    struct obd_jump *jump = load_jump(o.fd, size);

    o.jump = load_jump(o.fd, size);
    o.blob = need(jump ? obd_blob_new_zfile(o.fd, 0, jump)
                  : obd_blob_new_plain(o.fd, 0, size));
    load_index(&o);
    o.device = need(obd_device_new(&o.blob, 1, o.map, NULL, o.size));
    o.zstd = need(ZSTD_createDCtx());
    o.stored = need(malloc((size_t)4 << 20));
    return o;
}

/* Where in the layer's stream a byte of the disk is stored; it must be. */
static inline uint64_t
stream_offset(const struct opened *o, uint64_t offset)
{
    uint64_t sector = offset >> OBD_SECTOR_SHIFT;
    const struct obd_segment *s =
        &o->map->segments[obd_segmap_find(o->map, sector)];

    must(obd_start(s) <= sector, "no data there");
    return (obd_moffset(s) + sector - obd_start(s)) << OBD_SECTOR_SHIFT;
}

/* What nobody who reads these blocks can do without: one pread, the sums,
 * the codec.  Inflates count blocks from first to out.
 */
static inline void
bare_blocks(const struct opened *o, uint64_t first, uint64_t count,
            uint8_t *out)
{
    const struct obd_jump *j = o->jump;
    uint64_t at = obd_jump_at(j, first);
    size_t whole = (size_t)1 << j->block_shift;

    must_pread(o->fd, o->stored, obd_jump_at(j, first + count) - at, at);
    for (uint64_t i = first; i < first + count; i++, out += whole) {
        const uint8_t *src = o->stored + (obd_jump_at(j, i) - at);
        size_t n = obd_jump_at(j, i + 1) - obd_jump_at(j, i) - OBD_CRC_SIZE;
        size_t size = obd_jump_inflated(j, i);

        must(obd_crc32c(OBD_BLOCK_SEED, src, n) == obd_load32(src + n), "crc");
        if (j->algo == OBD_ALGO_LZ4)
            must(LZ4_decompress_safe((const char *)src, (char *)out, (int)n,
                                     (int)size) == (int)size, "lz4");
        else
            must(ZSTD_decompressDCtx(o->zstd, out, size, src, n) == size,
                 "zstd");
    }
}

#endif
