/* SPDX-License-Identifier: Apache-2.0 */
/* blob - reads at the edges of blocks, after failures, and of absent bytes. */

#include "blob.h"
#include "bytes.h"
#include "check.h"
#include "device.h"
#include "stacks.h"
#include "zblock.h"

#define BLOCK 4096
#define NBLOCKS 5
#define SIZE (NBLOCKS * BLOCK - 100)

/* A ZFile of incompressible blocks, from the start of its file. */
struct zfile {
    uint8_t plain[SIZE];
    uint32_t lengths[NBLOCKS];
    size_t stored;
    int fd;
    struct obd_blob *blob;
};

static void
zfile_make(struct zfile *z, int algo, int verify)
{
    size_t cap = NBLOCKS * obd_zblock_bound(algo, BLOCK, verify);
    uint8_t *file = grab(cap), table[4 * NBLOCKS];
    struct chance r = { 20 };
    struct obd_fault f;

    for (size_t i = 0; i < SIZE; i++)
        z->plain[i] = (uint8_t)chance_next(&r);
    SAME(obd_zblock_encode(algo, 1, BLOCK, verify, z->plain, SIZE, file, cap,
                           z->lengths, &z->stored), OBD_OK);
    for (size_t i = 0; i < NBLOCKS; i++)
        obd_store32(table + 4 * i, z->lengths[i]);
    struct obd_jump *j = obd_jump_new(algo, verify, 12, SIZE, 0, z->stored);

    assert(j != NULL);
    SAME(obd_jump_feed(j, table, NBLOCKS, &f), OBD_OK);
    SAME(obd_jump_finish(j, &f), OBD_OK);
    z->fd = file_of(file, z->stored);
    z->blob = obd_blob_new_zfile(z->fd, 0, j);
    assert(z->blob != NULL);
    free(file);
}

static void
zfile_free(struct zfile *z)
{
    obd_blob_free(z->blob);
    close(z->fd);
}

/* Read into a buffer that just fits, and compare. */
static void
read_same(const struct zfile *z, size_t offset, size_t size)
{
    uint8_t *buf = grab(size);
    struct obd_fault f;

    SAME(obd_blob_pread(z->blob, offset, buf, size, &f), OBD_OK);
    SAME(memcmp(buf, z->plain + offset, size), 0);
    free(buf);
}

TEST(blob_reads_around_every_edge)
{
    struct zfile z;

    for (int algo = OBD_ALGO_LZ4; algo <= OBD_ALGO_ZSTD; algo++) {
        zfile_make(&z, algo, algo & 1);
        for (size_t a = 0; a <= SIZE + 1; a += BLOCK)
            for (size_t b = a; b <= SIZE + BLOCK; b += BLOCK)
                for (size_t k = 0; k < 9; k++) {
                    size_t from = a + k / 3 - (a > 0);
                    size_t to = b + k % 3 - (b > 0);

                    from = from < SIZE ? from : SIZE;
                    to = to < SIZE ? to : SIZE;
                    if (from <= to)
                        read_same(&z, from, to - from);
                }
        zfile_free(&z);
    }
}

/* A block that fails half way must not be taken for the one held before. */
TEST(blob_forgets_the_block_that_failed)
{
    struct zfile z;
    struct obd_fault f;
    uint8_t buf[10], half[2000] = { 0 };

    for (int algo = OBD_ALGO_LZ4; algo <= OBD_ALGO_ZSTD; algo++) {
        zfile_make(&z, algo, 0);
        SAME(pwrite(z.fd, half, 2000,
                    (off_t)(z.lengths[0] + z.lengths[1] - 2000)), 2000);
        /* Fewer bytes than a block needs, so that it ends too early. */
        SAME(pwrite(z.fd, "\x10x", 2, (off_t)z.lengths[0]), 2);
        read_same(&z, 5, 10);
        SAME(obd_blob_pread(z.blob, BLOCK + 5, buf, 10, &f), OBD_BAD_BLOCK);
        SAME(f.block, 1);
        SAME(f.at, z.lengths[0]);
        read_same(&z, 5, 10);
        read_same(&z, 100, 3000);
        zfile_free(&z);
    }
}

