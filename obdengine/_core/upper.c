/* SPDX-License-Identifier: Apache-2.0 */
/* upper - see upper.h for the rules that this keeps.
 *
 * One lock guards the index and what goes with it; it is never held during
 * I/O.  Flushes run in rounds: whoever comes first leads, those who come
 * while a round runs wait for the next one, which one of them leads for all.
 */

#include <errno.h>
#include <string.h>
#include <time.h>

#include "bytes.h"
#include "file.h"
#include "record.h"
#include "upper_parts.h"

struct obd_upper *
obd_upper_new(const struct obd_upper_setup *setup, const struct obd_io *io)
{
    struct obd_upper *u = calloc(1, sizeof *u);

    if (u == NULL)
        return NULL;
    u->setup = *setup;
    u->io = io != NULL ? *io : obd_io_kernel;
    u->index_end = HEADER_SIZE;
    u->journal.fd = -1;
    u->live = obd_live_new();
    if (u->live == NULL
        || obd_space_init(&u->space, HEADER_SECTORS, setup->data_limit,
                          setup->allowance) != OBD_OK) {
        obd_live_free(u->live);
        free(u);
        return NULL;
    }
    pthread_rwlock_init(&u->lock, NULL);
    pthread_mutex_init(&u->rounds, NULL);
    pthread_cond_init(&u->round_over, NULL);
    return u;
}

void
obd_upper_free(struct obd_upper *u)
{
    if (u == NULL)
        return;
    obd_live_free(u->live);
    obd_space_clear(&u->space);
    list_clear(&u->pending);
    list_clear(&u->hidden);
    list_clear(&u->retired);
    list_clear(&u->journal.records);
    list_clear(&u->journal.hidden);
    free(u->journal.entry);
    pthread_rwlock_destroy(&u->lock);
    pthread_mutex_destroy(&u->rounds);
    pthread_cond_destroy(&u->round_over);
    free(u);
}

/* Records that may wait for a flush before a writer makes one: 1 MiB. */
#define PENDING_MAX 65536

/* Garbage shorter than this is not given back to the file system: a call
 * costs more than it frees, and small pieces are written over anyway.
 */
#define PUNCH_SECTORS 128

/* ---- Garbage ---- */

static void
add_garbage(struct list *l, uint64_t start, uint64_t length)
{
    /* Without memory it stays garbage until the layer is opened again. */
    if (list_room(l, 1))
        l->s[l->n++] = (struct obd_segment){ start, length };
}

static void
on_hidden(void *context, uint64_t moffset, uint64_t length)
{
    struct obd_upper *u = context;

    if (!u->setup.in_place)
        add_garbage(&u->hidden, moffset, length);
}

/* Find garbage that is hidden durably and that nobody reads, and retire what
 * has become garbage by this round.
 *
 * Readers count themselves in the epoch that they saw.  The epoch is turned
 * only when the one before has no readers left, so there are never readers of
 * more than two.  What is retired now was found only by readers of this
 * epoch; when it is turned the next time, nobody holds it.  A reader that
 * counted itself too late to be seen collects after the index has changed.
 */
static struct list
retire(struct obd_upper *u, struct list *dead)
{
    unsigned old = (atomic_load(&u->epoch) + 1) % 2;
    struct list released = { 0 };

    if (atomic_load(&u->readers[old]) != 0) {
        /* They wait for the next round. */
        (void)list_prepend(&u->hidden, dead);
        return released;
    }
    released = u->retired;
    u->retired = *dead;
    *dead = (struct list){ 0 };
    atomic_fetch_add(&u->epoch, 1);
    return released;
}

/* Pieces that are handed out before others may have the lock: 50 us. */
#define BITE 256

/* Hand garbage out for reuse, and long pieces of it to the file system. */
static void
reuse(struct obd_upper *u, struct list *released)
{
    for (size_t i = 0; i < released->n; i++)
        if (released->s[i].hi >= PUNCH_SECTORS)
            (void)u->io.punch(u->io.context, u->setup.data_fd,
                              released->s[i].lo << OBD_SECTOR_SHIFT,
                              released->s[i].hi << OBD_SECTOR_SHIFT);
    for (size_t i = 0; i < released->n;) {
        size_t end = obd_min(released->n, i + BITE);

        pthread_rwlock_wrlock(&u->lock);
        for (; i < end; i++)
            obd_space_give(&u->space, released->s[i].lo, released->s[i].hi);
        pthread_rwlock_unlock(&u->lock);
    }
    list_clear(released);
}

