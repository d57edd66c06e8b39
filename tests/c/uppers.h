/* SPDX-License-Identifier: Apache-2.0 */
/* uppers - an upper over two files in memory, whose I/O is counted, refused
 * and stopped in the middle.
 */

#ifndef UPPERS_H
#define UPPERS_H

#include <pthread.h>
#include <stdatomic.h>

#include "check.h"
#include "journal.h"
#include "upper.h"

#define HEADER 4096
#define SECTOR 512

/* What was done last, the newest last: w write, s sync, p punch; capitals for
 * the index file, j and J for the journal's writes and syncs.
 */
#define HISTORY 64

struct rig {
    struct obd_upper *upper;
    int data_fd;
    int index_fd;
    int journal_fd;             /* -1: none */
    struct obd_upper_setup setup;
    struct obd_io io;
    pthread_mutex_t lock;       /* of history */
    char history[HISTORY + 1];
    size_t n;
    _Atomic int failing;        /* errno that calls of a kind fail with */
    _Atomic char fails;         /* which kind, as in history; 0 none */
    uint64_t host_room;         /* sectors that the data file may have; 0 all */
    _Atomic int sync_us;        /* how long a sync takes */
    _Atomic int read_us;        /* and a reader between index and data */
    void (*during)(struct rig *);       /* called once, in the next sync */
    bool torn_reads;            /* a sector may be read while it is written */
};

/* A fresh upper for a disk of so many sectors, open and ready. */
extern void rig_make(struct rig *g, uint64_t disk_end, bool in_place,
                     uint64_t allowance);

/* Use a journal of so many bytes, from now on and when it is opened again. */
extern void rig_journal(struct rig *g, uint64_t size);

/* As after kill: forget the upper, open what the files hold. */
extern void rig_reopen(struct rig *g);

extern void rig_free(struct rig *g);

/* Write length sectors that are all stamped with value. */
extern int rig_write(struct rig *g, uint64_t start, uint64_t length,
                     uint64_t value);

extern void rig_zero(struct rig *g, uint64_t start, uint64_t length);

extern void rig_flush(struct rig *g);

extern struct obd_upper_facts rig_facts(struct rig *g);

/* What was done to the files since the last call, compared with words. */
extern void rig_did(struct rig *g, const char *words);

/* What each sector is stamped with: value, 0 for zeroed, UNMAPPED. */
#define UNMAPPED UINT64_MAX

extern void rig_read(struct rig *g, uint64_t start, uint64_t length,
                     uint64_t *values);

extern uint64_t rig_read_one(struct rig *g, uint64_t start);

/* Put a record at the end of the index file, behind the upper's back. */
extern void rig_append_record(struct rig *g, struct obd_segment s);

extern uint64_t file_size(int fd);

#endif