static bool
here(const struct obd_blob *b, uint64_t offset, uint64_t size)
{
    return obd_blob_present(b, offset, size);
}

TEST(blob_presence_is_in_whole_units)
{
    const uint64_t size = 10 * 4096 + 7;
    struct obd_blob *b = obd_blob_new_plain(0, 0, size);

    assert(b != NULL);
    struct obd_presence *p = obd_blob_presence(b);

    assert(here(b, 0, size));
    SAME(obd_presence_begin(p, size, 12), OBD_OK);
    SAME(obd_presence_begin(p, size, 12), OBD_BAD_ARGUMENT);
    assert(!here(b, 0, 1));
    obd_presence_mark(p, 1, 4095);
    obd_presence_mark(p, 4096, 4095);
    assert(!here(b, 1, 1) && !here(b, 4096, 1));
    obd_presence_mark(p, 4095, 4097);
    assert(!here(b, 4095, 1) && here(b, 4096, 4096) && !here(b, 8192, 1));
    assert(!here(b, 4095, 2) && !here(b, 8191, 2));
    /* The last unit is short: it is whole when the file's end is covered. */
    obd_presence_mark(p, 10 * 4096, 6);
    assert(!here(b, 10 * 4096, 1));
    obd_presence_mark(p, 10 * 4096, 7);
    assert(here(b, 10 * 4096, 7));
    obd_presence_mark(p, 0, UINT64_MAX);
    assert(here(b, 0, size));
    obd_presence_mark(p, 5, UINT64_MAX);
    obd_blob_free(b);
}

/* Which bytes of its file each layer must give, one flag a byte. */
static void
mark_needed(const struct stack *s, uint64_t offset, uint64_t size,
            uint8_t **needed)
{
    for (uint64_t at = offset; at < offset + size; at++) {
        uint64_t i = obd_segmap_find(s->map, at >> 9), from, n;
        const struct obd_segment *g = &s->map->segments[i];

        if (obd_start(g) > at >> 9 || obd_zeroed(g))
            continue;
        obd_blob_stored(s->blobs[obd_tag(g)],
                        (obd_moffset(g) << 9) + at - (obd_start(g) << 9), 1,
                        &from, &n);
        memset(needed[obd_tag(g)] + from, 1, n);
    }
}

static void
same_ranges(const struct stack *s, uint64_t offset, uint64_t size)
{
    uint8_t *needed[STACK_LAYERS];
    struct obd_range ranges[1000];
    struct obd_fault f;
    size_t n;

    for (size_t i = 0; i < s->nlayers; i++) {
        needed[i] = calloc(1, s->file_size[i] + 1);
        assert(needed[i] != NULL);
    }
    mark_needed(s, offset, size, needed);
    SAME(obd_device_ranges(s->device, offset, size, 0, ranges, 1000, &n, &f),
         OBD_OK);
    for (size_t i = 0; i < n; i++)
        for (uint64_t k = 0; k < ranges[i].size; k++) {
            uint8_t *byte = &needed[ranges[i].layer][ranges[i].offset + k];

            assert(*byte != 0);
            *byte = 2;
        }
    for (size_t i = 0; i < s->nlayers; i++) {
        assert(memchr(needed[i], 1, s->file_size[i]) == NULL);
        free(needed[i]);
    }
}

TEST(device_ranges_are_exact)
{
    struct chance r = { 21 };

    for (int round = 0; round < 25; round++) {
        struct stack s;

        stack_make(&s, &r);
        for (int i = 0; i < 8; i++) {
            uint64_t offset = chance_below(&r, s.size);
            uint64_t size = chance_below(&r, s.size - offset + 1);

            same_ranges(&s, offset, size < 150000 ? size : 150000);
        }
        stack_free(&s);
    }
}
