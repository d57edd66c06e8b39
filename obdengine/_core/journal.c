/* SPDX-License-Identifier: Apache-2.0 */
/* journal - see journal.h for the rules that this keeps. */

#include "bytes.h"
#include "crc32c.h"
#include "file.h"
#include "record.h"
#include "upper_parts.h"

#define SECTOR (UINT64_C(1) << OBD_SECTOR_SHIFT)

#define HEADER_MAGIC "OBDJRNL1"
#define ENTRY_MAGIC "OBDFLUSH"

/* Of the header. */
#define AT_GENERATION 8
#define AT_UUID 16
#define AT_HEADER_CRC 52

/* Of an entry; AT_GENERATION too. */
#define AT_NUMBER 16
#define AT_PLACE 24
#define AT_SECTORS 32
#define AT_COUNT 36
#define AT_CRC 40
#define AT_RECORDS 48

/* Sectors; past it a place in bytes would be negative for the kernel. */
#define MOST_PLACE (UINT64_C(1) << 53)

/* A flush of more has what it costs to write the data twice for nothing. */
#define MOST_RECORDS 64
#define MOST_DATA 256           /* sectors: 128 KiB */

static uint64_t
sectors_before_data(uint64_t records)
{
    uint64_t size = AT_RECORDS + records * OBD_RECORD_SIZE;

    return (size + SECTOR - 1) >> OBD_SECTOR_SHIFT;
}

#define MOST_SECTORS (sectors_before_data(MOST_RECORDS) + MOST_DATA)

/* Not seeded with 0, which would take zeros for right. */
static uint32_t
checksum(const uint8_t *p, size_t size)
{
    return obd_crc32c(UINT32_MAX, p, size);
}

void
obd_journal_header(const uint8_t *uuid, uint64_t generation, uint8_t *dst)
{
    memset(dst, 0, OBD_JOURNAL_HEADER);
    memcpy(dst, HEADER_MAGIC, 8);
    obd_store64(dst + AT_GENERATION, generation);
    memcpy(dst + AT_UUID, uuid, OBD_JOURNAL_UUID);
    obd_store32(dst + AT_HEADER_CRC, checksum(dst, AT_HEADER_CRC));
}

static bool
is_header(const uint8_t *header)
{
    return memcmp(header, HEADER_MAGIC, 8) == 0
           && obd_load32(header + AT_HEADER_CRC)
              == checksum(header, AT_HEADER_CRC);
}

static uint64_t
data_sectors(const struct obd_segment *s)
{
    return obd_zeroed(s) ? 0 : obd_length(s);
}

/* ---- Writing ---- */

bool
obd_journal_takes(struct obd_upper *u, const struct batch *b)
{
    struct journal *j = &u->journal;
    uint64_t n = b->records.n, sectors = sectors_before_data(n);

    if (j->fd < 0 || j->failed || n == 0 || n > MOST_RECORDS)
        return false;
    for (size_t i = 0; i < n; i++)
        sectors += data_sectors(&b->records.s[i]);
    if (sectors > sectors_before_data(n) + MOST_DATA
        || j->end + (sectors << OBD_SECTOR_SHIFT) > j->size)
        return false;
    pthread_rwlock_wrlock(&u->lock);
    bool room = list_room(&j->records, n)
                && list_room(&j->hidden, b->hidden.n);
    pthread_rwlock_unlock(&u->lock);
    return room;
}

/* Make the entry of a batch; what it wrote is read again, which the page
 * cache has.  Nobody writes to those places before a checkpoint, (c).
 */
static int
make_entry(struct obd_upper *u, const struct batch *b, uint64_t *size,
           struct obd_fault *fault)
{
    struct journal *j = &u->journal;
    uint64_t n = b->records.n, at = sectors_before_data(n);
    uint64_t place = u->index_end + j->records.n * OBD_RECORD_SIZE;

