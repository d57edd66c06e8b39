/* SPDX-License-Identifier: Apache-2.0 */
/* uppers - see uppers.h. */

#include "uppers.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "bytes.h"
#include "record.h"

static int
noted(struct rig *g, int fd, char kind)
{
    if (fd == g->journal_fd)
        kind = kind == 'w' ? 'j' : kind == 's' ? 'J' : kind;
    else if (fd != g->data_fd)
        kind = (char)(kind - 'a' + 'A');
    pthread_mutex_lock(&g->lock);
    if (g->n == HISTORY)
        memmove(g->history, g->history + 1, --g->n);
    g->history[g->n++] = kind;
    g->history[g->n] = 0;
    pthread_mutex_unlock(&g->lock);
    return g->fails == kind ? g->failing : 0;
}

static int
on_write(void *context, int fd, const void *buf, uint64_t size,
         uint64_t offset)
{
    struct rig *g = context;
    int error = noted(g, fd, 'w');

    if (fd == g->data_fd && g->host_room
        && offset + size > g->host_room * SECTOR)
        error = ENOSPC;
    return error ? error : obd_io_kernel.write(NULL, fd, buf, size, offset);
}

static int
on_sync(void *context, int fd)
{
    struct rig *g = context;
    int error = noted(g, fd, 's');
    void (*during)(struct rig *) = g->during;

    g->during = NULL;
    if (during)
        during(g);
    if (g->sync_us)
        usleep((useconds_t)g->sync_us);
    return error;
}

static int
on_truncate(void *context, int fd, uint64_t size)
{
    int error = noted(context, fd, 't');

    return error ? error : obd_io_kernel.truncate(NULL, fd, size);
}

static int
on_punch(void *context, int fd, uint64_t offset, uint64_t size)
{
    int error = noted(context, fd, 'p');

    return error ? error : obd_io_kernel.punch(NULL, fd, offset, size);
}

uint64_t
file_size(int fd)
{
    struct stat st;

    SAME(fstat(fd, &st), 0);
    return (uint64_t)st.st_size;
}

static const uint8_t uuid[] = "0123abcd-0000-4000-8000-00000000000a";

static void
open_upper(struct rig *g)
{
    size_t n = (file_size(g->index_fd) - HEADER) / OBD_RECORD_SIZE;
    uint64_t sectors = file_size(g->data_fd) / SECTOR;
    uint8_t *raw = grab(n * OBD_RECORD_SIZE);
    struct obd_fault f;

    g->upper = obd_upper_new(&g->setup, &g->io);
    assert(g->upper != NULL);
    SAME(pread(g->index_fd, raw, n * OBD_RECORD_SIZE, HEADER),
         n * OBD_RECORD_SIZE);
    SAME(obd_upper_replay(g->upper, raw, n, sectors, 1, &f), OBD_OK);
    free(raw);
    if (g->journal_fd >= 0) {
        uint64_t size = file_size(g->journal_fd);
        struct obd_journal_found found;

        SAME(obd_upper_recover(g->upper, g->journal_fd, size, uuid, 1, &found,
                               &f), OBD_OK);
        assert(found.state == OBD_JOURNAL_KEEPS
               || found.state == OBD_JOURNAL_EMPTY);
        sectors = file_size(g->data_fd) / SECTOR;
        SAME(obd_upper_use_journal(g->upper, g->journal_fd, size, &f), OBD_OK);
    }
    SAME(obd_upper_start(g->upper, sectors, &f), OBD_OK);
}

void
rig_journal(struct rig *g, uint64_t size)
{
    uint8_t *raw = grab(size);
    struct obd_fault f;

    memset(raw, 0, size);
    obd_journal_header(uuid, 5, raw);
    g->journal_fd = file_of(raw, size);
    free(raw);
    SAME(obd_upper_use_journal(g->upper, g->journal_fd, size, &f), OBD_OK);
}

