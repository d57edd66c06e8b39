/* SPDX-License-Identifier: Apache-2.0 */
/* core - the C core under libFuzzer: no input may break what headers promise.
 *
 * The first byte of the input chooses what the rest is:
 *
 *   0  index     the entries of three layers: unpack, merge, look up
 *   1  block     one stored block: inflate
 *   2  table     block lengths and the blocks: a layer's stream, read
 *   3  disk      a table, blocks and an index: the layer as a disk, read
 *   4  log       the index file of a writable layer: replay, write, replay
 *   5  requests  what an NBD client sends after negotiation
 *
 * seeds.py makes such inputs from the golden images.
 */

#undef NDEBUG
#include <assert.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "blob.h"
#include "bytes.h"
#include "device.h"
#include "export.h"
#include "merge.h"
#include "record.h"
#include "segmap.h"
#include "upper.h"
#include "wire.h"
#include "zblock.h"

#define MAX_INPUT (256 << 10)

/* What is left of the input; past its end everything is 0. */
struct input {
    const uint8_t *p;
    size_t n;
};

static const uint8_t *
take(struct input *in, size_t n)
{
    const uint8_t *p = in->p;

    assert(n <= in->n);
    in->p += n;
    in->n -= n;
    return p;
}

static uint64_t
number(struct input *in, size_t bytes)
{
    uint8_t raw[8] = { 0 };
    size_t n = bytes < in->n ? bytes : in->n;

    memcpy(raw, take(in, n), n);
    return obd_load64(raw);
}

/* A copy of n bytes that ends where the allocation ends. */
static uint8_t *
copy(struct input *in, size_t n)
{
    uint8_t *p = malloc(n ? n : 1);

    n = n < in->n ? n : in->n;
    assert(p != NULL);
    memcpy(p, take(in, n), n);
    return p;
}

/* ---- index ---- */

static bool
unpacked(struct input *in, size_t n, const struct obd_bounds *b,
         struct obd_segment **out, size_t *count)
{
    struct obd_fault f;

    n = n < in->n / OBD_RECORD_SIZE ? n : in->n / OBD_RECORD_SIZE;
    uint8_t *raw = copy(in, n * OBD_RECORD_SIZE);

    *out = malloc((n ? n : 1) * sizeof **out);
    assert(*out != NULL);
    int status = obd_record_unpack(raw, n, b, *out, count, &f);

    assert(status == OBD_OK || f.at < n);
    free(raw);
    if (status != OBD_OK)
        free(*out);
    return status == OBD_OK;
}

static void
in_order(const struct obd_segment *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert(obd_length(&s[i]) > 0);
        assert(i == 0 || obd_start(&s[i]) >= obd_end(&s[i - 1]));
    }
}

static void
look_up(const struct obd_segment *s, size_t n)
{
    struct obd_segmap *m = obd_segmap_new(s, n);

    assert(m != NULL);
    for (size_t i = 0; i < n; i++) {
        assert(obd_segmap_search(m, obd_start(&s[i])) == i);
        assert(obd_segmap_search(m, obd_end(&s[i]) - 1) == i);
        assert(obd_segmap_search(m, obd_end(&s[i])) == i + 1);
    }
    assert(obd_segmap_memory(m) < 4096 + 400 * n);
    obd_segmap_free(m);
}

static void
fuzz_index(struct input *in)
{
    struct obd_bounds b = { number(in, 7), number(in, 1), number(in, 7) };
    struct obd_segment *layers[3], *merged;
    size_t counts[3], k = 0, n, total = 0;

    for (; k < 3 && unpacked(in, (size_t)number(in, 1), &b, &layers[k],
                             &counts[k]); k++) {
        in_order(layers[k], counts[k]);
        total += counts[k];
    }
    if (k > 0) {
        assert(obd_merge((const struct obd_segment *const *)layers, counts, k,
                         &merged, &n) == OBD_OK);
        assert(n <= 2 * total);
        in_order(merged, n);
        look_up(merged, n);
        free(merged);
    }
    while (k > 0)
        free(layers[--k]);
}

/* ---- block ---- */