    memset(j->entry, 0, at << OBD_SECTOR_SHIFT);
    memcpy(j->entry, ENTRY_MAGIC, 8);
    memcpy(j->entry + AT_GENERATION, j->header + AT_GENERATION, 8);
    obd_store64(j->entry + AT_NUMBER, j->number);
    obd_store64(j->entry + AT_PLACE, place);
    obd_store32(j->entry + AT_COUNT, (uint32_t)n);
    obd_record_pack(b->records.s, n, j->entry + AT_RECORDS);
    for (size_t i = 0; i < n; i++) {
        const struct obd_segment *s = &b->records.s[i];
        uint64_t length = data_sectors(s);
        int status = obd_file_read(u->setup.data_fd,
                                   obd_moffset(s) << OBD_SECTOR_SHIFT,
                                   j->entry + (at << OBD_SECTOR_SHIFT),
                                   length << OBD_SECTOR_SHIFT, fault);

        if (status != OBD_OK)
            return status;
        at += length;
    }
    obd_store32(j->entry + AT_SECTORS, (uint32_t)at);
    *size = at << OBD_SECTOR_SHIFT;
    obd_store32(j->entry + AT_CRC, checksum(j->entry, *size));
    return OBD_OK;
}

/* What was written to the journal is kept; there is room for it. */
static void
keep(struct obd_upper *u, struct batch *b, uint64_t size)
{
    struct journal *j = &u->journal;

    pthread_rwlock_wrlock(&u->lock);
    for (size_t i = 0; i < b->records.n; i++)
        j->records.s[j->records.n++] = b->records.s[i];
    for (size_t i = 0; i < b->hidden.n; i++)
        j->hidden.s[j->hidden.n++] = b->hidden.s[i];
    list_clear(&b->records);
    list_clear(&b->hidden);
    b->dirty = false;
    j->end += size;
    j->number++;
    pthread_rwlock_unlock(&u->lock);
}

int
obd_journal_write(struct obd_upper *u, struct batch *b,
                  struct obd_fault *fault)
{
    struct journal *j = &u->journal;
    uint64_t size;
    int status = make_entry(u, b, &size, fault);

    if (status != OBD_OK)
        return status;
    j->used = true;
    int error = u->io.write(u->io.context, j->fd, j->entry, size, j->end);

    if (error == 0)
        error = u->io.sync(u->io.context, j->fd);
    if (error != 0) {
        j->failed = true;
        return refused(fault, error, j->end);
    }
    keep(u, b, size);
    return OBD_OK;
}

static void
let_go(struct obd_upper *u, bool never)
{
    struct journal *j = &u->journal;

    pthread_rwlock_wrlock(&u->lock);
    j->fd = -1;
    atomic_store(&j->had, never);
    pthread_rwlock_unlock(&u->lock);
}

int
obd_journal_reset(struct obd_upper *u, struct list *hidden,
                  struct obd_fault *fault)
{
    struct journal *j = &u->journal;

    if (!j->used)
        return OBD_OK;
    uint8_t uuid[OBD_JOURNAL_UUID];

    memcpy(uuid, j->header + AT_UUID, sizeof uuid);
    obd_journal_header(uuid, obd_load64(j->header + AT_GENERATION) + 1,
                       j->header);
    int error = u->io.write(u->io.context, j->fd, j->header,
                            sizeof j->header, 0);

    if (error == 0)
        error = u->io.sync(u->io.context, j->fd);
    if (error != 0) {
        j->failed = true;
        error = u->io.truncate(u->io.context, j->fd, 0);
        if (error == 0)
            error = u->io.sync(u->io.context, j->fd);
    }
    /* What is there would bring old data back. */
    if (error != 0) {
        u->broken = error;
        return refused(fault, error, 0);
    }
    pthread_rwlock_wrlock(&u->lock);
    (void)list_prepend(hidden, &j->hidden);
    list_clear(&j->records);
    pthread_rwlock_unlock(&u->lock);
    j->end = OBD_JOURNAL_HEADER;
    j->number = 0;
    j->used = false;
    if (j->failed)
        let_go(u, true);
    j->failed = false;
    return OBD_OK;
}

/* ---- Making and ending one ---- */

bool
obd_upper_wants_journal(struct obd_upper *u)
{
    return u->setup.patience > 0 && !u->setup.in_place
           && !atomic_load(&u->journal.had)
           && atomic_load(&u->small_rounds) >= (unsigned)u->setup.patience;
}

int
obd_upper_use_journal(struct obd_upper *u, int fd, uint64_t size,
                      struct obd_fault *fault)
{
    struct journal *j = &u->journal;
    uint8_t header[OBD_JOURNAL_HEADER];
    int status = obd_file_read(fd, 0, header, sizeof header, fault);

