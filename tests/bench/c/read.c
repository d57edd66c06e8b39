/* SPDX-License-Identifier: Apache-2.0 */
/* read - the core's device beside a plain pread, without Python.
 *
 * read ROUNDS READS DISK NAME=LAYER... prints samples for "flat" (pread of
 * the flat disk) and each layer: "random" is seconds for a read of 4 KiB that
 * is not all zeros, "sequential" bytes of the disk a second in reads of
 * 1 MiB.  NAME+bare is the loop of c/opened.h over the same blocks.  All must
 * return the bytes of the disk, or it fails.
 */

#include "opened.h"

#define SMALL ((size_t)4096)
#define LARGE ((size_t)1 << 20)
#define MOST_LAYERS 16

struct bench {
    int disk;
    uint64_t size;
    size_t reads;
    uint64_t *offsets;          /* of the disk */
    uint64_t *places;           /* of the layer's stream, for the bare loop */
    uint8_t *buf;
};

/* Other offsets than before, or whoever reads second finds them in the CPU's
 * caches; of pages that are not all zeros, because a hole is no work for us.
 */
static void
choose_offsets(const struct bench *b)
{
    static const uint8_t zeros[SMALL];
    static uint64_t state;
    uint8_t page[SMALL];

    for (size_t i = 0; i < b->reads;) {
        b->offsets[i] = SMALL * random_below(&state, b->size / SMALL);
        must_pread(b->disk, page, SMALL, b->offsets[i]);
        i += memcmp(page, zeros, SMALL) != 0;
    }
}

static void
device_read(const struct opened *o, uint64_t offset, uint8_t *buf, size_t n)
{
    struct obd_fault fault;

    must(obd_device_read(o->device, offset, buf, n, &fault) == OBD_OK,
         o->name);
}

/* All of the disk, and all offsets by the bare loop, against the flat file. */
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
    for (size_t i = 0; o->jump && i < b->reads; i++) {
        uint64_t place = stream_offset(o, b->offsets[i]);
        unsigned shift = o->jump->block_shift;

        must_pread(b->disk, want, SMALL, b->offsets[i]);
        bare_blocks(o, place >> shift, 1, b->buf);
        must(memcmp(want, b->buf + (place & ((UINT64_C(1) << shift) - 1)),
                    SMALL) == 0, "bare");
    }
    free(want);
}

static double
random_flat(const struct bench *b)
{
    choose_offsets(b);
    double began = seconds();

    for (size_t i = 0; i < b->reads; i++)
        must_pread(b->disk, b->buf, SMALL, b->offsets[i]);
    return (seconds() - began) / (double)b->reads;
}

static double
random_device(const struct bench *b, const struct opened *o)
{
    choose_offsets(b);
    double began = seconds();

    for (size_t i = 0; i < b->reads; i++)
        device_read(o, b->offsets[i], b->buf, SMALL);
    return (seconds() - began) / (double)b->reads;
}

/* The copy is part of it: somebody has to bring the bytes where they go. */
static double
random_bare(const struct bench *b, const struct opened *o)
{
    uint8_t *out = b->buf + LARGE;

    choose_offsets(b);
    for (size_t i = 0; i < b->reads; i++)
        b->places[i] = stream_offset(o, b->offsets[i]);
    double began = seconds();

    for (size_t i = 0; i < b->reads; i++) {
        uint64_t place = b->places[i];

        if (o->jump == NULL) {
            must_pread(o->fd, out, SMALL, place);
            continue;
        }
        unsigned shift = o->jump->block_shift;
        uint64_t inside = place & ((UINT64_C(1) << shift) - 1);

        bare_blocks(o, place >> shift, 1, b->buf);
        memcpy(out, b->buf + inside, SMALL);
    }
    return (seconds() - began) / (double)b->reads;
}

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

static void
measure(const struct bench *b, const struct opened *layers, size_t n)
{
    char bare[64];

    sample("flat", "random", random_flat(b));
    sample("flat", "sequential", sequential_flat(b));
    for (size_t i = 0; i < n; i++) {
        const struct opened *o = &layers[i];

        snprintf(bare, sizeof bare, "%s+bare", o->name);
        sample(o->name, "random", random_device(b, o));
        sample(bare, "random", random_bare(b, o));
        sample(o->name, "sequential", sequential_device(b, o));
        if (o->jump)
            sample(bare, "sequential", sequential_bare(b, o));
    }
}

int
main(int argc, char **argv)
{
    if (argc < 5 || argc > 4 + MOST_LAYERS)
        return 2;
    struct bench b = { .disk = open(argv[3], O_RDONLY) };
    struct opened layers[MOST_LAYERS];
    size_t n = 0;

    must(b.disk >= 0, argv[3]);
    b.size = (uint64_t)lseek(b.disk, 0, SEEK_END);
    b.reads = strtoull(argv[2], NULL, 10);
    b.offsets = need(calloc(b.reads, sizeof *b.offsets));
    b.places = need(calloc(b.reads, sizeof *b.places));
    b.buf = need(aligned_alloc(4096, 2 * LARGE));
    choose_offsets(&b);
    for (int i = 4; i < argc; i++) {
        const char *name = strtok(argv[i], "=");

        layers[n] = open_layer(name, strtok(NULL, ""));
        verify(&b, &layers[n++]);
    }
    for (int round = 0; round < atoi(argv[1]); round++)
        measure(&b, layers, n);
    return 0;
}