static void
fuzz_block(struct input *in)
{
    int algo = (int)(1 + number(in, 1) % 2), verify = number(in, 1) & 1;
    size_t size = (size_t)(1 + number(in, 2)), n = in->n;
    uint8_t *src = copy(in, n), *dst = malloc(size);
    struct obd_fault f;

    assert(dst != NULL);
    int status = obd_zblock_decode_one(algo, verify, src, n, dst, size, &f);

    assert(status == OBD_OK || status == OBD_BAD_BLOCK
           || status == OBD_BAD_CRC || status == OBD_BAD_LENGTH);
    free(src);
    free(dst);
}

/* ---- table, disk ---- */

/* The table that comes next, fed in two pieces; NULL when it is refused. */
static struct obd_jump *
table(struct input *in)
{
    int algo = (int)(1 + number(in, 1) % 2), verify = number(in, 1) & 1;
    unsigned shift = (unsigned)(12 + number(in, 1) % 5);
    uint64_t size = number(in, 8), first = number(in, 2);
    uint64_t end = number(in, 8);
    size_t n = (size_t)number(in, 2), cut = (size_t)number(in, 1);
    struct obd_fault f;

    n = n < in->n / 4 ? n : in->n / 4;
    cut = cut < n ? cut : n;
    uint8_t *raw = copy(in, 4 * n);
    struct obd_jump *j = obd_jump_new(algo, verify, shift, size, first, end);

    assert(j != NULL);
    if (obd_jump_feed(j, raw, cut, &f) != OBD_OK
        || obd_jump_feed(j, raw + 4 * cut, n - cut, &f) != OBD_OK
        || obd_jump_finish(j, &f) != OBD_OK) {
        obd_jump_free(j);
        j = NULL;
    }
    free(raw);
    return j;
}

static int
file_of(struct input *in)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    size_t n = in->n;

    assert(fd >= 0);
    assert(write(fd, take(in, n), n) == (ssize_t)n);
    return fd;
}

/* Read all in one, and again in odd pieces: the bytes are the same. */
static void
read_stream(const struct obd_blob *b)
{
    size_t size = (size_t)obd_min(obd_blob_size(b), 1 << 20);
    uint8_t *whole = malloc(size + 1), *piece = malloc(5001);
    struct obd_fault f;

    assert(whole != NULL && piece != NULL);
    if (obd_blob_pread(b, 0, whole, size, &f) == OBD_OK)
        for (size_t at = 0; at < size; at += 5001) {
            size_t n = size - at < 5001 ? size - at : 5001;

            assert(obd_blob_pread(b, at, piece, n, &f) == OBD_OK);
            assert(memcmp(piece, whole + at, n) == 0);
        }
    (void)!obd_blob_check(b, 0, UINT64_MAX, &f);
    assert(obd_blob_pread(b, obd_blob_size(b), piece, 1, &f)
           == OBD_OUT_OF_RANGE);
    free(whole);
    free(piece);
}

static void
fuzz_table(struct input *in)
{
    uint64_t offset = number(in, 2);
    struct obd_jump *j = table(in);

    if (j == NULL)
        return;
    int fd = file_of(in);
    struct obd_blob *b = obd_blob_new_zfile(fd, offset, j);

    assert(b != NULL);
    read_stream(b);
    obd_blob_free(b);
    close(fd);
}

static void
read_disk(const struct obd_device *d, uint64_t size)
{
    struct obd_extent e[4];
    struct obd_range ranges[4];
    struct obd_fault f;
    uint8_t buf[3000];
    uint64_t at = 0;
    size_t n;

    for (int step = 0; step < 200 && at < size; step++) {
        assert(obd_device_extents(d, at, size - at, e, 4, &n, &f) == OBD_OK);
        assert(n > 0 && e[0].offset == at);
        for (size_t i = 0; i < n; i++) {
            size_t part = (size_t)obd_min(e[i].size, sizeof buf);

            assert(e[i].offset == at && e[i].size > 0);
            int status = obd_device_read(d, at, buf, part, &f);

            /* What reads as zeros needs no file, so it cannot fail. */
            if (e[i].flags & OBD_EXTENT_ZERO)
                for (size_t k = 0; k < part; k++)
                    assert(status == OBD_OK && buf[k] == 0);
            at += e[i].size;
        }
        assert(at <= size);
    }
    assert(obd_device_ranges(d, 0, size, 0, ranges, 4, &n, &f) == OBD_OK);
}