unsigned
obd_upper_enter(struct obd_upper *u)
{
    unsigned ticket = atomic_load(&u->epoch) % 2;

    atomic_fetch_add(&u->readers[ticket], 1);
    return ticket;
}

void
obd_upper_leave(struct obd_upper *u, unsigned ticket)
{
    atomic_fetch_sub(&u->readers[ticket], 1);
}

/* ---- Writing ---- */

/* Whoever writes little and flushes, again and again, gets room ahead: zeros in
 * the data file and padding in the index file.  Writing over it changes no
 * size and no map of the host's file system, whose journal a sync would have
 * to write then.  On ext4 a write and a flush take 300 us in place of 550.
 */
#define SMALL_ROUND 64          /* records */
#define SMALL_ROUNDS 16
#define PADDING_AHEAD 256       /* records: a page */
#define SECTORS_AHEAD 512       /* 256 KiB */

/* Whether there is a journal, or may be: it does more than room ahead. */
static bool
is_journaled(const struct obd_upper *u)
{
    return u->journal.fd >= 0
           || (u->setup.patience > 0 && !atomic_load(&u->journal.had));
}

static bool
wants_ahead(const struct obd_upper *u)
{
    const struct obd_space *s = &u->space;

    return atomic_load(&u->small_rounds) >= SMALL_ROUNDS
           && !u->setup.in_place && !is_journaled(u) && !u->ahead_made && u->ahead_length == 0
           && obd_space_unused(s) <= s->allowance / 2
           && s->limit - s->end > 16 * SECTORS_AHEAD;
}

/* Nothing refers to what is new at the end, so zeros there harm nobody. */
static void
write_ahead(struct obd_upper *u)
{
    static const uint8_t zeros[SECTORS_AHEAD << OBD_SECTOR_SHIFT];

    pthread_rwlock_wrlock(&u->lock);
    bool wanted = wants_ahead(u);
    uint64_t at = u->space.end;

    u->ahead_made = u->ahead_made || wanted;
    u->space.end += wanted ? SECTORS_AHEAD : 0;
    pthread_rwlock_unlock(&u->lock);
    if (!wanted)
        return;
    int error = u->io.write(u->io.context, u->setup.data_fd, zeros,
                            sizeof zeros, at << OBD_SECTOR_SHIFT);

    pthread_rwlock_wrlock(&u->lock);
    u->ahead_made = false;
    u->ahead_start = at;
    u->ahead_length = error == 0 ? SECTORS_AHEAD : 0;
    if (error != 0)
        obd_space_undo(&u->space, at, SECTORS_AHEAD);
    pthread_rwlock_unlock(&u->lock);
}

/* A place in the data file; the lock is held. */
static int
take_space(struct obd_upper *u, uint64_t want, bool grow, uint64_t *at,
           uint64_t *length)
{
    if (u->ahead_length >= want) {
        *at = u->ahead_start;
        *length = want;
        u->ahead_start += want;
        u->ahead_length -= want;
        return OBD_OK;
    }
    int status = obd_space_take(&u->space, want, grow, at, length);

    if (status != OBD_FULL || u->ahead_length == 0)
        return status;
    obd_space_give(&u->space, u->ahead_start, u->ahead_length);
    u->ahead_length = 0;
    return obd_space_take(&u->space, want, grow, at, length);
}

/* *denied: live data has no room, and there is none to wait for. */
static int
take_place(struct obd_upper *u, uint64_t start, uint64_t want, bool grow,
           struct place *p, bool *denied)
{
    pthread_rwlock_wrlock(&u->lock);
    uint64_t may = obd_upper_admit(u, start, want, &p->growth);
    int status = may > 0 ? OBD_OK : OBD_FULL;

    *denied = may == 0 && u->promised == 0;
    p->at = HEADER_SECTORS + start;
    p->length = may;
    if (may > 0 && !u->setup.in_place)
        status = take_space(u, may, grow, &p->at, &p->length);
    if (status == OBD_OK)
        u->promised += p->growth;
    pthread_rwlock_unlock(&u->lock);
    return status;
}

static void
give_back(struct obd_upper *u, const struct place *p)
{
    pthread_rwlock_wrlock(&u->lock);
    u->promised -= p->growth;
    if (!u->setup.in_place)
        obd_space_undo(&u->space, p->at, p->length);
    pthread_rwlock_unlock(&u->lock);
}

