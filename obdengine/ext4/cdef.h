/* SPDX-License-Identifier: Apache-2.0 */
/* What Python may call; ffi_build.py reads this, the compiler checks it. */

#define OBD_EXT4_VERSION ...

struct obd_device;
struct obd_fault;
enum obd_disk_op {
    OBD_DISK_READ = ..., OBD_DISK_WRITE = ..., OBD_DISK_DISCARD = ...
};
struct obd_disk {
    struct obd_device *device;
    int (*read)(const struct obd_device *d, uint64_t offset, uint8_t *buf,
                size_t size, struct obd_fault *fault);
    int (*write)(struct obd_device *d, uint64_t offset, const uint8_t *buf,
                 size_t size, struct obd_fault *fault);
    int (*discard)(struct obd_device *d, uint64_t offset, uint64_t size,
                   struct obd_fault *fault);
    int (*recover)(void *context, int op, uint64_t offset, uint8_t *buf,
                   uint64_t size);
    void *context;
    uint64_t size;
};
struct obd_run {
    uint64_t logical;
    uint64_t physical;
    uint64_t count;
    uint32_t unwritten;
};
struct obd_time { int64_t seconds; uint32_t nanoseconds; };
struct obd_attributes {
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    uint32_t links;
    uint32_t major;
    uint32_t minor;
    uint64_t size;
    uint64_t blocks;
    uint32_t flags;
    uint32_t generation;
    struct obd_time atime;
    struct obd_time mtime;
    struct obd_time ctime;
};
struct obd_ext4_facts {
    uint32_t block_size;
    uint32_t inode_size;
    uint64_t blocks;
    uint64_t free_blocks;
    uint64_t reserved_blocks;
    uint32_t inodes;
    uint32_t free_inodes;
    uint32_t compat;
    uint32_t incompat;
    uint32_t ro_compat;
    uint32_t clean;
    uint8_t uuid[16];
    char label[17];
};
struct obd_ext4;

#define EXT2_ET_BLOCK_ALLOC_FAIL ...
#define EXT2_ET_INODE_ALLOC_FAIL ...
#define EXT2_ET_BAD_MAGIC ...
#define EXT2_ET_UNSUPP_FEATURE ...
#define EXT2_ET_RO_UNSUPP_FEATURE ...
#define EXT2_ET_INLINE_DATA_CANT_ITERATE ...
#define EXT2_ET_EA_NO_SPACE ...

extern "Python" int obd_ext4_recover(void *context, int op, uint64_t offset,
                                     uint8_t *buf, uint64_t size);

long obd_ext4_open(const struct obd_disk *disk, int writable, size_t cache,
                   int64_t now, struct obd_ext4 **out);
long obd_ext4_flush(struct obd_ext4 *f);
long obd_ext4_close(struct obd_ext4 *f);
void obd_ext4_abandon(struct obd_ext4 *f);
void obd_ext4_facts(const struct obd_ext4 *f, struct obd_ext4_facts *facts);
long obd_ext4_normalize(struct obd_ext4 *f);
const char *obd_ext4_message(long code);

long obd_ext4_stat(struct obd_ext4 *f, uint32_t ino,
                   struct obd_attributes *a);
long obd_ext4_readlink(struct obd_ext4 *f, uint32_t ino, uint8_t *buf,
                       size_t room, size_t *n);
long obd_ext4_make(struct obd_ext4 *f, const struct obd_attributes *a,
                   const uint8_t *target, size_t n, uint32_t *ino);
long obd_ext4_set(struct obd_ext4 *f, uint32_t ino,
                  const struct obd_attributes *a);
long obd_ext4_link(struct obd_ext4 *f, uint32_t ino);
long obd_ext4_unlink(struct obd_ext4 *f, uint32_t ino);

long obd_ext4_file_begin(struct obd_ext4 *f, const struct obd_attributes *a,
                         uint32_t *ino);
long obd_ext4_file_data(struct obd_ext4 *f, uint64_t offset,
                        const uint8_t *data, size_t size);
long obd_ext4_file_end(struct obd_ext4 *f, uint64_t size);
long obd_ext4_file(struct obd_ext4 *f, const struct obd_attributes *a,
                   const uint8_t *data, size_t size, uint32_t *ino);
long obd_ext4_runs(struct obd_ext4 *f, uint32_t ino, uint64_t logical,
                   struct obd_run *out, size_t room, size_t *n);
long obd_ext4_read(struct obd_ext4 *f, uint32_t ino, uint64_t offset,
                   uint8_t *buf, size_t size, size_t *n);

long obd_ext4_list(struct obd_ext4 *f, uint32_t ino, uint8_t **out,
                   size_t *n);
long obd_ext4_change(struct obd_ext4 *f, uint32_t ino, uint32_t parent,
                     uint32_t links, const uint8_t *changes, size_t n);
long obd_ext4_xattrs(struct obd_ext4 *f, uint32_t ino, uint8_t **out,
                     size_t *n);
long obd_ext4_set_xattrs(struct obd_ext4 *f, uint32_t ino,
                         const uint8_t *packed, size_t n);

void free(void *p);