static void
fuzz_disk(struct input *in)
{
    uint64_t size = number(in, 4), offset = number(in, 2);
    struct obd_jump *j = table(in);

    if (j == NULL)
        return;
    struct obd_bounds bounds = { (size + 511) / 512, 8, j->size / 512 };
    struct obd_segment *s;
    size_t n;

    if (!unpacked(in, (size_t)number(in, 1), &bounds, &s, &n)) {
        obd_jump_free(j);
        return;
    }
    int fd = file_of(in);
    struct obd_blob *b = obd_blob_new_zfile(fd, offset, j);
    struct obd_segmap *m = obd_segmap_new(s, n);

    assert(b != NULL && m != NULL);
    struct obd_device *d = obd_device_new(&b, 1, m, NULL, size);

    assert(d != NULL);
    read_disk(d, size);
    obd_device_free(d);
    obd_segmap_free(m);
    obd_blob_free(b);
    close(fd);
    free(s);
}

/* ---- log ---- */

#define LOG_DISK 2048           /* sectors */
#define LOG_HEADER 4096

/* What each sector must have: 0 nothing, 1 zeros, else its moffset + 2. */
struct painted {
    uint64_t at[LOG_DISK];
    uint64_t disk_end;
    uint64_t data_sectors;
    bool in_place;
};

static void
paint(struct painted *p, const uint8_t *raw)
{
    struct obd_segment s = { obd_load64(raw), obd_load64(raw + 8) };
    uint64_t end = obd_start(&s) + obd_length(&s);

    if (obd_start(&s) == OBD_PADDING_START || obd_length(&s) == 0
        || end > p->disk_end)
        return;
    if (!obd_zeroed(&s)
        && (obd_moffset(&s) < LOG_HEADER / 512
            || obd_moffset(&s) + obd_length(&s) > p->data_sectors
            || (p->in_place
                && obd_moffset(&s) != LOG_HEADER / 512 + obd_start(&s))))
        return;
    for (uint64_t i = obd_start(&s); i < end; i++)
        p->at[i] = obd_zeroed(&s) ? 1 : 2 + obd_moffset(&s)
                                        + (i - obd_start(&s));
}

static void
same_as_painted(struct obd_upper *u, const struct painted *p)
{
    struct obd_segment s[8];
    uint64_t at = 0, upto;

    while (at < p->disk_end) {
        size_t n = obd_upper_collect(u, at, p->disk_end, s, 8, &upto);

        for (size_t i = 0; i < n; i++) {
            for (; at < obd_start(&s[i]); at++)
                assert(p->at[at] == 0);
            for (; at < obd_end(&s[i]); at++)
                assert(p->at[at] == (obd_zeroed(&s[i]) ? 1
                       : 2 + obd_moffset(&s[i]) + at - obd_start(&s[i])));
        }
        for (; at < upto; at++)
            assert(p->at[at] == 0);
    }
}

static struct obd_upper *
replayed(const struct painted *p, const int *fds, int repair)
{
    struct obd_upper_setup setup = {
        .disk_end = p->disk_end, .data_limit = UINT64_C(1) << 30,
        .data_fd = fds[0], .index_fd = fds[1], .in_place = p->in_place,
    };
    off_t end = lseek(fds[1], 0, SEEK_END);
    size_t n = (size_t)(end - LOG_HEADER) / OBD_RECORD_SIZE;
    uint8_t *raw = malloc(n * OBD_RECORD_SIZE + 1);
    struct obd_upper *u = obd_upper_new(&setup, NULL);
    struct obd_fault f;

    assert(raw != NULL && u != NULL);
    assert(pread(fds[1], raw, n * OBD_RECORD_SIZE, LOG_HEADER)
           == (ssize_t)(n * OBD_RECORD_SIZE));
    assert(obd_upper_replay(u, raw, n, p->data_sectors, repair, &f)
           == OBD_OK);
    free(raw);
    return u;
}