/* Whether a record would say what the index says already. */
static bool
is_known(struct obd_upper *u, const struct obd_segment *s)
{
    struct obd_segment found[4];
    uint64_t at = obd_start(s), upto;

    if (!obd_zeroed(s) && !u->setup.in_place)
        return false;
    size_t n = obd_live_collect(u->live, at, obd_end(s), found, 4, &upto);

    for (size_t i = 0; i < n; i++) {
        if (obd_start(&found[i]) != at
            || obd_zeroed(&found[i]) != obd_zeroed(s))
            return false;
        at = obd_end(&found[i]);
    }
    return at == obd_end(s);
}

/* Put a segment into the index, and its record with those that wait; *many:
 * so many wait that a flush is due.  growth: what it was promised, which it has
 * then.  By the format's habit a zeroed segment points at the end of the data.
 */
static int
note(struct obd_upper *u, struct obd_segment s, uint64_t growth, bool *many)
{
    int status = OBD_OK;

    pthread_rwlock_wrlock(&u->lock);
    if (obd_zeroed(&s))
        s.hi = OBD_ZEROED_BIT | u->space.end;
    else
        u->dirty = true;
    if (!is_known(u, &s)) {
        status = list_room(&u->pending, 1) ? OBD_OK : OBD_NOMEM;
        if (status == OBD_OK)
            status = obd_live_insert(u->live, s, on_hidden, u);
        if (status == OBD_OK)
            u->pending.s[u->pending.n++] = s;
    }
    if (status == OBD_OK)
        u->promised -= growth;
    *many = u->pending.n >= PENDING_MAX;
    pthread_rwlock_unlock(&u->lock);
    return status;
}

/* What was tried when there was no room. */
struct attempts {
    bool denied;                /* see take_place() */
    bool tight;                 /* the file was not to grow any more */
    unsigned pieces;            /* of garbage that the host refused */
    unsigned rounds;            /* of flushing */
    uint64_t refusal;           /* the host's errno; 0: the limit is ours */
};

/* Write the beginning of a range, *part sectors of it; 0: no place for it. */
static int
write_part(struct obd_upper *u, uint64_t start, uint64_t length,
           const uint8_t *buf, struct attempts *done, uint64_t *part,
           bool *many, struct obd_fault *fault)
{
    struct place p;
    int status = take_place(u, start, obd_min(length, OBD_MAX_LENGTH),
                            !done->tight, &p, &done->denied);

    *part = status == OBD_OK ? p.length : 0;
    if (status != OBD_OK) {
        fault->got = ENOSPC;
        return status;
    }
    status = refused(fault, u->io.write(u->io.context, u->setup.data_fd, buf,
                                        p.length << OBD_SECTOR_SHIFT,
                                        p.at << OBD_SECTOR_SHIFT),
                     p.at << OBD_SECTOR_SHIFT);
    if (status == OBD_OK)
        status = note(u, (struct obd_segment){
            start | p.length << OBD_START_BITS, p.at }, p.growth, many);
    if (status != OBD_OK)
        give_back(u, &p);
    return status;
}

/* Garbage may be holes, for which the host has no room either. */
#define PIECES 16

/* Rounds that may be needed until garbage can be used again, and how long to
 * wait for its readers, and for other writers, after the first few, which is
 * how many it takes where there are none.
 */
#define ROUNDS 1000
#define ROUNDS_AT_ONCE 4
#define ROUND_WAIT_NS 1000000

/* Flush, which turns what was written over since the last flushes into room;
 * OBD_FULL when there is nothing to gain.
 */
static int
make_room(struct obd_upper *u, struct attempts *done, struct obd_fault *fault)
{
    pthread_rwlock_rdlock(&u->lock);
    /* Within the limit the reserve is somewhere: in a round that runs, or
     * under the hands of other writers.
     */
    bool waiting = u->hidden.n > 0 || u->retired.n > 0
                   || u->journal.hidden.n > 0
                   || (!done->refusal && obd_upper_has_reserve(u));
    pthread_rwlock_unlock(&u->lock);
    if (!waiting || done->rounds >= ROUNDS)
        return OBD_FULL;
    if (done->rounds++ >= ROUNDS_AT_ONCE)
        (void)nanosleep(&(struct timespec){ .tv_nsec = ROUND_WAIT_NS }, NULL);
    return u->setup.in_place ? OBD_OK : obd_upper_checkpoint(u, fault);
}

