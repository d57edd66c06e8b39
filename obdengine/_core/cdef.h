/* SPDX-License-Identifier: Apache-2.0 */
/* What Python may call; ffi_build.py reads this, the compiler checks it. */

#define OBD_CORE_VERSION ...
#define OBD_BLOCK_SEED ...
#define OBD_NO_LAYER ...

enum obd_status {
    OBD_OK = ..., OBD_ABSENT = ..., OBD_IO = ..., OBD_SHORT = ...,
    OBD_NOMEM = ..., OBD_OUT_OF_RANGE = ..., OBD_NO_KERNEL = ...,
    OBD_EMPTY_ENTRY = ..., OBD_DISORDER = ..., OBD_BEYOND_DISK = ...,
    OBD_BEFORE_DATA = ..., OBD_BEYOND_DATA = ..., OBD_TOO_MANY = ...,
    OBD_BAD_LENGTH = ..., OBD_BAD_SUM = ..., OBD_BAD_CRC = ...,
    OBD_BAD_BLOCK = ..., OBD_FULL = ..., OBD_READ_ONLY = ...,
    OBD_BAD_ARGUMENT = ...
};
enum obd_crc32c_kernel { OBD_CRC32C_PORTABLE = ..., OBD_CRC32C_SSE42 = ... };
enum obd_algo {
    OBD_ALGO_NONE = ..., OBD_ALGO_LZ4 = ..., OBD_ALGO_ZSTD = ...
};
enum obd_extent_flags {
    OBD_EXTENT_ZERO = ..., OBD_EXTENT_DATA = ..., OBD_EXTENT_PRESENT = ...
};

struct obd_fault {
    uint64_t at;
    uint64_t got;
    uint64_t want;
    uint64_t block;
    uint32_t layer;
};
struct obd_segment { uint64_t lo; uint64_t hi; };
struct obd_bounds {
    uint64_t disk_end;
    uint64_t data_start;
    uint64_t data_end;
};
struct obd_extent {
    uint64_t offset;
    uint64_t size;
    uint32_t layer;
    uint32_t flags;
};
struct obd_range { uint64_t offset; uint64_t size; uint32_t layer; };
struct obd_jump;
struct obd_blob;
struct obd_segmap { uint64_t n; ...; };
struct obd_device;

uint32_t obd_crc32c(uint32_t seed, const void *p, size_t n);
int obd_crc32c_with(int kernel, uint32_t seed, const void *p, size_t n,
                    uint32_t *crc);

size_t obd_zblock_bound(int algo, size_t size, int verify);
int obd_zblock_encode(int algo, int level, uint32_t block_size, int verify,
                      const uint8_t *src, size_t n, uint8_t *dst, size_t cap,
                      uint32_t *lengths, size_t *written);
int obd_zblock_decode_one(int algo, int verify, const uint8_t *src, size_t n,
                          uint8_t *dst, size_t size, struct obd_fault *fault);

void obd_scan_zero(const uint8_t *p, size_t n, size_t granule,
                   uint8_t *flags);
void obd_scan_same(const uint8_t *a, const uint8_t *b, size_t n,
                   size_t granule, uint8_t *flags);

int obd_record_unpack(const uint8_t *src, size_t n,
                      const struct obd_bounds *bounds,
                      struct obd_segment *dst, size_t *count,
                      struct obd_fault *fault);
void obd_record_pack(const struct obd_segment *src, size_t n, uint8_t *dst);

int obd_merge(const struct obd_segment *const *layers, const size_t *counts,
              size_t k, struct obd_segment **out, size_t *n);

struct obd_segmap *obd_segmap_new(const struct obd_segment *segments,
                                  size_t n);
void obd_segmap_free(struct obd_segmap *m);
size_t obd_segmap_memory(const struct obd_segmap *m);
uint64_t obd_segmap_search(const struct obd_segmap *m, uint64_t sector);

struct obd_jump *obd_jump_new(int algo, int verify, unsigned block_shift,
                              uint64_t size, uint64_t first, uint64_t end);
void obd_jump_free(struct obd_jump *j);
int obd_jump_feed(struct obd_jump *j, const uint8_t *src, size_t n,
                  struct obd_fault *fault);
int obd_jump_finish(const struct obd_jump *j, struct obd_fault *fault);
uint32_t obd_jump_crc(const struct obd_jump *j);
uint64_t obd_jump_blocks(const struct obd_jump *j);
uint64_t obd_jump_offset(const struct obd_jump *j, uint64_t i);
size_t obd_jump_memory(const struct obd_jump *j);