void
rig_make(struct rig *g, uint64_t disk_end, bool in_place, uint64_t allowance)
{
    uint8_t header[HEADER] = { 0 };

    memset(g, 0, sizeof *g);
    pthread_mutex_init(&g->lock, NULL);
    g->data_fd = file_of(header, sizeof header);
    g->index_fd = file_of(header, sizeof header);
    g->journal_fd = -1;
    if (in_place)
        SAME(ftruncate(g->data_fd, (off_t)(HEADER + disk_end * SECTOR)), 0);
    g->io = (struct obd_io){ g, on_write, on_sync, on_truncate, on_punch };
    g->setup = (struct obd_upper_setup){
        .disk_end = disk_end,
        .data_limit = UINT64_C(1) << 40,
        .allowance = allowance,
        .data_fd = g->data_fd,
        .index_fd = g->index_fd,
        .in_place = in_place,
    };
    open_upper(g);
}

void
rig_reopen(struct rig *g)
{
    obd_upper_free(g->upper);
    open_upper(g);
}

void
rig_free(struct rig *g)
{
    obd_upper_free(g->upper);
    close(g->data_fd);
    close(g->index_fd);
    if (g->journal_fd >= 0)
        close(g->journal_fd);
    pthread_mutex_destroy(&g->lock);
}

int
rig_write(struct rig *g, uint64_t start, uint64_t length, uint64_t value)
{
    uint8_t *buf = grab(length * SECTOR);
    struct obd_fault f = { 0 };

    for (uint64_t i = 0; i < length * SECTOR; i += 8)
        obd_store64(buf + i, value);
    int status = obd_upper_write(g->upper, start, length, buf, &f);

    if (status != OBD_OK)
        SAME(f.got, g->fails ? g->failing : ENOSPC);
    free(buf);
    return status;
}

void
rig_flush(struct rig *g)
{
    struct obd_fault f;

    SAME(obd_upper_flush(g->upper, &f), OBD_OK);
}

static uint64_t
stamp_of(const struct rig *g, const uint8_t *sector)
{
    if (!g->torn_reads)
        SAME(memcmp(sector, sector + 8, SECTOR - 8), 0);
    return obd_load64(sector);
}

static void
read_segment(struct rig *g, const struct obd_segment *s, uint64_t *values)
{
    struct obd_fault f;
    uint8_t buf[SECTOR];

    for (uint64_t i = 0; i < obd_length(s); i++) {
        if (obd_zeroed(s)) {
            values[i] = 0;
            continue;
        }
        SAME(obd_upper_read(g->upper, (obd_moffset(s) + i) * SECTOR, buf,
                            SECTOR, &f), OBD_OK);
        values[i] = stamp_of(g, buf);
    }
}

void
rig_read(struct rig *g, uint64_t start, uint64_t length, uint64_t *values)
{
    struct obd_segment found[16];
    uint64_t at = start, end = start + length, upto;
    unsigned ticket = obd_upper_enter(g->upper);

    for (uint64_t i = 0; i < length; i++)
        values[i] = UNMAPPED;
    while (at < end) {
        size_t n = obd_upper_collect(g->upper, at, end, found, 16, &upto);

        if (g->read_us)
            usleep((useconds_t)g->read_us);
        for (size_t i = 0; i < n; i++)
            read_segment(g, &found[i], values + obd_start(&found[i]) - start);
        at = upto;
    }
    obd_upper_leave(g->upper, ticket);
}

uint64_t
rig_read_one(struct rig *g, uint64_t start)
{
    uint64_t value;

    rig_read(g, start, 1, &value);
    return value;
}

void
rig_append_record(struct rig *g, struct obd_segment s)
{
    SAME(pwrite(g->index_fd, &s, sizeof s, (off_t)file_size(g->index_fd)),
         sizeof s);
}

void
rig_zero(struct rig *g, uint64_t start, uint64_t length)
{
    struct obd_fault f;

    SAME(obd_upper_zero(g->upper, start, length, &f), OBD_OK);
}

struct obd_upper_facts
rig_facts(struct rig *g)
{
    struct obd_upper_facts facts;

    obd_upper_facts(g->upper, &facts);
    return facts;
}

void
rig_did(struct rig *g, const char *words)
{
    if (strcmp(g->history, words) != 0) {
        fprintf(stderr, "did %s, not %s\n", g->history, words);
        abort();
    }
    g->n = 0;
    g->history[0] = 0;
}