    if (status != OBD_OK)
        return status;
    obd_upper_lead(u);
    if (j->entry == NULL)
        j->entry = malloc(MOST_SECTORS << OBD_SECTOR_SHIFT);
    status = j->entry == NULL ? OBD_NOMEM : OBD_OK;
    if (status == OBD_OK) {
        pthread_rwlock_wrlock(&u->lock);
        memcpy(j->header, header, sizeof header);
        j->fd = fd;
        j->size = size;
        j->end = OBD_JOURNAL_HEADER;
        j->number = 0;
        atomic_store(&j->had, true);
        pthread_rwlock_unlock(&u->lock);
    }
    obd_upper_follow(u);
    return status;
}

int
obd_upper_end_journal(struct obd_upper *u, int never, struct obd_fault *fault)
{
    obd_upper_lead(u);
    int status = obd_upper_round(u, true, fault);

    if (status == OBD_OK)
        let_go(u, never);
    obd_upper_follow(u);
    return status;
}

/* ---- Opening ---- */

/* A journal that is gone through. */
struct walk {
    int fd;
    uint64_t size;
    uint64_t end;               /* of the entries that count */
    uint64_t number;
    uint64_t place;             /* where the next records belong */
    uint8_t header[OBD_JOURNAL_HEADER];
    uint8_t *entry;
};

static bool
keeps_rule_four(const struct obd_upper *u, const uint8_t *entry,
                uint64_t sectors)
{
    uint64_t count = obd_load32(entry + AT_COUNT);
    uint64_t need = sectors_before_data(count);

    for (uint64_t i = 0; i < count; i++) {
        struct obd_segment s;

        memcpy(&s, entry + AT_RECORDS + i * OBD_RECORD_SIZE, sizeof s);
        if (obd_length(&s) == 0 || obd_end(&s) > u->setup.disk_end
            || (!obd_zeroed(&s) && (obd_moffset(&s) < HEADER_SECTORS
                                    || obd_moffset(&s) > MOST_PLACE)))
            return false;
        need += data_sectors(&s);
    }
    return need == sectors;
}

/* Bring the next entry; false when there is none that counts. */
static bool
next_entry(const struct obd_upper *u, struct walk *w)
{
    struct obd_fault fault;
    uint8_t *e = w->entry;

    if (w->end + SECTOR > w->size
        || obd_file_read(w->fd, w->end, e, SECTOR, &fault) != OBD_OK)
        return false;
    uint64_t sectors = obd_load32(e + AT_SECTORS);
    uint64_t size = sectors << OBD_SECTOR_SHIFT;
    uint32_t crc = obd_load32(e + AT_CRC);

    if (memcmp(e, ENTRY_MAGIC, 8) != 0
        || memcmp(e + AT_GENERATION, w->header + AT_GENERATION, 8) != 0
        || obd_load64(e + AT_NUMBER) != w->number
        || sectors == 0 || sectors > MOST_SECTORS || size > w->size - w->end
        || obd_load32(e + AT_COUNT) > MOST_RECORDS)
        return false;
    if (obd_file_read(w->fd, w->end, e, size, &fault) != OBD_OK)
        return false;
    obd_store32(e + AT_CRC, 0);
    if (checksum(e, size) != crc || !keeps_rule_four(u, e, sectors))
        return false;
    if (w->number == 0)
        w->place = obd_load64(e + AT_PLACE);
    if (obd_load64(e + AT_PLACE) != w->place)
        return false;
    w->end += size;
    w->number++;
    w->place += obd_load32(e + AT_COUNT) * OBD_RECORD_SIZE;
    return true;
}

static bool
is_nothing(const struct obd_segment *s)
{
    return obd_start(s) == OBD_PADDING_START || (s->lo == 0 && s->hi == 0);
}

/* Whether the entry's records, that padding, or nothing is where they belong:
 * rule (5).
 */
static bool
is_present(const struct obd_upper *u, const struct walk *w)
{
    uint64_t count = obd_load32(w->entry + AT_COUNT);
    uint64_t at = obd_load64(w->entry + AT_PLACE);
    const uint8_t *record = w->entry + AT_RECORDS;

    /* Only the first may not be past the end: that records were lost which
     * it comes after means an older index file.
     */
    if ((w->number == 1 && at > u->index_end) || at % OBD_RECORD_SIZE != 0)
        return false;
    for (; count > 0 && at < u->index_end; count--) {
        struct obd_segment s;
        struct obd_fault fault;

        if (obd_file_read(u->setup.index_fd, at, (uint8_t *)&s, sizeof s,
                          &fault) != OBD_OK)
            return false;
        if (!is_nothing(&s) && memcmp(&s, record, sizeof s) != 0)
            return false;
        at += OBD_RECORD_SIZE;
        record += OBD_RECORD_SIZE;
    }
    return true;
}

