/* SPDX-License-Identifier: Apache-2.0 */
/* uppers - an empty upper over a layer without Python, in files without names.
 */

#ifndef BENCH_UPPERS_H
#define BENCH_UPPERS_H

#include "opened.h"
#include "upper.h"

struct made {
    struct obd_upper *upper;
    struct obd_device *device;
    int data_fd;
    int index_fd;
};

static inline int
temporary(const char *folder)
{
    int fd = open(folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

    must(fd >= 0, folder);
    return fd;
}

static inline struct made
make_upper(const char *folder, const struct opened *base, int in_place,
           uint64_t allowance)
{
    struct made m = { .data_fd = temporary(folder),
                      .index_fd = temporary(folder) };
    struct obd_upper_setup setup = {
        .disk_end = base->size >> OBD_SECTOR_SHIFT,
        .data_limit = UINT64_C(1) << 50,
        .allowance = allowance,
        .data_fd = m.data_fd,
        .index_fd = m.index_fd,
        .in_place = in_place,
    };
    struct obd_fault fault;
    uint64_t size = in_place ? TRAILER + base->size : TRAILER;

    must(ftruncate(m.index_fd, TRAILER) == 0
         && ftruncate(m.data_fd, (off_t)size) == 0, "ftruncate");
    m.upper = need(obd_upper_new(&setup, NULL));
    must(obd_upper_start(m.upper, size >> OBD_SECTOR_SHIFT, &fault) == OBD_OK,
         "start");
    m.device = need(obd_device_new(&base->blob, 1, base->map, m.upper,
                                   base->size));
    return m;
}

static inline void
drop_upper(struct made *m)
{
    obd_device_free(m->device);
    obd_upper_free(m->upper);
    close(m->data_fd);
    close(m->index_fd);
}

#endif
