/* SPDX-License-Identifier: Apache-2.0 */
/* wire - what NBD's transmission phase says, as far as we speak it.
 *
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; all
 * numbers are big-endian.
 */

#ifndef OBD_WIRE_H
#define OBD_WIRE_H

#include <stdint.h>
#include <string.h>

#define NBD_REQUEST_MAGIC UINT32_C(0x25609513)
#define NBD_SIMPLE_REPLY_MAGIC UINT32_C(0x67446698)
#define NBD_STRUCTURED_REPLY_MAGIC UINT32_C(0x668e33ef)

#define NBD_REQUEST_SIZE 28
#define NBD_SIMPLE_REPLY_SIZE 16
#define NBD_CHUNK_SIZE 20

enum nbd_command {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
    NBD_COMMANDS
};

enum nbd_command_flag {
    NBD_CMD_FLAG_FUA = 1,
    NBD_CMD_FLAG_NO_HOLE = 2,
    NBD_CMD_FLAG_DF = 4,
    NBD_CMD_FLAG_REQ_ONE = 8,
    NBD_CMD_FLAG_FAST_ZERO = 16
};

#define NBD_REPLY_FLAG_DONE 1

enum nbd_chunk {
    NBD_REPLY_TYPE_NONE = 0,
    NBD_REPLY_TYPE_OFFSET_DATA = 1,
    NBD_REPLY_TYPE_OFFSET_HOLE = 2,
    NBD_REPLY_TYPE_BLOCK_STATUS = 5,
    NBD_REPLY_TYPE_ERROR = 0x8001
};

/* Its own numbers, though they are Linux's. */
enum nbd_error {
    NBD_SUCCESS = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28
};

/* base:allocation */
#define NBD_STATE_HOLE 1
#define NBD_STATE_ZERO 2

static inline void
obd_put16(uint8_t *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof v);
}

static inline void
obd_put32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}

static inline void
obd_put64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof v);
}

static inline uint16_t
obd_get16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof v);
    return __builtin_bswap16(v);
}

static inline uint32_t
obd_get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}

static inline uint64_t
obd_get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}

#endif
