/* SPDX-License-Identifier: Apache-2.0 */
/* spans - compressed files read from within: all bytes, by many, and refused. */

#include <pthread.h>
#include <zlib.h>
#include <zstd.h>

#include "blob.h"
#include "bytes.h"
#include "check.h"
#include "chunks.h"
#include "crc32c.h"
#include "indexer.h"
#include "record.h"
#include "spans.h"

#define SIZE 700000
#define SPAN 50000

/* A compressed file, its index, and what it must inflate to. */
struct packed {
    uint8_t *plain;
    uint8_t *file;
    size_t file_size;
    uint8_t *table;             /* entries, */
    size_t points;
    uint8_t *windows;           /* and the windows, as they are */
    uint8_t *sums;
    int kind;
    int fd;
    int index_fd;
};

/* Half text, half noise: windows matter, and blocks are of all sizes. */
static void
fill(uint8_t *p, size_t n)
{
    struct chance r = { 77 };

    for (size_t i = 0; i < n; i++) {
        if (i >= 4000 && chance_below(&r, 20) != 0)
            p[i] = p[i - 1 - i % 3999];
        else
            p[i] = (uint8_t)chance_next(&r);
    }
}

static size_t
deflate_member(const uint8_t *src, size_t n, uint8_t *dst, size_t cap)
{
    z_stream z = { 0 };

    SAME(deflateInit2(&z, 6, Z_DEFLATED, 31, 1, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (void *)(uintptr_t)src;
    z.avail_in = (unsigned)n;
    z.next_out = dst;
    z.avail_out = (unsigned)cap;
    SAME(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t made = cap - z.avail_out;

    deflateEnd(&z);
    return made;
}

/* Compress n bytes in parts of that size. */
static void
compress_parts(struct packed *p, size_t n, size_t part)
{
    size_t cap = 2 * n + 4096;

    p->file = grab(cap);
    p->file_size = 0;
    for (size_t at = 0; at < n; at += part) {
        size_t size = n - at < part ? n - at : part;
        uint8_t *to = p->file + p->file_size;
        size_t room = cap - p->file_size;

        p->file_size += p->kind == OBD_SPANS_ZSTD
                        ? ZSTD_compress(to, room, p->plain + at, size, 3)
                        : deflate_member(p->plain + at, size, to, room);
    }
}

static void
add_point(struct packed *p, struct obd_indexer *x,
          const struct obd_index_step *s)
{
    bool member = s->bits == OBD_POINT_MEMBER;
    uint8_t *e = p->table + p->points * OBD_POINT_SIZE;

    obd_store64(e, s->out);
    obd_store64(e + 8, s->in);
    obd_store64(e + 16, p->points * OBD_WINDOW_SIZE);
    e[24] = (uint8_t)s->bits;
    obd_store32(e + 25, member ? 0 : OBD_WINDOW_SIZE);
    obd_indexer_window(x, p->windows + p->points * OBD_WINDOW_SIZE);
    p->points++;
}

/* Inflate all of the file in odd steps, compare, and note the points. */
static void
make_index(struct packed *p)
{
    int base = p->kind == OBD_SPANS_ZSTD ? OBD_SPANS_ZSTD : OBD_SPANS_GZIP;
    struct obd_indexer *x = obd_indexer_new(base, SPAN);
    uint8_t *out = grab(10000);
    struct obd_index_step s;
    struct obd_fault f;
    size_t in = 0, done = 0;

    assert(x != NULL);
    if (base == OBD_SPANS_ZSTD) {
        SAME(obd_indexer_next(x, &s), OBD_OK);
        add_point(p, x, &s);
    }
    for (;;) {
        size_t n = p->file_size - in < 3333 ? p->file_size - in : 3333;

        SAME(obd_indexer_step(x, p->file + in, n, out, 10000, &s, &f),
             OBD_OK);
        assert(memcmp(out, p->plain + done, s.made) == 0);
        in += s.used;
        done += s.made;
        SAME(s.in, in);
        SAME(s.out, done);
        if (s.event == OBD_INDEX_END) {
            if (in == p->file_size)
                break;
            SAME(obd_indexer_next(x, &s), OBD_OK);
        }
        if (s.event == OBD_INDEX_POINT)
            add_point(p, x, &s);
    }
    SAME(done, SIZE);
    obd_indexer_free(x);
    free(out);
}

static void
make_sums(struct packed *p)
{
    for (size_t i = 0; i < p->points; i++) {
        const uint8_t *e = p->table + i * OBD_POINT_SIZE;
        uint64_t from = obd_load64(e);
        uint64_t to = i + 1 < p->points ? obd_load64(e + OBD_POINT_SIZE)
                                        : SIZE;

        obd_store32(p->sums + 4 * i,
                    obd_crc32c(0, p->plain + from, to - from));
    }
}

static void
packed_make(struct packed *p, int kind, size_t part)
{
    size_t most = SIZE / SPAN + 3;

    *p = (struct packed){ .kind = kind };
    p->plain = grab(SIZE);
    fill(p->plain, SIZE);
    compress_parts(p, SIZE, part);
    p->table = grab(most * OBD_POINT_SIZE);
    p->windows = grab(most * OBD_WINDOW_SIZE);
    p->sums = grab(most * 4);
    make_index(p);
    make_sums(p);
    p->fd = file_of(p->file, p->file_size);
    p->index_fd = file_of(p->windows, p->points * OBD_WINDOW_SIZE);
}

static struct obd_spans *
spans_of(const struct packed *p)
{
    struct obd_spans *s = obd_spans_new(p->kind, 0, p->index_fd,
                                        p->points * OBD_WINDOW_SIZE, SIZE,
                                        p->file_size);

    assert(s != NULL);
    return s;
}

static struct obd_blob *
blob_of(const struct packed *p, bool sums)
{
    struct obd_spans *s = spans_of(p);
    struct obd_fault f;

    SAME(obd_spans_feed(s, p->table, p->points, &f), OBD_OK);
    SAME(obd_spans_finish(s, &f), OBD_OK);
    if (sums)
        SAME(obd_spans_sum(s, p->sums, p->points), OBD_OK);
    struct obd_blob *b = obd_blob_new_spans(p->fd, s);

    assert(b != NULL);
    return b;
}

static void
packed_free(struct packed *p)
{
    close(p->fd);
    close(p->index_fd);
    free(p->plain);
    free(p->file);
    free(p->table);
    free(p->windows);
    free(p->sums);
}

static void
read_some(const struct packed *p, const struct obd_blob *b, unsigned seed,
          int times)
{
    struct chance r = { seed };
    uint8_t *buf = grab(SIZE);
    struct obd_fault f;

    for (int i = 0; i < times; i++) {
        size_t at = chance_below(&r, SIZE);
        size_t most = i % 10 == 0 ? SIZE : 5000;
        size_t n = chance_below(&r, (SIZE - at < most ? SIZE - at : most) + 1);

        SAME(obd_blob_pread(b, at, buf, n, &f), OBD_OK);
        assert(memcmp(buf, p->plain + at, n) == 0);
    }
    free(buf);
}

static void
read_packed(int kind, size_t part)
{
    struct packed p;
    struct obd_fault f;
    size_t budget;

    packed_make(&p, kind, part);
    struct obd_blob *b = blob_of(&p, true);

    assert(p.points > 3);
    read_some(&p, b, 5, 300);
    SAME(obd_blob_check(b, 0, UINT64_MAX, &f), OBD_OK);
    obd_chunks_limit(1 << 18);
    assert(obd_chunks_memory(&budget) <= 1 << 18);
    read_some(&p, b, 6, 100);
    obd_chunks_limit(OBD_CHUNKS_BUDGET);
    obd_blob_free(b);
    SAME(obd_chunks_memory(&budget), 0);
    SAME(budget, OBD_CHUNKS_BUDGET);
    packed_free(&p);
    obd_scratch_drain();
}

TEST(spans_of_one_member)
{
    read_packed(OBD_SPANS_GZIP, SIZE);
}

TEST(spans_of_members_larger_than_a_span)
{
    read_packed(OBD_SPANS_MEMBERS, 210000);
}

TEST(spans_of_small_members)
{
    read_packed(OBD_SPANS_MEMBERS, 7000);
}

TEST(spans_of_zstd_frames)
{
    read_packed(OBD_SPANS_ZSTD, 30000);
}

struct reader {
    const struct packed *packed;
    const struct obd_blob *blob;
    unsigned seed;
};

static void *
read_on_thread(void *argument)
{
    const struct reader *r = argument;

    read_some(r->packed, r->blob, r->seed, 60);
    return NULL;
}

TEST(spans_by_many_threads_with_little_room)
{
    struct packed p;
    pthread_t threads[6];
    struct reader readers[6];

    packed_make(&p, OBD_SPANS_MEMBERS, 90000);
    struct obd_blob *b = blob_of(&p, true);

    obd_chunks_limit(3 << 18);
    for (unsigned i = 0; i < 6; i++) {
        readers[i] = (struct reader){ &p, b, i + 1 };
        SAME(pthread_create(&threads[i], NULL, read_on_thread, &readers[i]),
             0);
    }
    for (unsigned i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    obd_chunks_limit(OBD_CHUNKS_BUDGET);
    obd_blob_free(b);
    packed_free(&p);
    obd_scratch_drain();
}

TEST(spans_that_are_absent)
{
    struct packed p;
    struct obd_fault f;
    uint8_t buf[100];
    uint64_t at, size, end;

    packed_make(&p, OBD_SPANS_GZIP, SIZE);
    struct obd_blob *b = blob_of(&p, false);
    struct obd_presence *here = obd_blob_presence(b);

    SAME(obd_presence_begin(here, p.file_size, 12), OBD_OK);
    obd_blob_stored(b, 400000, 100, &at, &size);
    assert(at > 0 && at + size < p.file_size);
    SAME(obd_blob_pread(b, 400000, buf, 100, &f), OBD_ABSENT);
    SAME(f.at, at);
    SAME(f.want, size);
    assert(!obd_blob_present(b, at, size));
    end = (at + size + 4095) / 4096 * 4096;
    obd_presence_mark(here, at / 4096 * 4096, end - at / 4096 * 4096);
    SAME(obd_blob_pread(b, 400000, buf, 100, &f), OBD_OK);
    assert(memcmp(buf, p.plain + 400000, 100) == 0);
    assert(obd_blob_step(b, 400000) <= 2 * SPAN);
    SAME(obd_blob_pread(b, 0, buf, 100, &f), OBD_ABSENT);
    obd_blob_free(b);
    packed_free(&p);
    obd_scratch_drain();
}

/* The status of reading all of a file in which a byte was changed, or which
 * was cut.
 */
static int
read_changed(struct packed *p, bool sums, size_t at, size_t size)
{
    struct obd_fault f;
    uint8_t *buf = grab(SIZE);
    int good = p->fd;

    p->file[at] ^= 0x55;
    p->fd = file_of(p->file, size);
    p->file[at] ^= 0x55;
    struct obd_blob *b = blob_of(p, sums);
    int status = obd_blob_pread(b, 0, buf, SIZE, &f);

    assert(status != OBD_OK || memcmp(buf, p->plain, SIZE) == 0);
    close(p->fd);
    p->fd = good;
    obd_blob_free(b);
    free(buf);
    return status;
}

TEST(spans_that_are_damaged)
{
    struct packed p;

    packed_make(&p, OBD_SPANS_GZIP, SIZE);
    for (size_t at = 100; at + 100 < p.file_size; at += 2003) {
        int status = read_changed(&p, true, at, p.file_size);

        /* Bits of the code that ends a block are nobody's data. */
        assert(status == OBD_BAD_BLOCK || status == OBD_BAD_CRC
               || status == OBD_OK);
    }
    SAME(read_changed(&p, true, 0, p.file_size / 2), OBD_SHORT);
    packed_free(&p);
    packed_make(&p, OBD_SPANS_ZSTD, 60000);
    int status = read_changed(&p, true, p.file_size / 2, p.file_size);

    assert(status == OBD_BAD_BLOCK || status == OBD_BAD_CRC);
    packed_free(&p);
    obd_scratch_drain();
}

TEST(spans_that_leave_members_out)
{
    struct packed p;
    struct obd_fault f;
    uint8_t buf[10];

    packed_make(&p, OBD_SPANS_MEMBERS, SIZE / 2);
    /* As overlaybd would index it: nothing of the second member. */
    struct obd_spans *s = obd_spans_new(OBD_SPANS_GZIP, 0, p.index_fd,
                                        p.points * OBD_WINDOW_SIZE, SIZE / 2,
                                        p.file_size);
    size_t first = 0;

    while (obd_load64(p.table + first * OBD_POINT_SIZE) < SIZE / 2)
        first++;
    SAME(obd_spans_feed(s, p.table, first, &f), OBD_OK);
    SAME(obd_spans_finish(s, &f), OBD_OK);
    struct obd_blob *b = obd_blob_new_spans(p.fd, s);

    SAME(obd_blob_pread(b, 0, buf, 10, &f), OBD_OK);
    SAME(obd_blob_pread(b, SIZE / 2 - 10, buf, 10, &f), OBD_MORE_MEMBERS);
    obd_blob_free(b);
    packed_free(&p);
    obd_scratch_drain();
}

/* What feeding and finishing says of a table with one entry changed. */
static int
feed_changed(const struct packed *p, size_t entry, size_t field, size_t size,
             uint64_t value)
{
    size_t n = p->points * OBD_POINT_SIZE;
    uint8_t *table = grab(n);
    struct obd_spans *s = spans_of(p);
    struct obd_fault f;

    memcpy(table, p->table, n);
    for (size_t i = 0; i < size; i++)
        table[entry * OBD_POINT_SIZE + field + i] = (uint8_t)(value >> 8 * i);
    int status = obd_spans_feed(s, table, p->points, &f);

    if (status == OBD_OK)
        status = obd_spans_finish(s, &f);
    else
        SAME(f.block, entry);
    obd_spans_free(s);
    free(table);
    return status;
}

TEST(spans_that_lie)
{
    struct packed p;
    uint64_t huge = UINT64_MAX;

    packed_make(&p, OBD_SPANS_GZIP, SIZE);
    SAME(feed_changed(&p, 0, 0, 0, 0), OBD_OK);
    SAME(feed_changed(&p, 0, 0, 8, 1), OBD_POINT_ORDER);
    SAME(feed_changed(&p, 3, 0, 8, 0), OBD_POINT_ORDER);
    SAME(feed_changed(&p, 3, 8, 8, 0), OBD_POINT_ORDER);
    SAME(feed_changed(&p, 3, 0, 8, huge), OBD_POINT_FAR);
    SAME(feed_changed(&p, 3, 0, 8, SIZE + 1), OBD_POINT_BEYOND);
    SAME(feed_changed(&p, 3, 8, 8, huge), OBD_POINT_FAR);
    SAME(feed_changed(&p, 3, 8, 8, p.file_size), OBD_POINT_BEYOND);
    SAME(feed_changed(&p, 3, 24, 1, 8), OBD_POINT_BITS);
    SAME(feed_changed(&p, 3, 24, 1, OBD_POINT_MEMBER), OBD_POINT_BITS);
    SAME(feed_changed(&p, 3, 25, 4, 0), OBD_POINT_WINDOW);
    SAME(feed_changed(&p, 3, 25, 4, OBD_WINDOW_SIZE + 1), OBD_POINT_WINDOW);
    SAME(feed_changed(&p, 3, 16, 8, huge), OBD_POINT_WINDOW);
    packed_free(&p);
}

TEST(turbo_blob_has_two_sides)
{
    struct packed p;
    struct obd_fault f;
    uint8_t plain[5000], buf[200];
    uint64_t at, size;

    fill(plain, sizeof plain);
    packed_make(&p, OBD_SPANS_GZIP, SIZE);
    int fd = file_of(plain, sizeof plain);
    struct obd_blob *meta = obd_blob_new_plain(fd, 0, sizeof plain);
    struct obd_blob *target = blob_of(&p, true);
    struct obd_blob *b = obd_blob_new_turbo(meta, target);
    uint64_t bit = OBD_TARGET_BIT;

    SAME(obd_blob_size(b), sizeof plain);
    SAME(obd_blob_pread(b, 300, buf, 200, &f), OBD_OK);
    assert(memcmp(buf, plain + 300, 200) == 0);
    SAME(obd_blob_pread(b, bit | 600000, buf, 200, &f), OBD_OK);
    assert(memcmp(buf, p.plain + 600000, 200) == 0);
    SAME(obd_blob_pread(b, bit | (SIZE - 1), buf, 2, &f), OBD_OUT_OF_RANGE);
    assert(f.at & bit);
    SAME(obd_blob_pread(b, 4999, buf, 2, &f), OBD_OUT_OF_RANGE);
    assert(!(f.at & bit));
    obd_blob_stored(b, bit | 600000, 10, &at, &size);
    assert((at & bit) && obd_blob_present(b, at, size));
    SAME(obd_presence_begin(obd_blob_presence(target), p.file_size, 12),
         OBD_OK);
    assert(!obd_blob_present(b, at, size) && obd_blob_present(b, 0, 5000));
    assert(obd_blob_step(b, bit | 600000) <= 2 * SPAN);
    assert(obd_blob_memory(b) > obd_blob_memory(target));
    obd_blob_free(b);
    obd_blob_free(target);
    obd_blob_free(meta);
    close(fd);
    packed_free(&p);
    obd_scratch_drain();
}

TEST(turbo_tags_count_from_the_smallest)
{
    struct obd_bounds bounds = { 1000, 8, 100 };
    uint8_t raw[4 * OBD_RECORD_SIZE];
    struct obd_segment rows[4] = {
        entry(0, 10, 8, 0), entry(10, 10, 500, 0), entry(20, 5, 0, 1),
        { .lo = OBD_PADDING_START, .hi = 0 },
    }, out[4];
    struct obd_fault f;
    size_t n;

    for (uint8_t least = 0; least < 254; least = (uint8_t)(least + 50)) {
        for (size_t i = 0; i < 4; i++) {
            obd_store64(raw + 16 * i, rows[i].lo);
            obd_store64(raw + 16 * i + 8, rows[i].hi);
            raw[16 * i + 15] = (uint8_t)(least + (i == 1));
        }
        SAME(obd_record_unpack_turbo(raw, 4, &bounds, 510, out, &n, &f),
             OBD_OK);
        SAME(n, 3);
        SAME(obd_moffset(&out[0]), 8);
        SAME(obd_moffset(&out[1]), OBD_TARGET_MOFFSET | 500);
        SAME(out[2].hi, rows[2].hi);
        SAME(obd_record_unpack_turbo(raw, 4, &bounds, 509, out, &n, &f),
             OBD_BEYOND_DATA);
        SAME(f.at, 1);
        raw[31] = (uint8_t)(least + 2);
        SAME(obd_record_unpack_turbo(raw, 4, &bounds, 510, out, &n, &f),
             OBD_BAD_TAG);
    }
}