struct obd_blob *obd_blob_new_plain(int fd, uint64_t offset, uint64_t size);
struct obd_blob *obd_blob_new_zfile(int fd, uint64_t offset,
                                    struct obd_jump *jump);
void obd_blob_free(struct obd_blob *b);
uint64_t obd_blob_size(const struct obd_blob *b);
size_t obd_blob_memory(const struct obd_blob *b);
int obd_blob_track(struct obd_blob *b, uint64_t file_size,
                   unsigned unit_shift);
void obd_blob_mark(struct obd_blob *b, uint64_t offset, uint64_t size);
int obd_blob_pread(const struct obd_blob *b, uint64_t offset, uint8_t *buf,
                   size_t size, struct obd_fault *fault);
int obd_blob_check(const struct obd_blob *b, uint64_t first, uint64_t count,
                   struct obd_fault *fault);
void obd_blob_stored(const struct obd_blob *b, uint64_t offset, uint64_t size,
                     uint64_t *file_offset, uint64_t *file_size);

struct obd_device *obd_device_new(struct obd_blob *const *blobs,
                                  size_t nblobs,
                                  const struct obd_segmap *map,
                                  struct obd_upper *upper, uint64_t size);
void obd_device_free(struct obd_device *d);
int obd_device_read(const struct obd_device *d, uint64_t offset, uint8_t *buf,
                    size_t size, struct obd_fault *fault);
int obd_device_write(struct obd_device *d, uint64_t offset,
                     const uint8_t *buf, size_t size,
                     struct obd_fault *fault);
int obd_device_zero(struct obd_device *d, uint64_t offset, uint64_t size,
                    struct obd_fault *fault);
int obd_device_discard(struct obd_device *d, uint64_t offset, uint64_t size,
                       struct obd_fault *fault);
int obd_device_extents(const struct obd_device *d, uint64_t offset,
                       uint64_t size, struct obd_extent *out, size_t cap,
                       size_t *n, struct obd_fault *fault);
int obd_device_ranges(const struct obd_device *d, uint64_t offset,
                      uint64_t size, int absent_only, struct obd_range *out,
                      size_t cap, size_t *n, struct obd_fault *fault);

struct obd_io {
    void *context;
    int (*write)(void *context, int fd, const void *buf, uint64_t size,
                 uint64_t offset);
    int (*sync)(void *context, int fd);
    int (*truncate)(void *context, int fd, uint64_t size);
    int (*punch)(void *context, int fd, uint64_t offset, uint64_t size);
};
extern const struct obd_io obd_io_kernel;
struct obd_upper_setup {
    uint64_t disk_end;
    uint64_t data_limit;
    uint64_t allowance;
    int data_fd;
    int index_fd;
    int in_place;
};
struct obd_upper_facts {
    uint64_t records;
    uint64_t padding;
    uint64_t empty;
    uint64_t beyond_disk;
    uint64_t dangling;
    uint64_t segments;
    uint64_t stored;
    uint64_t data_end;
    uint64_t unused;
    uint64_t pending;
    uint64_t flushes;
};
struct obd_upper;
struct obd_upper *obd_upper_new(const struct obd_upper_setup *setup,
                                const struct obd_io *io);
void obd_upper_free(struct obd_upper *u);
int obd_upper_replay(struct obd_upper *u, const uint8_t *src, size_t n,
                     uint64_t data_sectors, int repair,
                     struct obd_fault *fault);
int obd_upper_start(struct obd_upper *u, uint64_t data_sectors,
                    struct obd_fault *fault);
int obd_upper_flush(struct obd_upper *u, struct obd_fault *fault);
size_t obd_upper_collect(struct obd_upper *u, uint64_t start, uint64_t end,
                         struct obd_segment *out, size_t cap,
                         uint64_t *upto);
void obd_upper_facts(struct obd_upper *u, struct obd_upper_facts *facts);
int obd_upper_index_begin(struct obd_upper *u, int fd,
                          struct obd_fault *fault);
void obd_upper_index_end(struct obd_upper *u, int done);

bool obd_upper_wants_compaction(struct obd_upper *u);

struct obd_port;
struct obd_port *obd_port_new(void);
void obd_port_end(struct obd_port *p);
void obd_port_use(struct obd_port *p, struct obd_device *d, int writable);
void obd_port_pass(struct obd_port *p);
void obd_port_leave(struct obd_port *p);
void obd_port_shut(struct obd_port *p);
void obd_port_open(struct obd_port *p);
struct obd_native { ...; };
void obd_native_fill(struct obd_native *out, struct obd_port *p);

void free(void *p);
