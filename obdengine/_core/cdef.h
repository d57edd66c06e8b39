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
    OBD_POINT_ORDER = ..., OBD_POINT_BEYOND = ..., OBD_POINT_FAR = ...,
    OBD_POINT_BITS = ..., OBD_POINT_WINDOW = ..., OBD_BAD_WINDOW = ...,
    OBD_MORE_MEMBERS = ..., OBD_BAD_MEMBER = ..., OBD_BAD_TAG = ...,
    OBD_BAD_ARGUMENT = ...
};
enum obd_crc32c_kernel { OBD_CRC32C_PORTABLE = ..., OBD_CRC32C_SSE42 = ... };
enum obd_algo {
    OBD_ALGO_NONE = ..., OBD_ALGO_LZ4 = ..., OBD_ALGO_ZSTD = ...
};
enum obd_extent_flags {
    OBD_EXTENT_ZERO = ..., OBD_EXTENT_DATA = ..., OBD_EXTENT_PRESENT = ...
};
enum obd_ranges {
    OBD_RANGES_STORED = ..., OBD_RANGES_ABSENT = ..., OBD_RANGES_STREAM = ...
};

enum obd_spans_kind {
    OBD_SPANS_GZIP = ..., OBD_SPANS_MEMBERS = ..., OBD_SPANS_ZSTD = ...
};
enum obd_index_event {
    OBD_INDEX_NONE = ..., OBD_INDEX_POINT = ..., OBD_INDEX_END = ...
};
#define OBD_POINT_MEMBER ...
#define OBD_SPAN_MAX ...

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

struct obd_unzstd;
struct obd_unzstd *obd_unzstd_new(void);
void obd_unzstd_free(struct obd_unzstd *u);
int obd_unzstd_run(struct obd_unzstd *u, const uint8_t *src, size_t n,
                   size_t *used, uint8_t *dst, size_t cap, size_t *made,
                   int *ended);

void obd_scan_zero(const uint8_t *p, size_t n, size_t granule,
                   uint8_t *flags);
void obd_scan_same(const uint8_t *a, const uint8_t *b, size_t n,
                   size_t granule, uint8_t *flags);

int obd_record_unpack(const uint8_t *src, size_t n,
                      const struct obd_bounds *bounds,
                      struct obd_segment *dst, size_t *count,
                      struct obd_fault *fault);
int obd_record_unpack_turbo(const uint8_t *src, size_t n,
                            const struct obd_bounds *bounds,
                            uint64_t target_end, struct obd_segment *dst,
                            size_t *count, struct obd_fault *fault);
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

struct obd_spans;
struct obd_spans *obd_spans_new(int kind, int packed, int index_fd,
                                uint64_t windows_end, uint64_t size,
                                uint64_t file_size);
void obd_spans_free(struct obd_spans *s);
uint64_t obd_spans_count(const struct obd_spans *s);
int obd_spans_feed(struct obd_spans *s, const uint8_t *src, size_t n,
                   struct obd_fault *fault);
int obd_spans_finish(struct obd_spans *s, struct obd_fault *fault);
int obd_spans_sum(struct obd_spans *s, const uint8_t *src, size_t n);
void obd_chunks_limit(size_t budget);
size_t obd_chunks_memory(size_t *budget);

struct obd_index_step {
    uint64_t used;
    uint64_t made;
    uint64_t out;
    uint64_t in;
    int event;
    int bits;
};
struct obd_indexer;
struct obd_indexer *obd_indexer_new(int kind, uint64_t span);
void obd_indexer_free(struct obd_indexer *x);
int obd_indexer_step(struct obd_indexer *x, const uint8_t *src, size_t n,
                     uint8_t *dst, size_t cap, struct obd_index_step *step,
                     struct obd_fault *fault);
int obd_indexer_next(struct obd_indexer *x, struct obd_index_step *step);
void obd_indexer_window(struct obd_indexer *x, uint8_t *dst);

struct obd_blob *obd_blob_new_plain(int fd, uint64_t offset, uint64_t size);
struct obd_blob *obd_blob_new_zfile(int fd, uint64_t offset,
                                    struct obd_jump *jump);
struct obd_blob *obd_blob_new_spans(int fd, struct obd_spans *spans);
struct obd_blob *obd_blob_new_turbo(const struct obd_blob *meta,
                                    const struct obd_blob *target);
void obd_blob_free(struct obd_blob *b);
uint64_t obd_blob_size(const struct obd_blob *b);
size_t obd_blob_memory(const struct obd_blob *b);
int obd_blob_pread(const struct obd_blob *b, uint64_t offset, uint8_t *buf,
                   size_t size, struct obd_fault *fault);
