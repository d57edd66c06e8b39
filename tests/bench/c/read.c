/* SPDX-License-Identifier: Apache-2.0 */
/* read - the core's device beside a plain pread, without Python.
 *
 * read alone READS DISK NAME=LAYER... prints a sample for "flat" (pread of the
 * flat disk) and each layer: "random" is seconds for a read of 4 KiB that is
 * not all zeros, "again" the same of blocks that were just inflated for their
 * neighbours, "sequential" bytes of the disk a second in reads of 1 MiB; and
 * read both ... that with another CPU for helpers, "helped", and by two threads,
 * each with its half, "both".  NAME+bare is the loop of c/opened.h over the
 * same blocks.  All must return the bytes of the disk, or it fails.
 */

#include <pthread.h>

#include "opened.h"

#define SMALL ((size_t)4096)
#define LARGE ((size_t)1 << 20)
#define MOST_LAYERS 16

/* Reads at random that a rival makes before it is the next one's turn: what
 * else the machine does then hits all alike.  With turns of 500 a rival is
 * measured while its index comes back into the CPU's caches.
 */
#define TURN ((size_t)5000)

/* Blocks that are read again and again; they all fit in the cache. */
#define KEPT_BLOCKS ((size_t)48)

struct bench {
    int disk;
    uint64_t size;
    size_t reads;
    uint64_t *pages;            /* of the disk that are not all zeros */
    uint64_t npages;
    uint64_t offsets[TURN];     /* of the disk */
    uint64_t places[TURN];      /* of the layer's stream, for the bare loop */
    uint8_t *buf;
};

/* A hole is no work for us, and would be for the flat disk. */
static void
find_pages(struct bench *b)
{
    static const uint8_t zeros[SMALL];

    b->pages = need(calloc(b->size / SMALL, sizeof *b->pages));
    for (uint64_t at = 0; at + SMALL <= b->size; at += SMALL) {
        must_pread(b->disk, b->buf, SMALL, at);
        if (memcmp(b->buf, zeros, SMALL) != 0)
            b->pages[b->npages++] = at;
    }
    must(b->npages > 0, "nothing to read");
}

/* Other offsets for each turn, or whoever reads second finds them in the CPU's
 * caches.
 */
static void
choose_offsets(struct bench *b)
{
    static uint64_t state;

    for (size_t i = 0; i < TURN; i++)
        b->offsets[i] = b->pages[random_below(&state, b->npages)];
}

static void
device_read(const struct opened *o, uint64_t offset, uint8_t *buf, size_t n)
{
    struct obd_fault fault;

    must(obd_device_read(o->device, offset, buf, n, &fault) == OBD_OK,
         o->name);
}

/* All of the disk, and some pages by the bare loop, against the flat file. */
static void
verify(struct bench *b, const struct opened *o)
{
    uint8_t *want = need(malloc(LARGE));

    must(o->size == b->size, "size");
    for (uint64_t at = 0; at < b->size; at += LARGE) {
        must_pread(b->disk, want, LARGE, at);
        device_read(o, at, b->buf, LARGE);
        must(memcmp(want, b->buf, LARGE) == 0, o->name);
    }
    choose_offsets(b);
    for (size_t i = 0; o->jump && i < TURN; i++) {
        uint64_t place = stream_offset(o, b->offsets[i]);
        unsigned shift = o->jump->block_shift;

        must_pread(b->disk, want, SMALL, b->offsets[i]);
        bare_blocks(o, place >> shift, 1, b->buf);
        must(memcmp(want, b->buf + (place & ((UINT64_C(1) << shift) - 1)),
                    SMALL) == 0, "bare");
    }
    free(want);
}

/* ---- At random: seconds of a turn ---- */

static double
turn_of_flat(struct bench *b)
{
    choose_offsets(b);
    double began = seconds();

    for (size_t i = 0; i < TURN; i++)
        must_pread(b->disk, b->buf, SMALL, b->offsets[i]);
    return seconds() - began;
}

static double
turn_of_device(struct bench *b, const struct opened *o)
{
    choose_offsets(b);
    double began = seconds();

    for (size_t i = 0; i < TURN; i++)
        device_read(o, b->offsets[i], b->buf, SMALL);
    return seconds() - began;
}

/* The copy is part of it: somebody has to bring the bytes where they go. */
static double
turn_of_bare(struct bench *b, const struct opened *o)
{
    uint8_t *block = b->buf + LARGE;

    choose_offsets(b);
    for (size_t i = 0; i < TURN; i++)
        b->places[i] = stream_offset(o, b->offsets[i]);
    double began = seconds();

    for (size_t i = 0; i < TURN; i++) {
        uint64_t place = b->places[i];

        if (o->jump == NULL) {
            must_pread(o->fd, b->buf, SMALL, place);
            continue;
        }
        unsigned shift = o->jump->block_shift;
        uint64_t inside = place & ((UINT64_C(1) << shift) - 1);

        bare_blocks(o, place >> shift, 1, block);
        memcpy(b->buf, block + inside, SMALL);
    }
    return seconds() - began;
}

/* The other page of two that are in one block, or the same where it is not. */
static uint64_t
neighbour(const struct opened *o, uint64_t at)
{
    uint64_t other = at ^ SMALL, sector = other >> OBD_SECTOR_SHIFT;
    unsigned shift = o->jump->block_shift;
    const struct obd_segment *s =
        &o->map->segments[obd_segmap_find(o->map, sector)];

    if (obd_start(s) > sector || obd_end(s) <= sector
        || stream_offset(o, at) >> shift != stream_offset(o, other) >> shift)
        return at;
    return other;
}

