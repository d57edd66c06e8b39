/* SPDX-License-Identifier: Apache-2.0 */
/* upper - room that is made ahead for small writes with flushes. */

#include "uppers.h"

#define DISK 4096
#define FIRST (HEADER / SECTOR)

/* Little writes with flushes write over room that was made ahead for them, in
 * both files, and nothing of that shows.
 */
TEST(upper_writes_ahead_for_small_rounds)
{
    struct rig g;
    uint64_t sizes[2] = { 0 }, grown = 0;

    rig_make(&g, DISK, false, UINT64_C(1) << 30);
    for (uint64_t i = 0; i < 200; i++) {
        SAME(rig_write(&g, i % 40, 1 + i % 3, 1 + i), OBD_OK);
        rig_flush(&g);
        grown += file_size(g.data_fd) != sizes[0]
                 || file_size(g.index_fd) != sizes[1];
        sizes[0] = file_size(g.data_fd);
        sizes[1] = file_size(g.index_fd);
    }
    assert(grown < 30);
    SAME(rig_facts(&g).records, 200);
    for (int round = 0; round < 2; round++) {
        SAME(rig_read_one(&g, 199 % 40), 200);
        SAME(rig_read_one(&g, 198 % 40), 199);
        if (round == 0)
            rig_reopen(&g);
    }
    SAME(rig_facts(&g).dangling + rig_facts(&g).empty, 0);
    SAME(rig_facts(&g).stored + rig_facts(&g).unused,
         rig_facts(&g).data_end - FIRST);
    SAME(file_size(g.data_fd) / SECTOR, rig_facts(&g).data_end);
    /* All of it can be used, for large writes too. */
    SAME(rig_write(&g, 0, 100, 7), OBD_OK);
    rig_free(&g);
}
