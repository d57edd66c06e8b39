/* SPDX-License-Identifier: Apache-2.0 */
/* stacks - see stacks.h. */

#include "stacks.h"

#include "bytes.h"
#include "merge.h"
#include "zblock.h"

#define SECTOR 512
#define LEAD 700                /* bytes before a payload, as of a wrapper */

/* The stream of one layer while it is made. */
struct stream {
    uint8_t *bytes;
    size_t size;
    struct obd_segment *segments;
    size_t n;
};

static void
put_run(struct stack *s, struct stream *t, struct chance *r, size_t layer,
        uint64_t start, uint64_t length)
{
    uint8_t *to = s->flat + start * SECTOR;
    bool zeroed = chance_below(r, 4) == 0;

    t->segments[t->n++] = entry(start, length, t->size / SECTOR, zeroed);
    memset(s->owner + start, (int)layer + 1, length);
    memset(s->zero + start, zeroed, length);
    if (zeroed) {
        memset(to, 0, length * SECTOR);
        return;
    }
    chance_fill(r, to, length * SECTOR);
    memcpy(t->bytes + t->size, to, length * SECTOR);
    t->size += length * SECTOR;
}

static void
put_layer(struct stack *s, struct stream *t, struct chance *r, size_t layer)
{
    uint64_t sectors = (s->size + SECTOR - 1) / SECTOR, at = 0;

    t->bytes = grab(8 * SECTOR + sectors * SECTOR);
    memset(t->bytes, 0x5a, 8 * SECTOR);
    t->size = 8 * SECTOR;
    t->segments = grab(sectors * sizeof *t->segments);
    t->n = 0;
    while (at < sectors) {
        uint64_t length = 1 + chance_below(r, 60);

        length = length < sectors - at ? length : sectors - at;
        if (chance_below(r, 2))
            put_run(s, t, r, layer, at, length);
        at += length;
    }
}

static void
store_plain(struct stack *s, const struct stream *t, size_t layer)
{
    uint8_t *file = grab(LEAD + t->size);

    memset(file, 0xee, LEAD);
    memcpy(file + LEAD, t->bytes, t->size);
    s->file_size[layer] = LEAD + t->size;
    s->fds[layer] = file_of(file, LEAD + t->size);
    s->blobs[layer] = obd_blob_new_plain(s->fds[layer], LEAD, t->size);
    free(file);
}

static void
store_zfile(struct stack *s, const struct stream *t, struct chance *r,
            size_t layer)
{
    int algo = (int)(1 + chance_below(r, 2)), verify = (int)chance_below(r, 2);
    unsigned shift = (unsigned)(12 + chance_below(r, 5));
    size_t blocks = (t->size >> shift) + 1, written;
    size_t cap = blocks * obd_zblock_bound(algo, (size_t)1 << shift, verify);
    uint8_t *file = grab(LEAD + cap), *table = grab(4 * blocks);
    uint32_t *lengths = grab(4 * blocks);
    struct obd_fault f;

    memset(file, 0xee, LEAD);
    SAME(obd_zblock_encode(algo, 1, UINT32_C(1) << shift, verify, t->bytes,
                           t->size, file + LEAD, cap, lengths, &written),
         OBD_OK);
    blocks = (t->size + (1u << shift) - 1) >> shift;
    for (size_t i = 0; i < blocks; i++)
        obd_store32(table + 4 * i, lengths[i]);
    struct obd_jump *j = obd_jump_new(algo, verify, shift, t->size, LEAD / 2,
                                      LEAD / 2 + written);

    assert(j != NULL);
    SAME(obd_jump_feed(j, table, blocks, &f), OBD_OK);
    SAME(obd_jump_finish(j, &f), OBD_OK);
    s->file_size[layer] = LEAD + written;
    s->fds[layer] = file_of(file, LEAD + written);
    s->blobs[layer] = obd_blob_new_zfile(s->fds[layer], LEAD - LEAD / 2, j);
    free(file);
    free(table);
    free(lengths);
}

static void
join(struct stack *s, const struct stream *streams)
{
    const struct obd_segment *layers[STACK_LAYERS];
    size_t counts[STACK_LAYERS], n;
    struct obd_segment *merged;

    for (size_t i = 0; i < s->nlayers; i++) {
        layers[i] = streams[i].segments;
        counts[i] = streams[i].n;
    }
    SAME(obd_merge(layers, counts, s->nlayers, &merged, &n), OBD_OK);
    s->map = obd_segmap_new(merged, n);
    assert(s->map != NULL);
    s->device = obd_device_new(s->blobs, s->nlayers, s->map, NULL,
                               s->size);
    assert(s->device != NULL);
    free(merged);
}

void
stack_make(struct stack *s, struct chance *r)
{
    struct stream streams[STACK_LAYERS];
    uint64_t room;

    s->size = 100000 + chance_below(r, 300000);
    s->nlayers = 1 + chance_below(r, STACK_LAYERS);
    room = s->size + SECTOR;
    s->flat = calloc(1, room);
    s->owner = calloc(1, room / SECTOR + 1);
    s->zero = malloc(room / SECTOR + 1);
    assert(s->flat != NULL && s->owner != NULL && s->zero != NULL);
    memset(s->zero, 1, room / SECTOR + 1);
    for (size_t i = 0; i < s->nlayers; i++) {
        put_layer(s, &streams[i], r, i);
        if (chance_below(r, 3) == 0)
            store_plain(s, &streams[i], i);
        else
            store_zfile(s, &streams[i], r, i);
        assert(s->blobs[i] != NULL);
    }
    join(s, streams);
    for (size_t i = 0; i < s->nlayers; i++) {
        free(streams[i].bytes);
        free(streams[i].segments);
    }
}

void
stack_free(struct stack *s)
{
    obd_device_free(s->device);
    obd_segmap_free(s->map);
    for (size_t i = 0; i < s->nlayers; i++) {
        obd_blob_free(s->blobs[i]);
        close(s->fds[i]);
    }
    free(s->flat);
    free(s->owner);
    free(s->zero);
}