/* One page of each of some blocks inflates them, another does not. */
static double
turn_of_again(struct bench *b, const struct opened *o)
{
    choose_offsets(b);
    for (size_t i = 0; i < KEPT_BLOCKS; i++)
        device_read(o, b->offsets[i], b->buf, SMALL);
    for (size_t i = 0; i < TURN; i++)
        b->offsets[i] = neighbour(o, b->offsets[i % KEPT_BLOCKS]);
    double began = seconds();

    for (size_t i = 0; i < TURN; i++)
        device_read(o, b->offsets[i], b->buf, SMALL);
    return seconds() - began;
}

static void
measure_random(struct bench *b, const struct opened *layers, size_t n)
{
    double flat = 0, own[MOST_LAYERS] = { 0 }, bare[MOST_LAYERS] = { 0 };
    double again[MOST_LAYERS] = { 0 };
    size_t turns = 2 * (b->reads / TURN / 2) + 2;
    double reads = (double)(turns * TURN);
    char name[64];

    for (size_t k = 0; k < turns; k++) {
        flat += turn_of_flat(b);
        for (size_t i = 0; i < n; i++) {
            /* Who comes second finds the kernel's part of it in the caches. */
            if (k % 2)
                bare[i] += turn_of_bare(b, &layers[i]);
            own[i] += turn_of_device(b, &layers[i]);
            if (k % 2 == 0)
                bare[i] += turn_of_bare(b, &layers[i]);
            if (layers[i].jump && layers[i].jump->block_shift > 12)
                again[i] += turn_of_again(b, &layers[i]);
        }
    }
    sample("flat", "random", flat / reads);
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%s+bare", layers[i].name);
        sample(layers[i].name, "random", own[i] / reads);
        sample(name, "random", bare[i] / reads);
        if (again[i] > 0)
            sample(layers[i].name, "again", again[i] / reads);
    }
}

/* ---- In order: bytes of the disk a second ---- */

static double
sequential_flat(const struct bench *b)
{
    double began = seconds();

    for (uint64_t at = 0; at < b->size; at += LARGE)
        must_pread(b->disk, b->buf, LARGE, at);
    return (double)b->size / (seconds() - began);
}

static double
sequential_device(const struct bench *b, const struct opened *o)
{
    double began = seconds();

    for (uint64_t at = 0; at < b->size; at += LARGE)
        device_read(o, at, b->buf, LARGE);
    return (double)b->size / (seconds() - began);
}

/* The layer's stream from end to end, which is all of the disk's data. */
static double
sequential_bare(const struct bench *b, const struct opened *o)
{
    uint64_t n = obd_jump_blocks(o->jump);
    uint64_t step = LARGE >> o->jump->block_shift;
    double began = seconds();

    for (uint64_t i = 0; i < n; i += step)
        bare_blocks(o, i, n - i < step ? n - i : step, b->buf);
    return (double)b->size / (seconds() - began);
}

struct half {
    const struct opened *layer;
    uint64_t offset;
    uint64_t end;
};

static void *
read_half(void *arg)
{
    const struct half *h = arg;
    uint8_t *buf = need(aligned_alloc(4096, LARGE));

    for (uint64_t at = h->offset; at < h->end; at += LARGE)
        device_read(h->layer, at, buf, LARGE);
    free(buf);
    return NULL;
}

static double
sequential_both(const struct bench *b, const struct opened *o)
{
    uint64_t middle = b->size / 2 & ~(LARGE - 1);
    struct half first = { o, 0, middle }, second = { o, middle, b->size };
    pthread_t other;
    double began = seconds();

    must(pthread_create(&other, NULL, read_half, &first) == 0, "thread");
    read_half(&second);
    must(pthread_join(other, NULL) == 0, "thread");
    return (double)b->size / (seconds() - began);
}

static void
measure_sequential(const struct bench *b, const struct opened *layers,
                   size_t n)
{
    char bare[64];

    sample("flat", "sequential", sequential_flat(b));
    for (size_t i = 0; i < n; i++) {
        const struct opened *o = &layers[i];

        sample(o->name, "sequential", sequential_device(b, o));
        snprintf(bare, sizeof bare, "%s+bare", o->name);
        if (o->jump)
            sample(bare, "sequential", sequential_bare(b, o));
    }
}

int
main(int argc, char **argv)
{
    if (argc < 5 || argc > 4 + MOST_LAYERS)
        return 2;
    static struct bench b;
    struct opened layers[MOST_LAYERS];
    size_t n = 0;

    b.disk = open(argv[3], O_RDONLY);
    must(b.disk >= 0, argv[3]);
    b.size = (uint64_t)lseek(b.disk, 0, SEEK_END);
    b.reads = strtoull(argv[2], NULL, 10);
    b.buf = need(aligned_alloc(4096, 2 * LARGE));
    find_pages(&b);
    for (int i = 4; i < argc; i++) {
        const char *name = strtok(argv[i], "=");

        layers[n] = open_layer(name, strtok(NULL, ""));
        verify(&b, &layers[n++]);
    }
    if (strcmp(argv[1], "both") == 0) {
        for (size_t i = 0; i < n; i++) {
            sample(layers[i].name, "helped", sequential_device(&b, &layers[i]));
            sample(layers[i].name, "both", sequential_both(&b, &layers[i]));
        }
        return 0;
    }
    measure_random(&b, layers, n);
    measure_sequential(&b, layers, n);
    return 0;
}