int obd_blob_check(const struct obd_blob *b, uint64_t first, uint64_t count,
                   struct obd_fault *fault);
void obd_blob_stored(const struct obd_blob *b, uint64_t offset, uint64_t size,
                     uint64_t *file_offset, uint64_t *file_size);

void obd_blob_span(const struct obd_blob *b, uint64_t i,
                   uint64_t *file_offset, uint64_t *file_size);

struct obd_presence;
struct obd_presence *obd_blob_presence(struct obd_blob *b);
int obd_presence_begin(struct obd_presence *p, uint64_t size, unsigned shift);
int obd_presence_guard(struct obd_presence *p, uint32_t seed, int spare);
void obd_presence_mark(struct obd_presence *p, uint64_t offset,
                       uint64_t size);
void obd_presence_adopt(struct obd_presence *p, uint64_t first,
                        const uint32_t *sums, size_t n, int is_lent);
void obd_presence_forget(struct obd_presence *p, uint64_t offset,
                         uint64_t size);
bool obd_presence_here(const struct obd_presence *p, uint64_t offset,
                       uint64_t size);
void obd_presence_take_used(struct obd_presence *p, uint8_t *used, size_t n);
void obd_presence_sums(uint32_t seed, uint64_t first, const uint8_t *data,
                       size_t size, uint32_t *sums);

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
                      uint64_t size, int which, struct obd_range *out,
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
    int patience;
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
    uint64_t journaled;
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
int obd_upper_zero(struct obd_upper *u, uint64_t start, uint64_t length,
                   struct obd_fault *fault);
void obd_upper_split_at(struct obd_upper *u, uint64_t at);
int obd_upper_forget(struct obd_upper *u, uint64_t end);

bool obd_upper_wants_compaction(struct obd_upper *u);

struct obd_journal_found {
    uint64_t entries;
    uint64_t records;
    int state;
};
#define OBD_JOURNAL_HEADER ...
enum obd_journal_state {
    OBD_JOURNAL_EMPTY = ...,
    OBD_JOURNAL_KEEPS = ...,
    OBD_JOURNAL_STRAY = ...,
    OBD_JOURNAL_PAST = ...
};
void obd_journal_header(const uint8_t *uuid, uint64_t generation,
                        uint8_t *dst);
int obd_upper_recover(struct obd_upper *u, int fd, uint64_t size,
                      const uint8_t *uuid, int repair,
                      struct obd_journal_found *found,
                      struct obd_fault *fault);
bool obd_upper_wants_journal(struct obd_upper *u);
int obd_upper_use_journal(struct obd_upper *u, int fd, uint64_t size,
                          struct obd_fault *fault);
int obd_upper_end_journal(struct obd_upper *u, int never,
                          struct obd_fault *fault);

struct obd_port;
struct obd_port *obd_port_new(void);
void obd_port_end(struct obd_port *p);
void obd_port_use(struct obd_port *p, struct obd_device *d, int writable);
void obd_port_pass(struct obd_port *p);
void obd_port_leave(struct obd_port *p);
void obd_port_shut(struct obd_port *p);
void obd_port_open(struct obd_port *p);
enum nbd_command {
    NBD_CMD_READ = ..., NBD_CMD_WRITE = ..., NBD_CMD_FLUSH = ...,
    NBD_CMD_TRIM = ..., NBD_CMD_CACHE = ..., NBD_CMD_WRITE_ZEROES = ...,
    NBD_CMD_BLOCK_STATUS = ...
};
#define NBD_CMD_FLAG_FUA ...
#define OBD_REQUEST_MAX ...
struct obd_export_setup {
    struct obd_port *port;
    uint64_t size;
    uint32_t allocation_id;
    uint32_t layer_id;
    int fd;
    int writable;
    int structured;
    int has_allocation;
    int has_layer;
};
struct obd_call {
    uint64_t cookie;
    uint64_t offset;
    uint8_t *data;
    uint32_t size;
    uint16_t type;
    uint16_t flags;
    int is_written;
    ...;
};
enum obd_export_event {
    OBD_EXPORT_OVER = ..., OBD_EXPORT_CALL = ..., OBD_EXPORT_THREAD = ...
};
struct obd_export;
struct obd_export *obd_export_new(const struct obd_export_setup *setup);
void obd_export_free(struct obd_export *x);
enum obd_export_event obd_export_serve(struct obd_export *x,
                                       struct obd_call *call, int may_grow);
void obd_export_answer(struct obd_export *x, struct obd_call *call,
                       uint32_t error, const uint8_t *data,
                       const char *message);
void obd_call_clear(struct obd_call *call);

struct obd_native { ...; };
void obd_native_fill(struct obd_native *out, struct obd_port *p);

void free(void *p);
