/* SPDX-License-Identifier: Apache-2.0 */
/* replay - opening an upper: which records count, and what is garbage. */

#include "bytes.h"
#include "record.h"
#include "upper_parts.h"

static bool
has_data(const struct obd_upper *u, const struct obd_segment *s,
         uint64_t data_sectors)
{
    uint64_t at = obd_moffset(s);

    return at >= HEADER_SECTORS && at + obd_length(s) <= data_sectors
           && (!u->setup.in_place || at == HEADER_SECTORS + obd_start(s));
}

static bool
counts(struct obd_upper *u, const struct obd_segment *s,
       uint64_t data_sectors)
{
    struct obd_upper_facts *f = &u->facts;

    if (obd_length(s) == 0)
        f->empty++;
    else if (obd_end(s) > u->setup.disk_end)
        f->beyond_disk++;
    else if (!obd_zeroed(s) && !has_data(u, s, data_sectors))
        f->dangling++;
    else
        return true;
    return false;
}

static int
make_padding(struct obd_upper *u, uint64_t number, struct obd_fault *fault)
{
    struct obd_segment padding = { .lo = OBD_PADDING_START };
    uint64_t at = HEADER_SIZE + number * OBD_RECORD_SIZE;

    return refused(fault, u->io.write(u->io.context, u->setup.index_fd,
                                      &padding, sizeof padding, at), at);
}

int
obd_upper_replay(struct obd_upper *u, const uint8_t *src, size_t n,
                 uint64_t data_sectors, int repair, struct obd_fault *fault)
{
    int status = OBD_OK;

    for (size_t i = 0; status == OBD_OK && i < n; i++) {
        struct obd_segment s = {
            .lo = obd_load64(src + i * OBD_RECORD_SIZE),
            .hi = obd_load64(src + i * OBD_RECORD_SIZE + 8)
                  & (OBD_ZEROED_BIT | OBD_MOFFSET_MASK),
        };
        uint64_t number = u->facts.records++;

        if (obd_start(&s) == OBD_PADDING_START)
            u->facts.padding++;
        else if (counts(u, &s, data_sectors))
            status = obd_live_insert(u->live, s, NULL, NULL);
        else if (repair)
            status = make_padding(u, number, fault);
    }
    u->index_end = HEADER_SIZE + u->facts.records * OBD_RECORD_SIZE;
    return status;
}

static int
by_moffset(const void *a, const void *b)
{
    uint64_t ma = obd_moffset(a), mb = obd_moffset(b);

    return (ma > mb) - (ma < mb);
}

int
obd_upper_dump(const struct obd_upper *u, struct list *out)
{
    uint64_t at = u->split_at, upto;

    if (!list_room(out, obd_live_count(u->live) + 2))
        return OBD_NOMEM;
    out->n = obd_live_collect(u->live, 0, at, out->s, out->capacity, &upto);
    out->n += obd_live_collect(u->live, at, OBD_START_MASK, out->s + out->n,
                               out->capacity - out->n, &upto);
    return OBD_OK;
}

/* What no segment refers to is unused.  In a log of another writer two
 * segments may share data: garbage is only what lies between all of them.
 */
static int
find_unused(struct obd_upper *u)
{
    struct list all = { 0 };
    uint64_t done = HEADER_SECTORS;

    if (obd_upper_dump(u, &all) != OBD_OK)
        return OBD_NOMEM;
    if (all.n > 0)
        qsort(all.s, all.n, sizeof *all.s, by_moffset);
    for (size_t i = 0; i < all.n; i++) {
        if (obd_zeroed(&all.s[i]))
            continue;
        uint64_t start = obd_moffset(&all.s[i]);

        if (start > done)
            obd_space_give(&u->space, done, start - done);
        done = obd_max(done, start + obd_length(&all.s[i]));
    }
    if (u->space.end > done)
        obd_space_give(&u->space, done, u->space.end - done);
    list_clear(&all);
    return OBD_OK;
}

static int
sync_both(struct obd_upper *u, struct obd_fault *fault)
{
    int error = u->io.sync(u->io.context, u->setup.data_fd);

    if (error == 0)
        error = u->io.sync(u->io.context, u->setup.index_fd);
    return refused(fault, error, 0);
}

int
obd_upper_start(struct obd_upper *u, uint64_t data_sectors,
                struct obd_fault *fault)
{
    /* A process that was killed leaves records that no disk has yet, (d). */
    int status = sync_both(u, fault);

    if (status != OBD_OK || u->setup.in_place)
        return status;
    u->space.end = obd_max(data_sectors, HEADER_SECTORS);
    return find_unused(u);
}