/* Write, zero and flush as the input says.  What is read after another replay
 * is what was there.
 */
static void
change(struct input *in, struct obd_upper *u, uint64_t disk_end)
{
    static const uint8_t data[16 * 512];
    struct obd_fault f;

    while (in->n > 0) {
        uint64_t kind = number(in, 1), start = number(in, 2) % disk_end;
        uint64_t length = obd_min(1 + kind % 16, disk_end - start);

        if (kind < 120)
            assert(obd_upper_write(u, start, length, data, &f) == OBD_OK);
        else if (kind < 200)
            assert(obd_upper_zero(u, start, length, &f) == OBD_OK);
        else
            assert(obd_upper_flush(u, &f) == OBD_OK);
    }
    assert(obd_upper_flush(u, &f) == OBD_OK);
}

static void
same_after(struct obd_upper *u, const struct painted *p, const int *fds)
{
    struct obd_segment s[LOG_DISK], again[LOG_DISK];
    struct obd_upper_facts facts;
    uint64_t upto;
    struct painted now = *p;

    now.data_sectors = (uint64_t)lseek(fds[0], 0, SEEK_END) / 512;
    struct obd_upper *next = replayed(&now, fds, 0);
    size_t n = obd_upper_collect(u, 0, p->disk_end, s, LOG_DISK, &upto);

    obd_upper_facts(next, &facts);
    assert(facts.empty + facts.beyond_disk + facts.dangling == 0);
    assert(facts.segments == n);
    assert(obd_upper_collect(next, 0, p->disk_end, again, LOG_DISK, &upto)
           == n);
    for (size_t i = 0; i < n; i++) {
        assert(s[i].lo == again[i].lo);
        assert(obd_zeroed(&s[i]) ? obd_zeroed(&again[i])
                                 : s[i].hi == again[i].hi);
    }
    obd_upper_free(next);
}

static void
fuzz_log(struct input *in)
{
    static uint8_t header[LOG_HEADER];
    struct painted p = { .disk_end = 1 + number(in, 2) % LOG_DISK };
    int fds[2] = { memfd_create("data", MFD_CLOEXEC),
                   memfd_create("index", MFD_CLOEXEC) };
    struct obd_fault f;

    p.data_sectors = number(in, 2) % 4096;
    p.in_place = number(in, 1) & 1;
    size_t n = (size_t)number(in, 2) % 512;

    n = n < in->n / OBD_RECORD_SIZE ? n : in->n / OBD_RECORD_SIZE;
    const uint8_t *raw = take(in, n * OBD_RECORD_SIZE);

    for (size_t i = 0; i < n; i++)
        paint(&p, raw + i * OBD_RECORD_SIZE);
    assert(ftruncate(fds[0], (off_t)p.data_sectors * 512) == 0);
    assert(write(fds[1], header, sizeof header) == sizeof header);
    assert(write(fds[1], raw, n * OBD_RECORD_SIZE)
           == (ssize_t)(n * OBD_RECORD_SIZE));
    struct obd_upper *u = replayed(&p, fds, 1);

    same_as_painted(u, &p);
    assert(obd_upper_start(u, p.data_sectors, &f) == OBD_OK);
    change(in, u, p.disk_end);
    same_after(u, &p, fds);
    obd_upper_free(u);
    close(fds[0]);
    close(fds[1]);
}

/* ---- Requests ---- */

#define SERVED_SECTORS 512

/* A client: says all it has to say, and takes all replies at the same time. */
struct client {
    uint8_t *says;
    size_t n;
    int fd;
};

static void *
say(void *arg)
{
    struct client *c = arg;

    for (size_t done = 0; done < c->n;) {
        ssize_t r = send(c->fd, c->says + done, c->n - done, MSG_NOSIGNAL);

        if (r <= 0)
            break;
        done += (size_t)r;
    }
    (void)shutdown(c->fd, SHUT_WR);
    return NULL;
}

