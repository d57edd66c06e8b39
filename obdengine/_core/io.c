/* SPDX-License-Identifier: Apache-2.0 */
/* io - see io.h. */

#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int
kernel_write(void *context, int fd, const void *buf, uint64_t size,
             uint64_t offset)
{
    const uint8_t *p = buf;

    (void)context;
    while (size > 0) {
        ssize_t r = pwrite(fd, p, size, (off_t)offset);

        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return r < 0 ? errno : EIO;
        p += r;
        offset += (uint64_t)r;
        size -= (uint64_t)r;
    }
    return 0;
}

static int
kernel_sync(void *context, int fd)
{
    (void)context;
    while (fdatasync(fd) != 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

static int
kernel_truncate(void *context, int fd, uint64_t size)
{
    (void)context;
    return ftruncate(fd, (off_t)size) == 0 ? 0 : errno;
}

static int
kernel_punch(void *context, int fd, uint64_t offset, uint64_t size)
{
    (void)context;
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)offset, (off_t)size) == 0 ? 0 : errno;
}

const struct obd_io obd_io_kernel = {
    .write = kernel_write,
    .sync = kernel_sync,
    .truncate = kernel_truncate,
    .punch = kernel_punch,
};
