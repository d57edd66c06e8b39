/* SPDX-License-Identifier: Apache-2.0 */
/* file - see file.h. */

#include "file.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <unistd.h>

static _Thread_local bool must_not_wait;
static _Atomic bool kernel_can_tell = true;

void
obd_file_wait(bool may)
{
    must_not_wait = !may
                    && atomic_load_explicit(&kernel_can_tell,
                                            memory_order_relaxed);
}

static ssize_t
read_some(int fd, uint64_t offset, uint8_t *buf, size_t size)
{
    if (!must_not_wait)
        return pread(fd, buf, size, (off_t)offset);
    struct iovec part = { buf, size };
    ssize_t r = preadv2(fd, &part, 1, (off_t)offset, RWF_NOWAIT);

    if (OBD_LIKELY(r >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS)))
        return r;
    /* Some file systems cannot; asking each time would cost more. */
    must_not_wait = false;
    atomic_store_explicit(&kernel_can_tell, false, memory_order_relaxed);
    return pread(fd, buf, size, (off_t)offset);
}

int
obd_file_read(int fd, uint64_t offset, uint8_t *buf, size_t size,
              struct obd_fault *fault)
{
    while (size > 0) {
        ssize_t r = read_some(fd, offset, buf, size);

        if (OBD_UNLIKELY(r <= 0)) {
            if (r < 0 && errno == EINTR)
                continue;
            fault->at = offset;
            fault->got = r < 0 ? (uint64_t)errno : 0;
            fault->want = size;
            return r < 0 ? OBD_IO : OBD_SHORT;
        }
        buf += r;
        offset += (uint64_t)r;
        size -= (size_t)r;
    }
    return OBD_OK;
}
