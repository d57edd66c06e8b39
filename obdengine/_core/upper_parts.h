/* SPDX-License-Identifier: Apache-2.0 */
/* upper_parts - what the upper is made of, for the files that make it up. */

#ifndef OBD_UPPER_PARTS_H
#define OBD_UPPER_PARTS_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "live.h"
#include "space.h"
#include "upper.h"

#define HEADER_SIZE 4096
#define HEADER_SECTORS (HEADER_SIZE >> OBD_SECTOR_SHIFT)

/* A growing list of segments; for garbage lo is the start, hi the length. */
struct list {
    struct obd_segment *s;
    size_t n;
    size_t capacity;
};

/* What one round of flushing makes durable. */
struct batch {
    struct list records;
    struct list hidden;
    bool dirty;
};

struct obd_upper {
    struct obd_upper_setup setup;
    struct obd_io io;

    pthread_rwlock_t lock;      /* of all up to rounds */
    struct obd_live *live;
    struct obd_space space;
    struct list pending;        /* records that no flush has taken */
    struct list hidden;         /* data that pending records hide */
    struct list retired;        /* hidden durably, maybe still read */
    uint64_t promised;          /* sectors that writes under way may add */
    uint64_t split_at;          /* see obd_upper_split_at() */
    uint64_t ahead_start;       /* sectors that are zeros on the host, for */
    uint64_t ahead_length;      /* the next small writes */
    bool ahead_made;            /* somebody writes them just now */
    bool dirty;                 /* data was written since the last sync */
    _Atomic unsigned small_rounds;      /* one after the other */
    _Atomic uint64_t index_end; /* bytes of the index file that count */
    struct obd_upper_facts facts;

    _Atomic unsigned epoch;     /* see release() */
    _Atomic uint64_t readers[2];

    pthread_mutex_t rounds;     /* of all below */
    pthread_cond_t round_over;
    uint64_t begun;
    uint64_t ended;
    bool leading;
    int last_status;            /* of the round that ended last */
    struct obd_fault last_fault;
    int broken;                 /* errno of a sync that failed, for ever */
    uint64_t padded_end;        /* of padding behind what counts, or less */
    struct batch held;          /* while the index file is replaced */
    int next_index_fd;
    uint64_t next_index_end;
};

static inline bool
list_room(struct list *l, size_t more)
{
    if (l->n + more <= l->capacity)
        return true;
    size_t capacity = l->capacity ? l->capacity * 2 : 64;

    while (capacity < l->n + more)
        capacity *= 2;
    struct obd_segment *s = realloc(l->s, capacity * sizeof *s);

    if (s == NULL)
        return false;
    l->s = s;
    l->capacity = capacity;
    return true;
}

static inline void
list_clear(struct list *l)
{
    free(l->s);
    *l = (struct list){ 0 };
}

static inline int
refused(struct obd_fault *fault, int error, uint64_t offset)
{
    if (error == 0)
        return OBD_OK;
    fault->got = (uint64_t)error;
    fault->at = offset;
    return error == ENOSPC || error == EDQUOT ? OBD_FULL : OBD_IO;
}

/* A place in the data file for a part of a write. */
struct place {
    uint64_t at;
    uint64_t length;
    uint64_t growth;            /* sectors that it was promised to add */
};

/* How many of want sectors from start may be written: new ones while live
 * data stays within the quota, and any that have data.  *growth: how many of
 * them may have none.  The lock is held.
 */
extern uint64_t obd_upper_admit(const struct obd_upper *u, uint64_t start,
                                uint64_t want, uint64_t *growth)
    OBD_NONNULL(1, 4) OBD_MUST_USE;

/* Whether live data leaves what is kept for writing over it.  The lock is
 * held.
 */
extern bool obd_upper_has_reserve(const struct obd_upper *u)
    OBD_NONNULL(1) OBD_MUST_USE;

/* All segments, into a list that is empty.  The lock is held. */
extern int obd_upper_dump(const struct obd_upper *u, struct list *out)
    OBD_NONNULL(1, 2) OBD_MUST_USE;

#endif
