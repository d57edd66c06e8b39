/* SPDX-License-Identifier: Apache-2.0 */
/* device - see device.h. */

#include "device.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "journal.h"
#include "split.h"

#define SECTOR_SIZE (UINT64_C(1) << OBD_SECTOR_SHIFT)

struct obd_device {
    const struct obd_segmap *map;
    struct obd_upper *upper;    /* NULL: read-only */
    uint64_t size;
    pthread_mutex_t odd;        /* one write of part of a sector at a time */
    size_t nblobs;
    struct obd_blob *blobs[];
};

/* Segments of the upper that are looked up at once. */
#define FOUND_MAX 32

/* Where a request stands. */
struct cursor {
    const struct obd_device *d;
    uint64_t offset;            /* of the disk */
    uint64_t left;
    uint64_t base;              /* segment of the map, if known */
    bool base_known;
    struct obd_segment found[FOUND_MAX];    /* of the upper, from k on */
    size_t n;
    size_t k;
    uint64_t upto;              /* found is all there is before this */
};

/* A part of a request that comes from one place; in bytes. */
struct part {
    uint64_t offset;            /* of the disk */
    uint64_t size;
    uint64_t stream;            /* offset in the layer's stream */
    const struct obd_segment *segment;  /* NULL: nothing is mapped */
    bool upper;
};

struct obd_device *
obd_device_new(struct obd_blob *const *blobs, size_t nblobs,
               const struct obd_segmap *map, struct obd_upper *upper,
               uint64_t size)
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
    d->upper = upper;
    pthread_mutex_init(&d->odd, NULL);
    d->size = size;
    d->nblobs = nblobs;
    memcpy(d->blobs, blobs, nblobs * sizeof *blobs);
    return d;
}

