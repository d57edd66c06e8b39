/* SPDX-License-Identifier: Apache-2.0 */
/* upper - without room: its own limit, and the host's. */

#include <errno.h>

#include "uppers.h"

#define DISK 1000
#define FIRST 8                 /* sector of the data file with the first data */

/* Of room for 30 sectors an eighth is for writing over the others. */
TEST(upper_keeps_to_its_limit)
{
    struct rig g;

    rig_make(&g, DISK, false, 0);
    g.setup.data_limit = FIRST + 30;
    rig_reopen(&g);
    SAME(rig_write(&g, 0, 27, 1), OBD_OK);
    SAME(rig_write(&g, 27, 1, 2), OBD_FULL);
    rig_zero(&g, 0, 4);             /* needs no room, and makes some */
    SAME(rig_write(&g, 30, 4, 3), OBD_OK);
    SAME(rig_write(&g, 0, 1, 3), OBD_FULL);
    SAME(file_size(g.data_fd), HEADER + 30 * SECTOR);
    SAME(rig_read_one(&g, 33), 3);
    SAME(rig_read_one(&g, 0), 0);
    rig_free(&g);
}

/* Nothing has to be discarded before it can be written over. */
TEST(upper_that_is_full_is_written_over)
{
    struct rig g;

    rig_make(&g, DISK, false, 0);
    g.setup.data_limit = FIRST + 30;
    rig_reopen(&g);
    SAME(rig_write(&g, 0, 27, 1), OBD_OK);
    for (uint64_t value = 2; value < 200; value++)
        SAME(rig_write(&g, value % 7, 20, value), OBD_OK);
    SAME(rig_read_one(&g, 25), 195);
    SAME(rig_write(&g, 20, 8, 200), OBD_FULL);
    SAME(rig_read_one(&g, 26), 200);    /* it had a place */
    SAME(rig_read_one(&g, 27), UNMAPPED);
    rig_flush(&g);
    rig_reopen(&g);
    SAME(rig_write(&g, 0, 27, 201), OBD_OK);
    SAME(rig_write(&g, 27, 1, 201), OBD_FULL);
    SAME(file_size(g.data_fd), HEADER + 30 * SECTOR);
    rig_free(&g);
}

/* A layer from before its limit may have more: it is full, that is all. */
TEST(upper_beyond_its_limit)
{
    struct rig g;

    rig_make(&g, DISK, false, 0);
    SAME(rig_write(&g, 0, 30, 1), OBD_OK);
    rig_flush(&g);
    g.setup.data_limit = FIRST + 20;
    rig_reopen(&g);
    SAME(rig_write(&g, 0, 1, 2), OBD_FULL);
    SAME(rig_write(&g, 40, 1, 2), OBD_FULL);
    rig_zero(&g, 0, 12);
    SAME(rig_write(&g, 20, 1, 2), OBD_OK);
    SAME(rig_write(&g, 40, 1, 2), OBD_FULL);
    SAME(file_size(g.data_fd), HEADER + 30 * SECTOR);
    rig_free(&g);
}

/* A client need not flush for that: a write without room does. */
TEST(upper_makes_room_by_itself)
{
    struct rig g;

    rig_make(&g, DISK, false, 0);
    g.setup.data_limit = FIRST + 30;
    rig_reopen(&g);
    SAME(rig_write(&g, 0, 20, 1), OBD_OK);
    for (uint64_t value = 2; value < 40; value++)
        SAME(rig_write(&g, value % 11, 10, value), OBD_OK);
    SAME(rig_write(&g, 0, 31, 40), OBD_FULL);
    SAME(rig_read_one(&g, 26), 40);
    SAME(rig_read_one(&g, 27), UNMAPPED);
    rig_zero(&g, 0, 4);
    SAME(rig_write(&g, 20, 4, 41), OBD_OK);
    SAME(rig_read_one(&g, 23), 41);
    SAME(file_size(g.data_fd), HEADER + 30 * SECTOR);
    rig_free(&g);
}

/* Its flushes fail as others do, and it waits for readers. */
TEST(upper_that_cannot_make_room)
{
    struct rig g;

    rig_make(&g, DISK, false, 0);
    g.setup.data_limit = FIRST + 30;
    rig_reopen(&g);
    SAME(rig_write(&g, 0, 27, 1), OBD_OK);
    SAME(rig_write(&g, 0, 3, 1), OBD_OK);
    rig_zero(&g, 0, 4);
    g.failing = ENOSPC;
    g.fails = 'W';
    SAME(rig_write(&g, 0, 4, 2), OBD_FULL);
    SAME(rig_read_one(&g, 0), 0);
    g.fails = 0;
    unsigned ticket = obd_upper_enter(g.upper);

    SAME(rig_write(&g, 0, 4, 2), OBD_FULL);
    obd_upper_leave(g.upper, ticket);
    SAME(rig_write(&g, 0, 4, 3), OBD_OK);
    SAME(rig_read_one(&g, 3), 3);
    rig_free(&g);
}

/* In place only what has data counts. */
TEST(upper_in_place_keeps_to_its_limit)
{
    struct rig g;

    rig_make(&g, DISK, true, 0);
    g.setup.data_limit = FIRST + 30;
    rig_reopen(&g);
    for (uint64_t at = 0; at < 60; at += 4)
        SAME(rig_write(&g, at, 2, 1), OBD_OK);
    SAME(rig_write(&g, 2, 1, 2), OBD_FULL);
    SAME(rig_write(&g, 4, 3, 2), OBD_FULL);
    SAME(rig_write(&g, 4, 2, 3), OBD_OK);
    rig_zero(&g, 8, 40);
    SAME(rig_write(&g, 0, 17, 4), OBD_OK);
    rig_flush(&g);
    rig_reopen(&g);
    SAME(rig_read_one(&g, 16), 4);
    SAME(rig_write(&g, 0, 40, 5), OBD_FULL);
    SAME(rig_write(&g, 0, 24, 5), OBD_OK);
    SAME(rig_write(&g, 24, 1, 6), OBD_FULL);
    rig_free(&g);
}

/* The same where the host has no room, and the limit is far. */
TEST(upper_uses_garbage_when_the_host_is_full)
{
    struct rig g;

    rig_make(&g, DISK, false, 1000);
    g.host_room = FIRST + 30;
    SAME(rig_write(&g, 0, 20, 1), OBD_OK);
    for (uint64_t value = 2; value < 40; value++)
        SAME(rig_write(&g, value % 11, 10, value), OBD_OK);
    SAME(rig_write(&g, 0, 31, 40), OBD_FULL);
    SAME(rig_read_one(&g, 29), 40);
    rig_zero(&g, 0, 4);
    SAME(rig_write(&g, 20, 4, 41), OBD_OK);
    SAME(rig_read_one(&g, 23), 41);
    g.host_room = 0;
    SAME(rig_write(&g, 30, 9, 42), OBD_OK);
    rig_flush(&g);
    rig_reopen(&g);
    SAME(rig_read_one(&g, 38), 42);
    SAME(rig_read_one(&g, 23), 41);
    SAME(rig_read_one(&g, 24), 40);
    rig_free(&g);
}