static void *
listen_to(void *arg)
{
    static uint8_t buf[65536];

    while (recv(((struct client *)arg)->fd, buf, sizeof buf, 0) > 0)
        ;
    return NULL;
}

/* Requests in the input's words, but mostly with the magic. */
static void
invent(struct input *in, struct client *c)
{
    size_t cap = 16 * (in->n + NBD_REQUEST_SIZE) + (1 << 18);

    c->says = calloc(1, cap);
    while (in->n > 0 && cap - c->n > NBD_REQUEST_SIZE + (1 << 17)) {
        uint8_t *p = c->says + c->n, odd = (uint8_t)number(in, 1);
        uint64_t size = number(in, 2) << (odd & 4);

        obd_put32(p, odd == 0xff ? 0 : NBD_REQUEST_MAGIC);
        obd_put16(p + 4, (uint16_t)(odd & 8 ? number(in, 2) : 0));
        obd_put16(p + 6, (uint16_t)(number(in, 1) % 10));
        obd_put64(p + 8, c->n);
        obd_put64(p + 16, number(in, odd & 1 ? 8 : 2) << (odd & 2));
        obd_put32(p + 24, (uint32_t)size);
        c->n += NBD_REQUEST_SIZE;
        if (obd_get16(p + 6) == NBD_CMD_WRITE && size <= 1 << 17)
            c->n += size;
    }
}

static void
serve(struct obd_device *d, int fd, unsigned kind)
{
    struct obd_port *port = obd_port_new();
    struct obd_call call = { 0 };
    struct obd_export *x;
    enum obd_export_event e;

    obd_port_use(port, d, kind & 1);
    x = obd_export_new(&(struct obd_export_setup){
        .port = port, .size = SERVED_SECTORS * 512, .fd = fd,
        .writable = kind & 1, .structured = kind & 2,
        .has_allocation = kind & 2, .has_layer = kind & 4 });
    while ((e = obd_export_serve(x, &call, 1)) != OBD_EXPORT_OVER)
        if (e == OBD_EXPORT_CALL)
            obd_export_answer(x, &call, NBD_EIO, NULL, "no");
    obd_call_clear(&call);
    obd_export_free(x);
    obd_port_end(port);
}

static void
fuzz_requests(struct input *in)
{
    unsigned kind = (unsigned)number(in, 1);
    struct painted p = { .disk_end = SERVED_SECTORS, .data_sectors = 8 };
    int ends[2], fds[3] = { memfd_create("data", 0), memfd_create("index", 0),
                            memfd_create("below", 0) };
    struct obd_segment half = { UINT64_C(256) << OBD_START_BITS, 0 };
    struct obd_blob *below = obd_blob_new_plain(fds[2], 0, 256 * 512);
    struct obd_segmap *map = obd_segmap_new(&half, 1);
    pthread_t threads[2];
    struct obd_fault f;

    assert(ftruncate(fds[0], 4096) == 0 && ftruncate(fds[1], 4096) == 0
           && fallocate(fds[2], 0, 0, kind & 8 ? 1 << 15 : 1 << 17) == 0);
    struct obd_upper *u = replayed(&p, fds, 0);

    assert(obd_upper_start(u, 8, &f) == OBD_OK);
    struct obd_device *d
        = obd_device_new(&below, 1, map, u, SERVED_SECTORS * 512);
    assert(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    struct client c = { .fd = ends[0] };

    invent(in, &c);
    pthread_create(&threads[0], NULL, say, &c);
    pthread_create(&threads[1], NULL, listen_to, &c);
    serve(d, ends[1], kind);
    shutdown(ends[1], SHUT_RDWR);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    for (int i = 0; i < 5; i++)
        close(i < 2 ? ends[i] : fds[i - 2]);
    free(c.says);
    obd_device_free(d);
    obd_blob_free(below);
    obd_segmap_free(map);
    obd_upper_free(u);
}

extern int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const targets[])(struct input *) = {
        fuzz_index, fuzz_block, fuzz_table, fuzz_disk, fuzz_log, fuzz_requests,
    };
    struct input in = { data, size };

    if (size > 0 && size <= MAX_INPUT)
        targets[number(&in, 1) % 6](&in);
    return 0;
}