/* There was no room for a part, or no place: OBD_OK when another try is worth
 * while.
 */
static int
try_again(struct obd_upper *u, struct attempts *done, uint64_t part,
          struct obd_fault *fault)
{
    if (done->denied || (u->setup.in_place && part > 0))
        return OBD_FULL;
    if (!done->tight && !u->setup.in_place) {
        done->tight = true;
        done->pieces = 0;
        return OBD_OK;
    }
    if (part > 0 && ++done->pieces < PIECES)
        return OBD_OK;
    done->tight = false;
    return make_room(u, done, fault);
}

int
obd_upper_write(struct obd_upper *u, uint64_t start, uint64_t length,
                const uint8_t *buf, struct obd_fault *fault)
{
    struct attempts done = { 0 };
    bool many = false;

    while (length > 0) {
        uint64_t part;
        int status = write_part(u, start, length, buf, &done, &part, &many,
                                fault);

        if (status == OBD_FULL) {
            done.refusal = part > 0 ? fault->got : done.refusal;
            status = try_again(u, &done, part, fault);
            part = 0;
            if (status == OBD_FULL && done.refusal)
                fault->got = done.refusal;
        } else {
            done = (struct attempts){ 0 };
        }
        if (status != OBD_OK)
            return status;
        start += part;
        length -= part;
        buf += part << OBD_SECTOR_SHIFT;
    }
    if (OBD_UNLIKELY(atomic_load(&u->small_rounds) >= SMALL_ROUNDS))
        write_ahead(u);
    return many ? obd_upper_flush(u, fault) : OBD_OK;
}

int
obd_upper_zero(struct obd_upper *u, uint64_t start, uint64_t length,
               struct obd_fault *fault)
{
    int status = OBD_OK;
    bool many = false;

    /* A write to the same sectors at the same time may lose its data to the
     * hole: it then reads as zeros, which is what this call wants.
     */
    if (u->setup.in_place && length > 0)
        (void)u->io.punch(u->io.context, u->setup.data_fd,
                          (HEADER_SECTORS + start) << OBD_SECTOR_SHIFT,
                          length << OBD_SECTOR_SHIFT);
    while (status == OBD_OK && length > 0) {
        uint64_t part = obd_min(length, OBD_MAX_LENGTH);

        status = note(u, (struct obd_segment){
            start | part << OBD_START_BITS, OBD_ZEROED_BIT }, 0, &many);
        start += part;
        length -= part;
    }
    return status == OBD_OK && many ? obd_upper_flush(u, fault) : status;
}

/* ---- Flush ---- */

/* What waits, for this round; the lock is held. */
static struct batch
take_batch(struct obd_upper *u)
{
    struct batch b = { u->pending, u->hidden, u->dirty };

    u->pending = (struct list){ 0 };
    u->hidden = (struct list){ 0 };
    u->dirty = false;
    return b;
}

static void
settle_batch(struct obd_upper *u, struct batch *b, int status)
{
    struct list released = { 0 };

    pthread_rwlock_wrlock(&u->lock);
    if (status == OBD_OK) {
        u->facts.flushes++;
        released = retire(u, &b->hidden);
    } else {
        if (!list_prepend(&u->pending, &b->records))
            u->broken = ENOMEM;
        (void)list_prepend(&u->hidden, &b->hidden);
        u->dirty = u->dirty || b->dirty;
    }
    pthread_rwlock_unlock(&u->lock);
    list_clear(&b->records);
    list_clear(&b->hidden);
    reuse(u, &released);
}

static int
sync_file(struct obd_upper *u, int fd, struct obd_fault *fault)
{
    int error = u->io.sync(u->io.context, fd);

    if (error != 0)
        u->broken = error;
    return refused(fault, error, 0);
}

static void
pad_ahead(struct obd_upper *u, uint64_t end)
{
    struct obd_segment padding[PADDING_AHEAD];

    if (atomic_load(&u->small_rounds) < SMALL_ROUNDS || is_journaled(u)
        || end <= u->padded_end)
        return;
    for (size_t i = 0; i < PADDING_AHEAD; i++)
        padding[i] = (struct obd_segment){ .lo = OBD_PADDING_START };
    /* Only a wish: without room for it all is as before. */
    if (u->io.write(u->io.context, u->setup.index_fd, padding,
                    sizeof padding, end) == 0)
        u->padded_end = end + sizeof padding;
}

