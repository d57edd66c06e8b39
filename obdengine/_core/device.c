/* SPDX-License-Identifier: Apache-2.0 */
/* device - see device.h. */

#include "device.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"

struct obd_device {
    const struct obd_segmap *map;
    uint64_t size;
    size_t nblobs;
    struct obd_blob *blobs[];
};

/* A part of a request that one segment, or no segment, covers; in bytes. */
struct part {
    uint64_t offset;            /* of the disk */
    uint64_t size;
    uint64_t stream;            /* offset in the layer's stream */
    const struct obd_segment *segment;  /* NULL: nothing is mapped */
};

struct obd_device *
obd_device_new(struct obd_blob *const *blobs, size_t nblobs,
               const struct obd_segmap *map, uint64_t size)
{
    struct obd_device *d;

    /* So that no offset within the disk lies past the map's sentinel. */
    if (size > OBD_START_MASK << OBD_SECTOR_SHIFT)
        return NULL;
    for (uint64_t i = 0; i < map->n; i++)
        if (obd_tag(&map->segments[i]) >= nblobs)
            return NULL;
    d = malloc(sizeof *d + nblobs * sizeof *blobs);
    if (d == NULL)
        return NULL;
    d->map = map;
    d->size = size;
    d->nblobs = nblobs;
    memcpy(d->blobs, blobs, nblobs * sizeof *blobs);
    return d;
}

void
obd_device_free(struct obd_device *d)
{
    free(d);
}

static int
check_range(const struct obd_device *d, uint64_t offset, uint64_t size,
            struct obd_fault *fault)
{
    uint64_t end;

    if (OBD_LIKELY(obd_add(offset, size, &end) && end <= d->size))
        return OBD_OK;
    fault->at = offset;
    fault->want = size;
    fault->got = d->size;
    return OBD_OUT_OF_RANGE;
}

/* The part that starts at offset, of at most size bytes; segment *i is the
 * first that ends after offset, and is stepped over when the part ends it.
 */
static inline struct part
part_at(const struct obd_device *d, uint64_t offset, uint64_t size,
        uint64_t *i)
{
    const struct obd_segment *s = &d->map->segments[*i];
    uint64_t start = obd_start(s) << OBD_SECTOR_SHIFT;
    uint64_t end = obd_end(s) << OBD_SECTOR_SHIFT;

    /* The sentinel starts past every disk, so a tail is a gap before it. */
    if (start > offset)
        return (struct part){ offset, obd_min(size, start - offset), 0, NULL };
    if (end - offset <= size)
        ++*i;
    return (struct part){ offset, obd_min(size, end - offset),
                          (obd_moffset(s) << OBD_SECTOR_SHIFT)
                          + (offset - start), s };
}

static inline int
stored(const struct part *p)
{
    return p->segment != NULL && !obd_zeroed(p->segment);
}

static int
read_part(const struct obd_device *d, const struct part *p, uint8_t *buf,
          struct obd_scratch *scratch, struct obd_fault *fault)
{
    if (!stored(p)) {
        memset(buf, 0, (size_t)p->size);
        return OBD_OK;
    }
    unsigned layer = obd_tag(p->segment);
    int status = obd_blob_read(d->blobs[layer], p->stream, buf,
                               (size_t)p->size, scratch, fault);

    if (OBD_UNLIKELY(status != OBD_OK))
        fault->layer = layer;
    return status;
}

int
obd_device_read(const struct obd_device *d, uint64_t offset, uint8_t *buf,
                size_t size, struct obd_fault *fault)
{
    int status = check_range(d, offset, size, fault);

    if (status != OBD_OK)
        return status;
    struct obd_scratch *scratch = obd_scratch_take();
    if (scratch == NULL)
        return OBD_NOMEM;
    uint64_t i = obd_segmap_find(d->map, offset >> OBD_SECTOR_SHIFT);

    while (status == OBD_OK && size > 0) {
        struct part p = part_at(d, offset, size, &i);

        status = read_part(d, &p, buf, scratch, fault);
        offset += p.size;
        buf += p.size;
        size -= (size_t)p.size;
    }
    obd_scratch_give(scratch);
    return status;
}

