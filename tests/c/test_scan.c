/* SPDX-License-Identifier: Apache-2.0 */
/* scan - zero and equal granules, with one byte wrong at each place. */

#include "check.h"
#include "scan.h"

TEST(scan_sees_one_byte)
{
    enum { SIZE = 300, GRANULE = 64, FLAGS = 5 };
    uint8_t *zero = calloc(1, SIZE), *same = calloc(1, SIZE), flags[FLAGS];

    assert(zero != NULL && same != NULL);
    for (size_t at = 0; at < SIZE; at++) {
        zero[at] = 1;
        obd_scan_zero(zero, SIZE, GRANULE, flags);
        for (size_t i = 0; i < FLAGS; i++)
            SAME(flags[i], i != at / GRANULE);
        obd_scan_same(zero, same, SIZE, GRANULE, flags);
        for (size_t i = 0; i < FLAGS; i++)
            SAME(flags[i], i != at / GRANULE);
        zero[at] = 0;
    }
    obd_scan_zero(zero, SIZE, GRANULE, flags);
    SAME(flags[FLAGS - 1], 1);
    free(zero);
    free(same);
}

TEST(scan_of_nothing)
{
    uint8_t byte = 7, flag = 9;

    obd_scan_zero(&byte, 0, 4096, &flag);
    SAME(flag, 9);
    obd_scan_zero(&byte, 1, 4096, &flag);
    SAME(flag, 0);
}