static int
write_records(struct obd_upper *u, const struct list *records, uint64_t at,
              struct obd_fault *fault)
{
    if (records->n == 0)
        return OBD_OK;
    return refused(fault, u->io.write(u->io.context, u->setup.index_fd,
                                      records->s,
                                      records->n * OBD_RECORD_SIZE, at), at);
}

/* (a) and (b): data, sync, records, sync. */
int
obd_upper_write_batch(struct obd_upper *u, struct batch *b,
                      struct obd_fault *fault)
{
    const struct list *kept = &u->journal.records;
    uint64_t middle = u->index_end + kept->n * OBD_RECORD_SIZE;
    uint64_t end = middle + b->records.n * OBD_RECORD_SIZE;
    int status = OBD_OK;

    if (b->dirty || end > u->index_end)
        status = sync_file(u, u->setup.data_fd, fault);
    if (status == OBD_OK && end > u->index_end) {
        status = write_records(u, kept, u->index_end, fault);
        if (status == OBD_OK)
            status = write_records(u, &b->records, middle, fault);
        if (status == OBD_OK)
            pad_ahead(u, end);
        if (status == OBD_OK)
            status = sync_file(u, u->setup.index_fd, fault);
        if (status == OBD_OK)
            u->index_end = end;
    }
    return status == OBD_OK ? obd_journal_reset(u, &b->hidden, fault)
                            : status;
}

static void
count_round(struct obd_upper *u, size_t records)
{
    unsigned rounds = atomic_load(&u->small_rounds);

    if (records > 0)
        atomic_store(&u->small_rounds, records > SMALL_ROUND
                     ? 0 : rounds + (rounds < SMALL_ROUNDS));
}

int
obd_upper_round(struct obd_upper *u, bool full, struct obd_fault *fault)
{
    int status = OBD_OK;

    if (u->broken) {
        fault->got = (uint64_t)u->broken;
        return OBD_IO;
    }
    pthread_rwlock_wrlock(&u->lock);
    struct batch b = take_batch(u);
    pthread_rwlock_unlock(&u->lock);
    count_round(u, b.records.n);
    /* What the journal could not take is a matter for the two files. */
    bool kept = !full && obd_journal_takes(u, &b)
                && obd_journal_write(u, &b, fault) == OBD_OK;

    if (!kept && (full || b.dirty || b.records.n > 0))
        status = obd_upper_write_batch(u, &b, fault);
    settle_batch(u, &b, status);
    return status;
}

void
obd_upper_lead(struct obd_upper *u)
{
    pthread_mutex_lock(&u->rounds);
    while (u->leading)
        pthread_cond_wait(&u->round_over, &u->rounds);
    u->leading = true;
    pthread_mutex_unlock(&u->rounds);
}

/* The lock of rounds is held. */
static void
stop_leading(struct obd_upper *u)
{
    u->leading = false;
    pthread_cond_broadcast(&u->round_over);
}

void
obd_upper_follow(struct obd_upper *u)
{
    pthread_mutex_lock(&u->rounds);
    stop_leading(u);
    pthread_mutex_unlock(&u->rounds);
}

static int
flush(struct obd_upper *u, bool full, struct obd_fault *fault)
{
    pthread_mutex_lock(&u->rounds);
    /* A round that runs may have taken its batch before our last write. */
    uint64_t wanted = u->begun + 1;

    if (full)
        u->full = wanted;
    while (u->leading && u->ended < wanted)
        pthread_cond_wait(&u->round_over, &u->rounds);
    if (u->ended < wanted) {
        u->leading = true;
        u->begun++;
        bool must = u->full >= u->begun;
        pthread_mutex_unlock(&u->rounds);
        struct obd_fault found = { 0 };
        int status = obd_upper_round(u, must, &found);

        pthread_mutex_lock(&u->rounds);
        u->last_status = status;
        u->last_fault = found;
        u->ended++;
        stop_leading(u);
    }
    int status = u->last_status;

    *fault = u->last_fault;
    pthread_mutex_unlock(&u->rounds);
    return status;
}

int
obd_upper_flush(struct obd_upper *u, struct obd_fault *fault)
{
    return flush(u, false, fault);
}

int
obd_upper_checkpoint(struct obd_upper *u, struct obd_fault *fault)
{
    return flush(u, true, fault);
}

/* ---- A new index file, and facts ---- */

