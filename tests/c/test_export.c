/* SPDX-License-Identifier: Apache-2.0 */
/* export - requests on a socket: replies, refusals, and clients that stop. */

#include <pthread.h>
#include <sys/socket.h>

#include "export.h"
#include "stacks.h"
#include "uppers.h"
#include "wire.h"

#define THREADS 3
#define DISK (UINT64_C(4) << 20)

/* A client's end, and threads that serve the other. */
struct link {
    struct obd_port *port;
    struct obd_export *x;
    int client;
    int server;
    pthread_t threads[THREADS];
    _Atomic unsigned calls;     /* requests that came back to the caller */
};

static void *
serve(void *arg)
{
    struct link *k = arg;
    struct obd_call call = { 0 };
    enum obd_export_event e;

    while ((e = obd_export_serve(k->x, &call, 1)) != OBD_EXPORT_OVER) {
        if (e == OBD_EXPORT_THREAD)
            continue;
        atomic_fetch_add(&k->calls, 1);
        obd_export_answer(k->x, &call, NBD_EIO, NULL, "as the caller says");
    }
    obd_call_clear(&call);
    return NULL;
}

static void
link_up(struct link *k, struct obd_device *d, uint64_t size, bool writable,
        bool structured)
{
    int ends[2];

    SAME(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    k->client = ends[0];
    k->server = ends[1];
    k->port = obd_port_new();
    obd_port_use(k->port, d, writable);
    atomic_store(&k->calls, 0);
    k->x = obd_export_new(&(struct obd_export_setup){
        .port = k->port, .size = size, .fd = ends[1], .writable = writable,
        .structured = structured, .has_allocation = structured,
        .has_layer = structured, .allocation_id = 7, .layer_id = 9 });
    assert(k->x != NULL);
    for (int i = 0; i < THREADS; i++)
        SAME(pthread_create(&k->threads[i], NULL, serve, k), 0);
}

/* Wait for the server's end, which must come by itself. */
static void
link_down(struct link *k)
{
    for (int i = 0; i < THREADS; i++)
        pthread_join(k->threads[i], NULL);
    close(k->client);
    close(k->server);
    obd_export_free(k->x);
    obd_port_use(k->port, NULL, 0);
    obd_port_drop(k->port);
}

static void
send_all(struct link *k, const void *p, size_t n)
{
    const uint8_t *at = p;

    while (n > 0) {
        ssize_t r = send(k->client, at, n, MSG_NOSIGNAL);

        if (r <= 0)             /* the server has hung up */
            return;
        at += r;
        n -= (size_t)r;
    }
}

static void
ask(struct link *k, unsigned type, unsigned flags, uint64_t cookie,
    uint64_t offset, uint64_t size)
{
    uint8_t p[NBD_REQUEST_SIZE];

    obd_put32(p, NBD_REQUEST_MAGIC);
    obd_put16(p + 4, (uint16_t)flags);
    obd_put16(p + 6, (uint16_t)type);
    obd_put64(p + 8, cookie);
    obd_put64(p + 16, offset);
    obd_put32(p + 24, (uint32_t)size);
    send_all(k, p, sizeof p);
}

static void
expect(struct link *k, void *p, size_t n)
{
    uint8_t *at = p;

    while (n > 0) {
        ssize_t r = recv(k->client, at, n, 0);

        assert(r > 0);
        at += r;
        n -= (size_t)r;
    }
}

/* The error of the next simple reply; *cookie is whose it is. */
static uint32_t
simple(struct link *k, uint64_t *cookie)
{
    uint8_t p[NBD_SIMPLE_REPLY_SIZE];

    expect(k, p, sizeof p);
    SAME(obd_get32(p), NBD_SIMPLE_REPLY_MAGIC);
    *cookie = obd_get64(p + 8);
    return obd_get32(p + 4);
}

/* The next chunk: its type, and its payload in buf. */
static unsigned
chunk(struct link *k, uint8_t *buf, size_t cap, size_t *size)
{
    uint8_t p[NBD_CHUNK_SIZE];

    expect(k, p, sizeof p);
    SAME(obd_get32(p), NBD_STRUCTURED_REPLY_MAGIC);
    *size = obd_get32(p + 16);
    assert(*size <= cap);
    expect(k, buf, *size);
    return obd_get16(p + 6);
}

/* The chunks of a read of size bytes at `at`, put together: its error. */
static uint32_t
pieces(struct link *k, uint8_t *buf, uint64_t at, uint64_t size)
{
    uint8_t p[NBD_CHUNK_SIZE], q[12];
    uint64_t done = 0;

    do {
        expect(k, p, sizeof p);
        SAME(obd_get32(p), NBD_STRUCTURED_REPLY_MAGIC);
        unsigned type = obd_get16(p + 6);
        uint64_t length = obd_get32(p + 16);

        if (type == NBD_REPLY_TYPE_ERROR) {
            assert(length >= 6 && length <= size + 6);
            expect(k, buf, length);
            SAME(obd_get16(p + 4), NBD_REPLY_FLAG_DONE);
            return obd_get32(buf);
        }
        if (type == NBD_REPLY_TYPE_NONE) {
            SAME(length, 0);
            continue;
        }
        expect(k, q, type == NBD_REPLY_TYPE_OFFSET_HOLE ? 12 : 8);
        SAME(obd_get64(q), at + done);
        if (type == NBD_REPLY_TYPE_OFFSET_HOLE) {
            length = obd_get32(q + 8);
            assert(length <= size - done);
            memset(buf + done, 0, length);
        } else {
            SAME(type, NBD_REPLY_TYPE_OFFSET_DATA);
            length -= 8;
            assert(length <= size - done);
            expect(k, buf + done, length);
        }
        done += length;
    } while (obd_get16(p + 4) != NBD_REPLY_FLAG_DONE);
    SAME(done, size);
    return 0;
}

TEST(export_reads_of_all_sizes)
{
    struct chance r = { 3 };
    struct stack s;

    stack_make(&s, &r);
    for (int structured = 0; structured < 2; structured++) {
        struct link k;
        uint8_t *buf = grab(s.size + 8);

        link_up(&k, s.device, s.size, false, structured);
        for (uint64_t i = 0; i < 200; i++) {
            uint64_t size = 1 + chance_below(&r, i % 5 ? 9000 : s.size - 1);
            uint64_t at = chance_below(&r, s.size - size + 1), cookie;
            size_t got, head = 0;

            ask(&k, NBD_CMD_READ, structured && i % 3 ? NBD_CMD_FLAG_DF : 0,
                i, at, size);
            if (structured && i % 3) {
                SAME(chunk(&k, buf, s.size + 8, &got),
                     NBD_REPLY_TYPE_OFFSET_DATA);
                SAME(got, size + 8);
                SAME(obd_get64(buf), at);
                head = 8;
            } else if (structured) {
                SAME(pieces(&k, buf, at, size), 0);
            } else {
                SAME(simple(&k, &cookie), 0);
                SAME(cookie, i);
                expect(&k, buf, size);
            }
            SAME(memcmp(buf + head, s.flat + at, size), 0);
        }
        ask(&k, NBD_CMD_DISC, 0, 0, 0, 0);
        link_down(&k);
        free(buf);
    }
    stack_free(&s);
}

/* All of a disk that can be written, over nothing. */
struct disk {
    struct rig rig;
    struct obd_segmap *map;
    struct obd_device *device;
};

static void
disk_make(struct disk *d)
{
    struct obd_segment none = { 0, 0 };
    struct obd_blob *nothing[1] = { NULL };

    rig_make(&d->rig, DISK / SECTOR, false, 0);
    d->map = obd_segmap_new(&none, 0);
    d->device = obd_device_new(nothing, 0, d->map, d->rig.upper, DISK);
    assert(d->device != NULL);
}

static void
disk_free(struct disk *d)
{
    obd_device_free(d->device);
    obd_segmap_free(d->map);
    rig_free(&d->rig);
}

TEST(export_does_all_commands)
{
    static uint8_t data[300000], back[300000 + 64];
    struct chance r = { 8 };
    struct disk d;
    struct link k;
    uint64_t cookie;
    size_t got;

    disk_make(&d);
    link_up(&k, d.device, DISK, true, true);
    chance_fill(&r, data, sizeof data);
    for (int fua = 0; fua < 2; fua++) {
        ask(&k, NBD_CMD_WRITE, fua ? NBD_CMD_FLAG_FUA : 0, 1, 77, 5000);
        send_all(&k, data, 5000);
        SAME(simple(&k, &cookie), 0);
        ask(&k, NBD_CMD_WRITE, fua ? NBD_CMD_FLAG_FUA : 0, 2, 1 << 20,
            sizeof data);
        send_all(&k, data, sizeof data);
        SAME(simple(&k, &cookie), 0);
    }
    ask(&k, NBD_CMD_READ, 0, 3, 1 << 20, sizeof data);
    SAME(pieces(&k, back, 1 << 20, sizeof data), 0);
    SAME(memcmp(back, data, sizeof data), 0);
    ask(&k, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 4, 1 << 20, 512);
    SAME(simple(&k, &cookie), 0);
    ask(&k, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 5, (1 << 20) + 512, 512);
    SAME(simple(&k, &cookie), 0);
    ask(&k, NBD_CMD_FLUSH, 0, 6, 0, 0);
    SAME(simple(&k, &cookie), 0);
    ask(&k, NBD_CMD_CACHE, 0, 7, 0, DISK);
    SAME(simple(&k, &cookie), 0);
    ask(&k, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 8, 1 << 20, 4096);
    SAME(chunk(&k, back, sizeof back, &got), NBD_REPLY_TYPE_BLOCK_STATUS);
    SAME(got, 12);
    SAME(obd_get32(back), 7);
    SAME(obd_get32(back + 4), 1024);
    SAME(obd_get32(back + 8), NBD_STATE_HOLE | NBD_STATE_ZERO);
    SAME(chunk(&k, back, sizeof back, &got), NBD_REPLY_TYPE_BLOCK_STATUS);
    SAME(obd_get32(back), 9);
    SAME(obd_get32(back + 4), 4096);
    SAME(obd_get32(back + 8), 1);
    SAME(atomic_load(&k.calls), 0);
    close(k.client);
    link_down(&k);
    disk_free(&d);
}

static uint32_t
error_of(struct link *k, unsigned type, unsigned flags, uint64_t offset,
         uint64_t size)
{
    uint64_t cookie;

    ask(k, type, flags, 5, offset, size);
    uint32_t error = simple(k, &cookie);

    SAME(cookie, 5);
    return error;
}

TEST(export_refuses)
{
    struct chance r = { 4 };
    struct stack s;
    struct link k;
    uint8_t zeros[512] = { 0 };
    uint64_t cookie;

    stack_make(&s, &r);
    link_up(&k, s.device, s.size, false, false);
    SAME(error_of(&k, NBD_CMD_READ, 0, s.size, 1), NBD_EINVAL);
    SAME(error_of(&k, NBD_CMD_READ, 0, UINT64_MAX, 2), NBD_EINVAL);
    SAME(error_of(&k, NBD_CMD_READ, 0, 0, 0), NBD_EINVAL);
    SAME(error_of(&k, NBD_CMD_READ, 0, 0, UINT32_MAX), NBD_EINVAL);
    SAME(error_of(&k, NBD_CMD_READ, 0x80, 0, 512), NBD_EINVAL);
    SAME(error_of(&k, 99, 0, 0, 512), NBD_EINVAL);
    SAME(error_of(&k, NBD_CMD_FLUSH, 0, 512, 0), NBD_EINVAL);
    SAME(error_of(&k, NBD_CMD_FLUSH, 0, 0, 0), 0);
    SAME(error_of(&k, NBD_CMD_TRIM, 0, 0, 512), NBD_EPERM);
    SAME(error_of(&k, NBD_CMD_WRITE_ZEROES, 0, 0, 512), NBD_EPERM);
    SAME(error_of(&k, NBD_CMD_BLOCK_STATUS, 0, 0, 512), NBD_EINVAL);
    ask(&k, NBD_CMD_WRITE, 0, 6, 0, sizeof zeros);
    send_all(&k, zeros, sizeof zeros);
    SAME(simple(&k, &cookie), NBD_EPERM);
    SAME(error_of(&k, NBD_CMD_CACHE, 0, 0, 512), 0);
    /* The caller's word, when the disk has gone. */
    obd_port_use(k.port, NULL, 0);
    SAME(error_of(&k, NBD_CMD_READ, 0, 0, 512), NBD_EIO);
    SAME(atomic_load(&k.calls), 1);
    ask(&k, NBD_CMD_WRITE, 0, 7, 0, (uint64_t)OBD_REQUEST_MAX + 1);
    link_down(&k);
    stack_free(&s);
}

/* Wherever a client stops, the server ends. */
TEST(export_ends_when_the_client_stops_anywhere)
{
    static uint8_t stream[3 * NBD_REQUEST_SIZE + 600];
    struct disk d;

    disk_make(&d);
    for (size_t n = 0; n <= sizeof stream; n += n < 200 ? 1 : 37) {
        struct link k;

        link_up(&k, d.device, DISK, true, true);
        obd_put32(stream, NBD_REQUEST_MAGIC);
        obd_put32(stream + 24, 100000);
        obd_put32(stream + 28, NBD_REQUEST_MAGIC);
        obd_put16(stream + 28 + 6, NBD_CMD_WRITE);
        obd_put32(stream + 28 + 24, n % 2 ? 600 : 200000);
        send_all(&k, stream, n);
        shutdown(k.client, n % 3 ? SHUT_WR : SHUT_RDWR);
        if (n % 5 == 0)
            close(k.client);
        link_down(&k);
    }
    disk_free(&d);
}

TEST(export_ends_at_a_wrong_magic)
{
    struct disk d;
    struct link k;
    uint8_t noise[64] = "GET / HTTP/1.1\r\n\r\n";

    disk_make(&d);
    link_up(&k, d.device, DISK, true, true);
    send_all(&k, noise, sizeof noise);
    link_down(&k);
    disk_free(&d);
}

/* A client that never reads is left when the caller shuts the socket down. */
TEST(export_leaves_a_client_that_does_not_read)
{
    struct disk d;
    struct link k;

    disk_make(&d);
    link_up(&k, d.device, DISK, true, false);
    for (uint64_t i = 0; i < 40; i++)
        ask(&k, NBD_CMD_READ, 0, i, 0, 1 << 20);
    usleep(20000);
    shutdown(k.server, SHUT_RDWR);
    link_down(&k);
    disk_free(&d);
}

/* A disk in one plain layer, with a hole in the middle. */
struct flat {
    uint8_t *bytes;
    struct obd_blob *blob;
    struct obd_segmap *map;
    struct obd_device *device;
    int fd;
};

static void
flat_make(struct flat *f)
{
    struct chance r = { 21 };
    uint64_t third = DISK / SECTOR / 4, end = DISK / SECTOR;
    struct obd_segment parts[2] = { entry(0, third, 0, false),
                                    entry(end - third, third, end - third,
                                          false) };

    f->bytes = grab(DISK);
    for (uint64_t at = 0; at < DISK; at += 1 << 16)
        chance_fill(&r, f->bytes + at, 1 << 16);
    f->fd = file_of(f->bytes, DISK);
    memset(f->bytes + third * SECTOR, 0, DISK - 2 * third * SECTOR);
    f->blob = obd_blob_new_plain(f->fd, 0, DISK);
    f->map = obd_segmap_new(parts, 2);
    f->device = obd_device_new(&f->blob, 1, f->map, NULL, DISK);
    assert(f->blob != NULL && f->map != NULL && f->device != NULL);
}

static void
flat_free(struct flat *f)
{
    obd_device_free(f->device);
    obd_segmap_free(f->map);
    obd_blob_free(f->blob);
    close(f->fd);
    free(f->bytes);
}

TEST(export_sends_from_files)
{
    struct flat f;
    struct link k;
    uint8_t *buf = grab(DISK);
    size_t size = 1 << 20;

    flat_make(&f);
    link_up(&k, f.device, DISK, false, true);
    for (uint64_t i = 0; i < 8; i++)
        ask(&k, NBD_CMD_READ, 0, i, i * (DISK - size) / 8, size);
    /* Nobody has read any: it must not hold whoever exchanges the device. */
    obd_port_use(k.port, NULL, false);
    obd_port_use(k.port, f.device, false);
    close(k.client);
    link_down(&k);
    link_up(&k, f.device, DISK, false, true);
    for (uint64_t i = 0; i < 30; i++) {
        uint64_t at = i * 4099 % (DISK - size);

        ask(&k, NBD_CMD_READ, 0, i, at, size);
        SAME(pieces(&k, buf, at, size), 0);
        SAME(memcmp(buf, f.bytes + at, size), 0);
    }
    SAME(atomic_load(&k.calls), 0);
    SAME(ftruncate(f.fd, 4096), 0);
    ask(&k, NBD_CMD_READ, 0, 1, 0, size);
    SAME(pieces(&k, buf, 0, size), NBD_EIO);
    SAME(atomic_load(&k.calls), 1);
    ask(&k, NBD_CMD_READ, 0, 1, 0, 4096);
    SAME(pieces(&k, buf, 0, 4096), 0);
    close(k.client);
    link_down(&k);
    flat_free(&f);
    free(buf);
}

/* A file that is cut and made whole again while it is sent. */
static void *
cut(void *arg)
{
    struct flat *f = arg;

    for (int i = 0; i < 200; i++) {
        SAME(ftruncate(f->fd, 4096 * i), 0);
        SAME(ftruncate(f->fd, DISK), 0);
    }
    return NULL;
}

TEST(export_outlives_its_files)
{
    struct flat f;
    struct link k;
    pthread_t cutter;
    uint8_t *buf = grab(DISK);

    flat_make(&f);
    link_up(&k, f.device, DISK, false, true);
    SAME(pthread_create(&cutter, NULL, cut, &f), 0);
    for (uint64_t i = 0; i < 200; i++) {
        ask(&k, NBD_CMD_READ, 0, i, 0, 1 << 20);
        uint32_t error = pieces(&k, buf, 0, 1 << 20);

        assert(error == 0 || error == NBD_EIO);
    }
    pthread_join(cutter, NULL);
    close(k.client);
    link_down(&k);
    flat_free(&f);
    free(buf);
}
