/* SPDX-License-Identifier: Apache-2.0 */
/* quota - how much live data fits within an upper's limit.
 *
 * In append form what is written over takes a second place until a flush has
 * made the new record durable.  So a part of the limit is kept from live data:
 * a disk that is full can still be written over, a reserve at a time.
 */

#include "bytes.h"
#include "upper_parts.h"

/* Sectors.  A reserve is 1/64 of the room, as large as 1 MiB where that is not
 * more than an eighth of it, and at most 64 MiB: after so much a flush costs
 * little beside the writes.
 */
#define LEAST_RESERVE 2048
#define MOST_RESERVE 131072

static uint64_t
quota(const struct obd_upper *u)
{
    uint64_t limit = u->setup.data_limit;
    uint64_t room = limit > HEADER_SECTORS ? limit - HEADER_SECTORS : 0;
    uint64_t reserve = obd_min(obd_max(room / 64, LEAST_RESERVE), room / 8);

    /* In place data is written over where it is. */
    return u->setup.in_place ? room : room - obd_min(reserve, MOST_RESERVE);
}

bool
obd_upper_has_reserve(const struct obd_upper *u)
{
    return obd_live_stored(u->live) <= quota(u);
}

uint64_t
obd_upper_admit(const struct obd_upper *u, uint64_t start, uint64_t want,
                uint64_t *growth)
{
    struct obd_segment found[32];
    uint64_t most = quota(u), end = start + want, at = start, upto = start;
    uint64_t taken = obd_live_stored(u->live) + u->promised;
    uint64_t left = most > taken ? most - taken : 0;

    *growth = want;
    if (want <= left)
        return want;
    *growth = 0;
    while (at < end) {
        size_t n = obd_live_collect(u->live, at, end, found, 32, &upto);

        for (size_t i = 0; i <= n; i++) {
            uint64_t stop = i < n ? obd_start(&found[i]) : upto;

            if (i < n && obd_zeroed(&found[i]))
                continue;
            if (stop - at > left - *growth) {
                at += left - *growth;
                *growth = left;
                return at - start;
            }
            *growth += stop - at;
            at = i < n ? obd_end(&found[i]) : upto;
        }
    }
    return want;
}