static int
write_index(struct obd_upper *u, int fd, const struct list *all,
            struct obd_fault *fault)
{
    uint64_t size = all->n * OBD_RECORD_SIZE;
    int status = sync_file(u, u->setup.data_fd, fault);

    if (status == OBD_OK && size > 0)
        status = refused(fault, u->io.write(u->io.context, fd, all->s, size,
                                            HEADER_SIZE), HEADER_SIZE);
    if (status == OBD_OK)
        status = refused(fault, u->io.sync(u->io.context, fd), 0);
    u->next_index_fd = fd;
    u->next_index_end = HEADER_SIZE + size;
    return status;
}

int
obd_upper_index_begin(struct obd_upper *u, int fd, struct obd_fault *fault)
{
    struct list all = { 0 };

    obd_upper_lead(u);
    int status = u->broken ? OBD_IO : OBD_OK;

    fault->got = (uint64_t)u->broken;
    /* What the journal keeps must not be newer than the new file. */
    if (status == OBD_OK && u->journal.used)
        status = obd_upper_round(u, true, fault);
    if (status == OBD_OK) {
        pthread_rwlock_wrlock(&u->lock);
        status = obd_upper_dump(u, &all);
        u->held = take_batch(u);
        pthread_rwlock_unlock(&u->lock);
        if (status == OBD_OK)
            status = write_index(u, fd, &all, fault);
        list_clear(&all);
    }
    if (status != OBD_OK)
        obd_upper_index_end(u, 0);
    return status;
}

void
obd_upper_index_end(struct obd_upper *u, int done)
{
    if (done > 0) {
        u->setup.index_fd = u->next_index_fd;
        u->index_end = u->next_index_end;
        u->padded_end = 0;
    } else if (done < 0) {
        u->broken = -done;
    }
    settle_batch(u, &u->held, done > 0 ? OBD_OK : OBD_IO);
    obd_upper_follow(u);
}

void
obd_upper_split_at(struct obd_upper *u, uint64_t at)
{
    pthread_rwlock_wrlock(&u->lock);
    u->split_at = at;
    pthread_rwlock_unlock(&u->lock);
}

int
obd_upper_forget(struct obd_upper *u, uint64_t end)
{
    pthread_rwlock_wrlock(&u->lock);
    int status = obd_live_remove(u->live, end, OBD_START_MASK, on_hidden, u);
    pthread_rwlock_unlock(&u->lock);
    return status;
}

size_t
obd_upper_collect(struct obd_upper *u, uint64_t start, uint64_t end,
                  struct obd_segment *out, size_t cap, uint64_t *upto)
{
    pthread_rwlock_rdlock(&u->lock);
    size_t n = obd_live_collect(u->live, start, end, out, cap, upto);
    pthread_rwlock_unlock(&u->lock);
    return n;
}

int
obd_upper_read(const struct obd_upper *u, uint64_t offset, uint8_t *buf,
               size_t size, struct obd_fault *fault)
{
    return obd_file_read(u->setup.data_fd, offset, buf, size, fault);
}

void
obd_upper_facts(struct obd_upper *u, struct obd_upper_facts *facts)
{
    pthread_rwlock_rdlock(&u->lock);
    *facts = u->facts;
    facts->segments = obd_live_count(u->live);
    facts->stored = obd_live_stored(u->live);
    facts->data_end = u->space.end;
    facts->unused = obd_space_unused(&u->space) + u->ahead_length;
    facts->pending = u->pending.n;
    facts->journaled = u->journal.records.n;
    pthread_rwlock_unlock(&u->lock);
    pthread_mutex_lock(&u->rounds);
    facts->records = (u->index_end - HEADER_SIZE) / OBD_RECORD_SIZE;
    pthread_mutex_unlock(&u->rounds);
}

/* The index file is written anew when it has this many records more than four
 * times the segments that they make: 1 MiB, replayed in some milliseconds.
 */
#define SLACK_RECORDS 65536

bool
obd_upper_wants_compaction(struct obd_upper *u)
{
    uint64_t records = (atomic_load(&u->index_end) - HEADER_SIZE)
                       / OBD_RECORD_SIZE;

    /* Most flushes are done here, without the lock. */
    if (records <= SLACK_RECORDS)
        return false;
    pthread_rwlock_rdlock(&u->lock);
    uint64_t segments = obd_live_count(u->live);
    pthread_rwlock_unlock(&u->lock);
    return records > 4 * segments + SLACK_RECORDS;
}
