/* SPDX-License-Identifier: Apache-2.0 */
/* driver - random work on a file system in memory, for the sanitizers.
 *
 *   driver IMAGE SEED DAMAGE     IMAGE is read, worked on, and written back
 *
 * DAMAGE bytes of the image are changed first: then calls may fail, and must
 * not do anything worse.  Without damage a call that fails ends the program.
 */

#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ext4.h"

#define FILES 300
#define FOLDERS 4
#define BIG 600000

struct obd_device {
    uint8_t *bytes;
    uint64_t size;
};

static uint64_t state;
static int damaged;

static uint32_t
chance(uint32_t below)
{
    state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static int
disk_read(const struct obd_device *d, uint64_t offset, uint8_t *buf,
          size_t size, struct obd_fault *fault)
{
    (void)fault;
    if (offset > d->size || size > d->size - offset)
        return OBD_OUT_OF_RANGE;
    if (chance(50) == 0)
        return OBD_ABSENT;
    memcpy(buf, d->bytes + offset, size);
    return OBD_OK;
}

static int
disk_write(struct obd_device *d, uint64_t offset, const uint8_t *buf,
           size_t size, struct obd_fault *fault)
{
    (void)fault;
    if (offset > d->size || size > d->size - offset)
        return OBD_OUT_OF_RANGE;
    memcpy(d->bytes + offset, buf, size);
    return OBD_OK;
}

static int
disk_discard(struct obd_device *d, uint64_t offset, uint64_t size,
             struct obd_fault *fault)
{
    (void)fault;
    if (offset > d->size || size > d->size - offset)
        return OBD_OUT_OF_RANGE;
    memset(d->bytes + offset, 0, size);
    return OBD_OK;
}

static int
recover(void *context, int op, uint64_t offset, uint8_t *buf, uint64_t size)
{
    const struct obd_device *d = context;

    if (op != OBD_DISK_READ || offset > d->size || size > d->size - offset)
        return EIO;
    memcpy(buf, d->bytes + offset, size);
    return 0;
}

/* Whether a call has done what it should. */
static int
fine(errcode_t error, int line)
{
    if (error && !damaged) {
        fprintf(stderr, "line %d: %s\n", line, obd_ext4_message(error));
        exit(1);
    }
    return !error;
}

#define FINE(call) fine((call), __LINE__)

static struct obd_attributes
some(uint32_t type)
{
    struct obd_attributes a = {
        .mode = type | chance(07777), .uid = chance(100000),
        .gid = chance(100000), .major = 8, .minor = chance(1000),
        .mtime = { (int64_t)chance(UINT32_MAX) - 1000, chance(1000000000) }
    };

    return a;
}

static uint32_t
new_inode(struct obd_ext4 *f, uint8_t *type)
{
    static uint8_t data[BIG];
    struct obd_attributes a = some(LINUX_S_IFREG);
    uint32_t ino = 0, kind = chance(10), i;
    static const uint8_t types[] = { 1, EXT2_FT_SYMLINK, EXT2_FT_CHRDEV };
    size_t size = chance(kind ? 9000 : BIG), at;

    *type = types[kind < 3 ? kind : 0];
    if (kind == 1) {
        a = some(LINUX_S_IFLNK);
        memset(data, 'x', 200);
        return FINE(obd_ext4_make(f, &a, data, 1 + chance(200), &ino)) ? ino
                                                                       : 0;
    }
    if (kind == 2) {
        a = some(LINUX_S_IFCHR);
        return FINE(obd_ext4_make(f, &a, data, 0, &ino)) ? ino : 0;
    }
    for (i = 0; i < size; i++)
        data[i] = i % 20000 < 10000 ? 0 : (uint8_t)(i + 1);
    a.size = size;
    if (kind != 3)
        return FINE(obd_ext4_file(f, &a, data, size, &ino)) ? ino : 0;
    if (!FINE(obd_ext4_file_begin(f, &a, &ino)))
        return 0;
    for (at = 0; at < size; at += 777)
        FINE(obd_ext4_file_data(f, at, data + at, chance(777)
                                < size - at ? 1 : size - at));
    return FINE(obd_ext4_file_end(f, size)) ? ino : 0;
}

static size_t
change(uint8_t *to, int op, uint32_t ino, uint8_t type, uint32_t number,
       unsigned width)
{
    char name[256];
    int length = snprintf(name, sizeof name, "%0*u", (int)width, number);

    to[0] = (uint8_t)op;
    memcpy(to + 1, &ino, 4);
    to[5] = type;
    to[6] = (uint8_t)length;
    memcpy(to + 7, name, (size_t)length);
    return 7 + (size_t)length;
}

static void
look(struct obd_ext4 *f, uint32_t ino)
{
    struct obd_run runs[64];
    struct obd_attributes a;
    uint8_t *out, buf[5000];
    size_t n;

    FINE(obd_ext4_stat(f, ino, &a));
    if (FINE(obd_ext4_xattrs(f, ino, &out, &n)))
        free(out);
    if (LINUX_S_ISLNK(a.mode))
        FINE(obd_ext4_readlink(f, ino, buf, sizeof buf, &n));
    if (LINUX_S_ISREG(a.mode)) {
        FINE(obd_ext4_runs(f, ino, 0, runs, 64, &n));
        FINE(obd_ext4_read(f, ino, chance(4000), buf, sizeof buf, &n));
    }
}

static void
set_xattr(struct obd_ext4 *f, uint32_t ino)
{
    uint8_t packed[400] = { 6, 'u', 's', 'e', 'r', '.', 'x' };
    uint32_t size = chance(300);

    memcpy(packed + 7, &size, 4);
    memset(packed + 11, 'v', size);
    FINE(obd_ext4_set_xattrs(f, ino, packed, 11 + size));
}

/* One directory full of files: some of them are removed, others come. */
static void
work(struct obd_ext4 *f)
{
    struct obd_attributes a = some(LINUX_S_IFDIR);
    uint32_t folder, files[FILES] = { 0 }, round, i;
    unsigned width = 3 + chance(200);
    uint8_t *changes = malloc(2 * FILES * 263), *out;
    uint8_t type;
    size_t n = 0;

    assert(changes);
    if (!FINE(obd_ext4_make(f, &a, changes, 0, &folder)))
        goto out;
    for (round = 0; round < 4; round++) {
        for (i = 0, n = 0; i < FILES; i++) {
            if (files[i] && chance(2)) {
                n += change(changes + n, OBD_DIR_REMOVE, files[i], 0, i,
                            width);
                FINE(obd_ext4_unlink(f, files[i]));
                files[i] = 0;
            } else if (!files[i] && chance(3)) {
                files[i] = new_inode(f, &type);
                if (files[i])
                    n += change(changes + n, OBD_DIR_ADD, files[i], type, i,
                                width);
            } else if (files[i]) {
                look(f, files[i]);
                if (chance(4) == 0)
                    set_xattr(f, files[i]);
            }
        }
        FINE(obd_ext4_change(f, folder, 2, 2, changes, n));
        if (FINE(obd_ext4_list(f, folder, &out, &n)))
            free(out);
        if (chance(2))
            FINE(obd_ext4_flush(f));
    }
    n = change(changes, OBD_DIR_ADD, folder, EXT2_FT_DIR,
               1000 + chance(1u << 30), 10);
    FINE(obd_ext4_stat(f, 2, &a));
    FINE(obd_ext4_change(f, 2, 2, a.links + 1, changes, n));
out:
    free(changes);
}

int
main(int argc, char **argv)
{
    struct obd_device d = { 0 };
    struct obd_disk disk = {
        .device = &d, .read = disk_read, .write = disk_write,
        .discard = disk_discard, .recover = recover, .context = &d
    };
    struct obd_ext4 *f = NULL;
    FILE *image;
    int i;

    assert(argc == 4);
    image = fopen(argv[1], "r+b");
    assert(image && fseek(image, 0, SEEK_END) == 0);
    disk.size = d.size = (uint64_t)ftell(image);
    d.bytes = malloc(d.size);
    rewind(image);
    assert(d.bytes && fread(d.bytes, 1, d.size, image) == d.size);
    state = strtoull(argv[2], NULL, 10);
    damaged = atoi(argv[3]);
    for (i = 0; i < damaged; i++)
        d.bytes[1024 + chance(1u << chance(24))] = (uint8_t)chance(256);
    if (FINE(obd_ext4_open(&disk, 1, 1 << 18, 12345, &f))) {
        for (i = 0; i < FOLDERS; i++)
            work(f);
        FINE(obd_ext4_close(f));
    } else {
        obd_ext4_abandon(f);
    }
    rewind(image);
    assert(fwrite(d.bytes, 1, d.size, image) == d.size);
    assert(fclose(image) == 0);
    free(d.bytes);
    puts("done");
    return 0;
}