/* Presence can change within a part, block by block: the first stretch. */
static uint32_t
stretch(const struct obd_device *d, struct part *p)
{
    const struct obd_blob *b = d->blobs[obd_tag(p->segment)];
    uint64_t done = 0;
    bool here = true;

    while (done < p->size) {
        uint64_t step = obd_min(obd_blob_step(b, p->stream + done),
                                p->size - done);
        uint64_t at, size;

        obd_blob_stored(b, p->stream + done, step, &at, &size);
        bool present = obd_blob_present(b, at, size);

        if (done > 0 && present != here)
            break;
        here = present;
        done += step;
    }
    p->size = done;
    return OBD_EXTENT_DATA | (here ? OBD_EXTENT_PRESENT : 0);
}

static struct obd_extent
describe(const struct obd_device *d, struct part *p)
{
    struct obd_extent e = { .offset = p->offset, .layer = OBD_NO_LAYER,
                            .flags = OBD_EXTENT_ZERO | OBD_EXTENT_PRESENT };

    if (p->segment != NULL)
        e.layer = obd_tag(p->segment);
    if (stored(p))
        e.flags = stretch(d, p);
    e.size = p->size;
    return e;
}

static bool
joins(const struct obd_extent *last, const struct obd_extent *e)
{
    return last->layer == e->layer && last->flags == e->flags
           && last->offset + last->size == e->offset;
}

int
obd_device_extents(const struct obd_device *d, uint64_t offset, uint64_t size,
                   struct obd_extent *out, size_t cap, size_t *n,
                   struct obd_fault *fault)
{
    int status = check_range(d, offset, size, fault);
    uint64_t i = obd_segmap_find(d->map, offset >> OBD_SECTOR_SHIFT);

    *n = 0;
    while (status == OBD_OK && size > 0) {
        uint64_t before = i;
        struct part p = part_at(d, offset, size, &i);
        uint64_t whole = p.size;
        struct obd_extent e = describe(d, &p);

        if (p.size < whole)
            i = before;
        if (*n > 0 && joins(&out[*n - 1], &e))
            out[*n - 1].size += e.size;
        else if (*n == cap)
            break;
        else
            out[(*n)++] = e;
        offset += e.size;
        size -= e.size;
    }
    return status;
}

/* Two parts often share a block, or their blocks are neighbours. */
static bool
extend(struct obd_range *last, const struct obd_range *r)
{
    uint64_t end = last->offset + last->size;

    if (last->layer != r->layer || r->offset < last->offset
        || r->offset > end)
        return false;
    last->size = obd_max(end, r->offset + r->size) - last->offset;
    return true;
}

int
obd_device_ranges(const struct obd_device *d, uint64_t offset, uint64_t size,
                  int absent_only, struct obd_range *out, size_t cap,
                  size_t *n, struct obd_fault *fault)
{
    int status = check_range(d, offset, size, fault);
    uint64_t i = obd_segmap_find(d->map, offset >> OBD_SECTOR_SHIFT);

    *n = 0;
    while (status == OBD_OK && size > 0) {
        struct part p = part_at(d, offset, size, &i);

        offset += p.size;
        size -= p.size;
        if (!stored(&p))
            continue;
        struct obd_range r = { .layer = obd_tag(p.segment) };
        const struct obd_blob *b = d->blobs[r.layer];

        obd_blob_stored(b, p.stream, p.size, &r.offset, &r.size);
        if (absent_only && obd_blob_present(b, r.offset, r.size))
            continue;
        if (*n > 0 && extend(&out[*n - 1], &r))
            continue;
        if (*n == cap)
            break;
        out[(*n)++] = r;
    }
    return status;
}