void
obd_device_free(struct obd_device *d)
{
    if (d == NULL)
        return;
    pthread_mutex_destroy(&d->odd);
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

static uint64_t
bytes(uint64_t sectors)
{
    return sectors << OBD_SECTOR_SHIFT;
}

static struct part
part_of(const struct obd_segment *s, uint64_t offset, uint64_t size)
{
    return (struct part){
        .offset = offset,
        .size = obd_min(size, bytes(obd_end(s)) - offset),
        .stream = bytes(obd_moffset(s)) + (offset - bytes(obd_start(s))),
        .segment = s,
    };
}

/* What the map has at the cursor, of at most size bytes. */
static struct part
base_part(struct cursor *c, uint64_t size)
{
    const struct obd_segmap *map = c->d->map;

    if (!c->base_known)
        c->base = obd_segmap_find(map, c->offset >> OBD_SECTOR_SHIFT);
    c->base_known = true;
    const struct obd_segment *s = &map->segments[c->base];
    uint64_t start = bytes(obd_start(s));

    /* The sentinel starts past every disk, so a tail is a gap before it. */
    if (start > c->offset)
        return (struct part){ .offset = c->offset,
                              .size = obd_min(size, start - c->offset) };
    return part_of(s, c->offset, size);
}

static void
begin(struct cursor *c, const struct obd_device *d, uint64_t offset,
      uint64_t size)
{
    /* Not found[]: clearing it would cost more than a look-up. */
    c->d = d;
    c->offset = offset;
    c->left = size;
    c->base_known = false;
    c->n = c->k = 0;
    c->upto = 0;
}

static void
look_up_upper(struct cursor *c)
{
    uint64_t end = (c->offset + c->left + SECTOR_SIZE - 1) >> OBD_SECTOR_SHIFT;

    c->k = 0;
    c->n = obd_upper_collect(c->d->upper, c->offset >> OBD_SECTOR_SHIFT, end,
                             c->found, FOUND_MAX, &c->upto);
    c->upto = bytes(c->upto);
}

/* The part at the cursor. */
static inline struct part
peek(struct cursor *c)
{
    if (c->d->upper == NULL)
        return base_part(c, c->left);
    if (c->k == c->n && c->offset >= c->upto)
        look_up_upper(c);
    if (c->k == c->n)
        return base_part(c, obd_min(c->left, c->upto - c->offset));
    const struct obd_segment *s = &c->found[c->k];

    if (bytes(obd_start(s)) > c->offset)
        return base_part(c, obd_min(c->left,
                                    bytes(obd_start(s)) - c->offset));
    struct part p = part_of(s, c->offset, c->left);

    p.upper = true;
    return p;
}

/* Step over size bytes, no more than the part that was peeked at. */
static inline void
advance(struct cursor *c, const struct part *p, uint64_t size)
{
    c->offset += size;
    c->left -= size;
    if (p->upper) {
        c->base_known = false;
        c->k += bytes(obd_end(p->segment)) <= c->offset;
    } else if (p->segment != NULL) {
        c->base += bytes(obd_end(p->segment)) <= c->offset;
    }
}

static inline bool
stored(const struct part *p)
{
    return p->segment != NULL && !obd_zeroed(p->segment);
}

static uint32_t
layer_of(const struct obd_device *d, const struct part *p)
{
    if (p->segment == NULL)
        return OBD_NO_LAYER;
    return p->upper ? (uint32_t)d->nblobs : obd_tag(p->segment);
}

static int
read_part(const struct obd_device *d, const struct part *p, uint8_t *buf,
          struct obd_scratch *scratch, struct obd_fault *fault)
{
    if (!stored(p)) {
        memset(buf, 0, (size_t)p->size);
        return OBD_OK;
    }
    uint32_t layer = layer_of(d, p);
    int status = p->upper
                 ? obd_upper_read(d->upper, p->stream, buf, (size_t)p->size,
                                  fault)
                 : obd_blob_read(d->blobs[layer], p->stream, buf,
                                 (size_t)p->size, scratch, fault);

    if (OBD_UNLIKELY(status != OBD_OK))
        fault->layer = layer;
    return status;
}

static int
read_parts(const struct obd_device *d, uint64_t offset, uint8_t *buf,
           size_t size, struct obd_scratch *scratch, struct obd_fault *fault)
{
    struct cursor c;
    int status = OBD_OK;

    begin(&c, d, offset, size);
    while (status == OBD_OK && c.left > 0) {
        struct part p = peek(&c);

        status = read_part(d, &p, buf, scratch, fault);
        buf += p.size;
        advance(&c, &p, p.size);
    }
    return status;
}

/* Read what one plain layer has all of, which needs nothing else: false when
 * it is not so simple.
 */
static bool
read_simply(const struct obd_device *d, uint64_t offset, uint8_t *buf,
            size_t size, int *status, struct obd_fault *fault)
{
    if (d->upper != NULL || size == 0)
        return false;
    const struct obd_segmap *map = d->map;
    const struct obd_segment *s
        = &map->segments[obd_segmap_find(map, offset >> OBD_SECTOR_SHIFT)];

    if (bytes(obd_start(s)) > offset || obd_zeroed(s)
        || bytes(obd_end(s)) < offset + size
        || !obd_blob_is_plain(d->blobs[obd_tag(s)]))
        return false;
    *status = obd_blob_read_plain(d->blobs[obd_tag(s)],
                                  bytes(obd_moffset(s))
                                  + (offset - bytes(obd_start(s))),
                                  buf, size, fault);
    if (OBD_UNLIKELY(*status != OBD_OK))
        fault->layer = obd_tag(s);
    return true;
}

static int
read_range(const void *device, uint64_t offset, uint8_t *buf, size_t size,
           struct obd_fault *fault)
{
    const struct obd_device *d = device;
    struct obd_scratch *scratch = obd_scratch_take();

    if (scratch == NULL)
        return OBD_NOMEM;
    int status = read_parts(d, offset, buf, size, scratch, fault);

    obd_scratch_give(scratch);
    return status;
}

int
obd_device_read(const struct obd_device *d, uint64_t offset, uint8_t *buf,
                size_t size, struct obd_fault *fault)
{
    int status = check_range(d, offset, size, fault);

    if (status != OBD_OK
        || read_simply(d, offset, buf, size, &status, fault))
        return status;
    unsigned ticket = d->upper ? obd_upper_enter(d->upper) : 0;

    if (OBD_LIKELY(size < OBD_SPLIT_FROM)) {
        status = read_range(d, offset, buf, size, fault);
    } else {
        struct obd_split s = { d->map, d->blobs, d, read_range };

        status = obd_split_read(&s, offset, buf, size, fault);
    }
    if (d->upper)
        obd_upper_leave(d->upper, ticket);
    return status;
}

/* ---- Writing ---- */

/* Write a part of one sector: read it, change it, write it. */
static int
write_odd(struct obd_device *d, uint64_t offset, const uint8_t *buf,
          size_t size, struct obd_fault *fault)
{
    uint8_t sector[SECTOR_SIZE];
    uint64_t start = offset >> OBD_SECTOR_SHIFT;

    pthread_mutex_lock(&d->odd);
    int status = obd_device_read(d, bytes(start), sector, sizeof sector,
                                 fault);
    if (status == OBD_OK) {
        uint8_t *at = sector + (offset - bytes(start));

        if (buf != NULL)
            memcpy(at, buf, size);
        else
            memset(at, 0, size);
        status = obd_upper_write(d->upper, start, 1, sector, fault);
    }
    pthread_mutex_unlock(&d->odd);
    return status;
}

/* Bytes of a request before its first whole sector, and behind its last. */
static void
edges(uint64_t offset, uint64_t size, size_t *head, size_t *tail)
{
    uint64_t mask = SECTOR_SIZE - 1;

    *head = (size_t)obd_min(size, (SECTOR_SIZE - (offset & mask)) & mask);
    *tail = (size_t)((size - *head) & mask);
}

/* Write buf, or zeros where it is NULL. */
static int
put(struct obd_device *d, uint64_t offset, const uint8_t *buf, uint64_t size,
    struct obd_fault *fault)
{
    size_t head, tail;
    int status = d->upper ? check_range(d, offset, size, fault)
                          : OBD_READ_ONLY;

    if (status != OBD_OK)
        return status;
    edges(offset, size, &head, &tail);
    uint64_t whole = size - head - tail;
    uint64_t start = (offset + head) >> OBD_SECTOR_SHIFT;

    if (head > 0)
        status = write_odd(d, offset, buf, head, fault);
    if (status == OBD_OK && whole > 0)
        status = buf ? obd_upper_write(d->upper, start,
                                       whole >> OBD_SECTOR_SHIFT, buf + head,
                                       fault)
                     : obd_upper_zero(d->upper, start,
                                      whole >> OBD_SECTOR_SHIFT, fault);
    if (status == OBD_OK && tail > 0)
        status = write_odd(d, offset + size - tail,
                           buf ? buf + size - tail : NULL, tail, fault);
    return status;
}

int
obd_device_write(struct obd_device *d, uint64_t offset, const uint8_t *buf,
                 size_t size, struct obd_fault *fault)
{
    /* An empty buffer may have no address. */
    return size == 0 ? OBD_OK : put(d, offset, buf, size, fault);
}

int
obd_device_zero(struct obd_device *d, uint64_t offset, uint64_t size,
                struct obd_fault *fault)
{
    return put(d, offset, NULL, size, fault);
}

int
obd_device_discard(struct obd_device *d, uint64_t offset, uint64_t size,
                   struct obd_fault *fault)
{
    size_t head, tail;
    int status = check_range(d, offset, size, fault);

    if (status != OBD_OK)
        return status;
    edges(offset, size, &head, &tail);
    return put(d, offset + head, NULL, size - head - tail, fault);
}

int
obd_device_flush(struct obd_device *d, struct obd_fault *fault)
{
    return d->upper ? obd_upper_flush(d->upper, fault) : OBD_OK;
}

bool
obd_device_wants_upkeep(const struct obd_device *d)
{
    return d->upper && (obd_upper_wants_compaction(d->upper)
                        || obd_upper_wants_journal(d->upper));
}

const uint8_t *
obd_device_window(const struct obd_device *d, uint64_t offset, uint64_t *size)
{
    struct cursor c;

    begin(&c, d, offset, *size);
    struct part p = peek(&c);

    *size = p.size;
    if (!stored(&p) || p.upper)
        return NULL;
    return obd_blob_window(d->blobs[obd_tag(p.segment)], p.stream, size);
}

/* ---- Extents ---- */

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
    struct obd_extent e = { .offset = p->offset, .layer = layer_of(d, p),
                            .flags = OBD_EXTENT_ZERO | OBD_EXTENT_PRESENT };

    if (stored(p))
        e.flags = p->upper ? OBD_EXTENT_DATA | OBD_EXTENT_PRESENT
                           : stretch(d, p);
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
    struct cursor c;

    begin(&c, d, offset, size);
    *n = 0;
    while (status == OBD_OK && c.left > 0) {
        struct part p = peek(&c);
        struct obd_extent e = describe(d, &p);

        if (*n > 0 && joins(&out[*n - 1], &e))
            out[*n - 1].size += e.size;
        else if (*n == cap)
            break;
        else
            out[(*n)++] = e;
        advance(&c, &p, e.size);
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
                  int which, struct obd_range *out, size_t cap,
                  size_t *n, struct obd_fault *fault)
{
    int status = check_range(d, offset, size, fault);
    struct cursor c;

    begin(&c, d, offset, size);
    *n = 0;
    while (status == OBD_OK && c.left > 0) {
        struct part p = peek(&c);

        advance(&c, &p, p.size);
        if (p.upper || !stored(&p))
            continue;
        struct obd_range r = { .layer = layer_of(d, &p) };
        const struct obd_blob *b = d->blobs[r.layer];

        r.offset = p.stream;
        r.size = p.size;
        if (which != OBD_RANGES_STREAM)
            obd_blob_stored(b, p.stream, p.size, &r.offset, &r.size);
        if (which == OBD_RANGES_ABSENT
            && obd_blob_present(b, r.offset, r.size))
            continue;
        if (*n > 0 && extend(&out[*n - 1], &r))
            continue;
        if (*n == cap)
            break;
        out[(*n)++] = r;
    }
    return status;
}
