/* SPDX-License-Identifier: Apache-2.0 */
/* write - the core's upper beside a plain pwrite, without Python.
 *
 * write ROUNDS PAIRS FOLDER DISK LAYER writes 4 KiB pages at random, half of
 * the disk's, over DISK (copied into FOLDER) and over LAYER, which must hold
 * the same.  It prints samples for "flat" (pwrite on the copy), "holes"
 * (pwrite on an empty file), "append", "reuse" (append that keeps no garbage)
 * and "sparse".  In seconds:
 *   first  a write to a page that was not written before
 *   over   a write to a page that was, long ago and flushed
 *   read   a read of any page of the disk
 *   pair   a write to such a page and a flush
 * All must then hold the same bytes, or it fails.
 */

#include "opened.h"
#include "uppers.h"

#define PAGE ((size_t)4096)
#define LARGE ((size_t)1 << 20)

struct bench {
    const char *folder;
    const struct opened *base;
    int disk;
    uint64_t pairs;
    uint64_t half;              /* pages that are written */
    uint64_t *pages;            /* all of the disk's, shuffled */
    uint8_t *page;              /* what is written */
    uint8_t *buf;
    uint8_t *want;
};

/* A file, or an upper over the base. */
struct rival {
    const char *name;
    int fd;
    struct made made;
    uint64_t state;             /* of its own random numbers */
    uint64_t stamp;
};

static void
put(const struct bench *b, struct rival *r, uint64_t page)
{
    struct obd_fault fault;

    memcpy(b->page, &r->stamp, sizeof r->stamp);
    r->stamp++;
    if (r->made.device)
        must(obd_device_write(r->made.device, page * PAGE, b->page, PAGE,
                              &fault) == OBD_OK, "write");
    else
        must(pwrite(r->fd, b->page, PAGE, (off_t)(page * PAGE))
             == (ssize_t)PAGE, "pwrite");
}

static void
get(struct rival *r, uint64_t offset, uint8_t *buf, size_t size)
{
    struct obd_fault fault;

    if (r->made.device)
        must(obd_device_read(r->made.device, offset, buf, size, &fault)
             == OBD_OK, "read");
    else
        must_pread(r->fd, buf, size, offset);
}

static void
flush(struct rival *r)
{
    struct obd_fault fault;

    if (r->made.device)
        must(obd_upper_flush(r->made.upper, &fault) == OBD_OK, "flush");
    else
        must(fdatasync(r->fd) == 0, "fdatasync");
}

static void
shuffle(struct rival *r, uint64_t *pages, uint64_t n)
{
    for (uint64_t i = n; i > 1; i--) {
        uint64_t other = random_below(&r->state, i), page = pages[i - 1];

        pages[i - 1] = pages[other];
        pages[other] = page;
    }
}

/* Every page of the chosen half once. */
static double
pass(const struct bench *b, struct rival *r)
{
    shuffle(r, b->pages, b->half);
    double began = seconds();

    for (uint64_t i = 0; i < b->half; i++)
        put(b, r, b->pages[i]);
    return (seconds() - began) / (double)b->half;
}

static double
reads(const struct bench *b, struct rival *r)
{
    uint64_t n = b->half;
    double began = seconds();

    for (uint64_t i = 0; i < n; i++)
        get(r, b->pages[random_below(&r->state, 2 * n)] * PAGE, b->buf, PAGE);
    return (seconds() - began) / (double)n;
}

static double
pairs(const struct bench *b, struct rival *r)
{
    double began = seconds();

    for (uint64_t i = 0; i < b->pairs; i++) {
        put(b, r, b->pages[random_below(&r->state, b->half)]);
        flush(r);
    }
    return (seconds() - began) / (double)b->pairs;
}

/* What was overwritten is handed out as garbage by the second flush after. */
static void
settle(const struct bench *b, struct rival *r)
{
    for (int i = 0; i < 3; i++) {
        put(b, r, b->pages[0]);
        flush(r);
    }
}

/* As two files that were written to alike. */
static void
same(const struct bench *b, struct rival *one, struct rival *other)
{
    for (uint64_t at = 0; at < b->base->size; at += LARGE) {
        get(one, at, b->want, LARGE);
        get(other, at, b->buf, LARGE);
        must(memcmp(b->want, b->buf, LARGE) == 0, other->name);
    }
}

static void
measure(const struct bench *b, struct rival *r)
{
    /* All write the same pages in the same order, whoever comes first. */
    for (uint64_t i = 0; i < 2 * b->half; i++)
        b->pages[i] = i;
    shuffle(r, b->pages, 2 * b->half);
    sample(r->name, "first", pass(b, r));
    flush(r);
    (void)pass(b, r);
    settle(b, r);
    sample(r->name, "over", pass(b, r));
    settle(b, r);
    sample(r->name, "read", reads(b, r));
    sample(r->name, "pair", pairs(b, r));
}

static struct rival
make_file(const struct bench *b, const char *name, int full)
{
    struct rival r = { .name = name, .fd = temporary(b->folder) };

    must(ftruncate(r.fd, (off_t)b->base->size) == 0, "ftruncate");
    for (uint64_t at = 0; full && at < b->base->size; at += LARGE) {
        must_pread(b->disk, b->buf, LARGE, at);
        must(pwrite(r.fd, b->buf, LARGE, (off_t)at) == LARGE, "copy");
    }
    flush(&r);
    return r;
}

static struct rival
make_over(const struct bench *b, const char *name, int in_place,
          uint64_t allowance)
{
    return (struct rival){
        .name = name,
        .made = make_upper(b->folder, b->base, in_place, allowance),
    };
}

static void
drop(struct rival *r)
{
    if (r->made.device)
        drop_upper(&r->made);
    else
        close(r->fd);
}

static void
one_round(const struct bench *b)
{
    struct rival flat = make_file(b, "flat", 1);

    measure(b, &flat);
    for (int i = 0; i < 4; i++) {
        struct rival r = i == 0 ? make_file(b, "holes", 0)
                         : i == 1 ? make_over(b, "append", 0, UINT64_MAX / 2)
                         : i == 2 ? make_over(b, "reuse", 0, 0)
                         : make_over(b, "sparse", 1, 0);

        measure(b, &r);
        if (r.made.device)
            same(b, &flat, &r);
        drop(&r);
    }
    drop(&flat);
}

int
main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    struct opened base = open_layer("base", argv[5]);
    struct bench b = {
        .folder = argv[3],
        .base = &base,
        .disk = open(argv[4], O_RDONLY),
        .pairs = strtoull(argv[2], NULL, 10),
        .half = base.size / PAGE / 2,
        .pages = need(calloc(base.size / PAGE, sizeof(uint64_t))),
        .page = need(aligned_alloc(PAGE, PAGE)),
        .buf = need(aligned_alloc(PAGE, LARGE)),
        .want = need(aligned_alloc(PAGE, LARGE)),
    };

    must(b.disk >= 0, argv[4]);
    must(lseek(b.disk, 0, SEEK_END) == (off_t)base.size, "size");
    must_pread(b.disk, b.page, PAGE, base.size / 2);
    for (int round = 0; round < atoi(argv[1]); round++)
        one_round(&b);
    return 0;
}
