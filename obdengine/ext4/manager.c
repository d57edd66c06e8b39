/* SPDX-License-Identifier: Apache-2.0 */

#include "manager.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local struct obd_cache *next;

void
obd_ext4_next_cache(struct obd_cache *c)
{
    next = c;
}

static errcode_t
channel_open(const char *name, int flags, io_channel *out)
{
    io_channel io = calloc(1, sizeof *io);

    (void)flags;
    if (!io)
        return ENOMEM;
    io->name = strdup(name);
    if (!io->name) {
        free(io);
        return ENOMEM;
    }
    io->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    io->manager = &obd_ext4_manager;
    io->block_size = 1024;
    io->refcount = 1;
    io->private_data = next;
    *out = io;
    return 0;
}

/* The cache is its owner's, and so is what waits in it. */
static errcode_t
channel_close(io_channel io)
{
    if (--io->refcount > 0)
        return 0;
    free(io->name);
    free(io);
    return 0;
}

static errcode_t
channel_set_blksize(io_channel io, int size)
{
    io->block_size = size;
    return 0;
}

/* A negative count is one of bytes. */
static errcode_t
span(io_channel io, unsigned long long block, int count, uint64_t *offset,
     size_t *size)
{
    uint64_t unit = (uint64_t)io->block_size;

    if (block > UINT64_MAX / 2 / unit)
        return EIO;
    *offset = block * unit;
    *size = count < 0 ? (size_t)-(long)count : (size_t)count * unit;
    return 0;
}

static errcode_t
channel_read64(io_channel io, unsigned long long block, int count, void *buf)
{
    uint64_t offset;
    size_t size;
    errcode_t error = span(io, block, count, &offset, &size);

    return error ? error : obd_cache_read(io->private_data, offset, buf, size);
}

static errcode_t
channel_write64(io_channel io, unsigned long long block, int count,
                const void *buf)
{
    uint64_t offset;
    size_t size;
    errcode_t error = span(io, block, count, &offset, &size);

    return error ? error
                 : obd_cache_write(io->private_data, offset, buf, size);
}

static errcode_t
channel_read(io_channel io, unsigned long block, int count, void *buf)
{
    return channel_read64(io, block, count, buf);
}

static errcode_t
channel_write(io_channel io, unsigned long block, int count, const void *buf)
{
    return channel_write64(io, block, count, buf);
}

static errcode_t
channel_write_byte(io_channel io, unsigned long offset, int count,
                   const void *buf)
{
    return obd_cache_write(io->private_data, offset, buf, (size_t)count);
}

/* Called for each file and block; obd_ext4_flush() is what writes. */
static errcode_t
channel_flush(io_channel io)
{
    (void)io;
    return 0;
}

static errcode_t
channel_discard(io_channel io, unsigned long long block,
                unsigned long long count)
{
    uint64_t unit = (uint64_t)io->block_size;

    return obd_cache_discard(io->private_data, block * unit, count * unit);
}

static errcode_t
channel_zeroout(io_channel io, unsigned long long block,
                unsigned long long count)
{
    static const uint8_t zeros[OBD_PAGE];
    uint64_t unit = (uint64_t)io->block_size;
    uint64_t offset = block * unit, end = offset + count * unit;

    while (offset < end) {
        size_t part = end - offset < OBD_PAGE ? end - offset : OBD_PAGE;
        int error = obd_cache_write(io->private_data, offset, zeros, part);

        if (error)
            return error;
        offset += part;
    }
    return 0;
}

struct struct_io_manager obd_ext4_manager = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "obdengine",
    .open = channel_open,
    .close = channel_close,
    .set_blksize = channel_set_blksize,
    .read_blk = channel_read,
    .write_blk = channel_write,
    .flush = channel_flush,
    .write_byte = channel_write_byte,
    .read_blk64 = channel_read64,
    .write_blk64 = channel_write64,
    .discard = channel_discard,
    .zeroout = channel_zeroout,
};