/* Find what there is, and whether it counts. */
static int
look(struct obd_upper *u, struct walk *w, const uint8_t *uuid,
     struct obd_journal_found *found)
{
    struct obd_fault fault;

    if (w->size < OBD_JOURNAL_HEADER
        || obd_file_read(w->fd, 0, w->header, OBD_JOURNAL_HEADER, &fault)
           != OBD_OK
        || !is_header(w->header)
        || memcmp(w->header + AT_UUID, uuid, OBD_JOURNAL_UUID) != 0)
        return w->size > 0 ? OBD_JOURNAL_STRAY : OBD_JOURNAL_EMPTY;
    w->end = OBD_JOURNAL_HEADER;
    w->number = 0;
    bool present = true;

    while (next_entry(u, w)) {
        present = present && is_present(u, w);
        found->entries++;
        found->records += obd_load32(w->entry + AT_COUNT);
    }
    if (found->entries == 0)
        return OBD_JOURNAL_EMPTY;
    return present ? OBD_JOURNAL_KEEPS : OBD_JOURNAL_PAST;
}

/* Put an entry's data where it belongs, and its records into the index. */
static int
apply(struct obd_upper *u, const struct walk *w, struct obd_fault *fault)
{
    uint64_t count = obd_load32(w->entry + AT_COUNT);
    const uint8_t *data = w->entry
                          + (sectors_before_data(count) << OBD_SECTOR_SHIFT);
    struct list *kept = &u->journal.records;

    if (!list_room(kept, count))
        return OBD_NOMEM;
    for (uint64_t i = 0; i < count; i++) {
        struct obd_segment s;

        memcpy(&s, w->entry + AT_RECORDS + i * OBD_RECORD_SIZE, sizeof s);
        uint64_t at = obd_moffset(&s) << OBD_SECTOR_SHIFT;
        uint64_t size = data_sectors(&s) << OBD_SECTOR_SHIFT;
        int status = OBD_OK;

        if (size > 0)
            status = refused(fault, u->io.write(u->io.context,
                                                u->setup.data_fd, data, size,
                                                at), at);
        if (status == OBD_OK)
            status = obd_live_insert(u->live, s, NULL, NULL);
        if (status != OBD_OK)
            return status;
        kept->s[kept->n++] = s;
        data += size;
    }
    return OBD_OK;
}

/* Apply what counts, checkpoint, and leave an empty journal. */
static int
replay_journal(struct obd_upper *u, struct walk *w, bool counts,
               struct obd_fault *fault)
{
    struct journal *j = &u->journal;
    struct batch none = { 0 };
    int status = OBD_OK;

    w->end = OBD_JOURNAL_HEADER;
    w->number = 0;
    while (counts && status == OBD_OK && next_entry(u, w))
        status = apply(u, w, fault);
    if (status != OBD_OK)
        return status;
    memcpy(j->header, w->header, sizeof j->header);
    j->fd = w->fd;
    j->used = true;
    status = obd_upper_write_batch(u, &none, fault);
    j->fd = -1;
    return status;
}

int
obd_upper_recover(struct obd_upper *u, int fd, uint64_t size,
                  const uint8_t *uuid, int repair,
                  struct obd_journal_found *found, struct obd_fault *fault)
{
    struct walk w = { .fd = fd, .size = size };

    *found = (struct obd_journal_found){ 0 };
    w.entry = malloc(MOST_SECTORS << OBD_SECTOR_SHIFT);
    if (w.entry == NULL)
        return OBD_NOMEM;
    found->state = look(u, &w, uuid, found);
    int status = OBD_OK;

    if (repair && (found->state == OBD_JOURNAL_KEEPS
                   || found->state == OBD_JOURNAL_PAST))
        status = replay_journal(u, &w, found->state == OBD_JOURNAL_KEEPS,
                                fault);
    free(w.entry);
    return status;
}
