/* SPDX-License-Identifier: Apache-2.0 */
/* file - see file.h. */

#include "file.h"

#include <errno.h>
#include <unistd.h>

int
obd_file_read(int fd, uint64_t offset, uint8_t *buf, size_t size,
              struct obd_fault *fault)
{
    while (size > 0) {
        ssize_t r = pread(fd, buf, size, (off_t)offset);

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
