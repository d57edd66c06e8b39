/* SPDX-License-Identifier: Apache-2.0 */
/* load - an NBD client that costs as little as one can.
 *
 * load SOCKET rand|seq SIZE DEPTH CONNECTIONS SECONDS reads from the default
 * export of a server on a unix socket: SIZE bytes at a time, DEPTH in flight on
 * each of CONNECTIONS, a thread each.  It prints the bytes a second.
 *
 * Requests go out together and replies come in together, as many as there are,
 * so that what is measured is the server.  Replies are structured if the server
 * knows those, as with every real client.  That the bytes are right is for
 * others to see; an error, or a reply to what was not asked, ends it.
 */

#include <endian.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "timing.h"

#define FIXED_NEWSTYLE 1
#define NO_ZEROES 2
#define OPT_EXPORT_NAME 1
#define OPT_STRUCTURED_REPLY 8
#define OPT_ACK 1
#define OPT_MAGIC UINT64_C(0x49484156454f5054)
#define REQUEST_MAGIC UINT32_C(0x25609513)
#define SIMPLE_MAGIC UINT32_C(0x67446698)
#define CHUNK_MAGIC UINT32_C(0x668e33ef)
#define CHUNK_DONE 1

enum { NONE = 0, DATA = 1, HOLE = 2 };

struct request {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;
    uint32_t size;
} __attribute__((packed));

struct simple {
    uint32_t magic;
    uint32_t error;
    uint64_t cookie;
} __attribute__((packed));

/* A chunk with as much of its payload as is looked at. */
struct chunk {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint32_t size;
    uint64_t offset;
    uint32_t hole;
} __attribute__((packed));

#define CHUNK_HEAD 20

/* A request in flight; its number is the cookie. */
struct flying {
    uint64_t offset;            /* where its reply goes on */
    size_t left;
    bool is_asked;
};

struct worker {
    const char *path;
    bool at_random;
    size_t size;
    size_t depth;
    uint64_t state;
    uint64_t disk;              /* bytes of it, whole requests */
    uint64_t next;              /* offset, in sequence */
    uint64_t done;              /* bytes read */
    int fd;
    struct request *out;
    struct flying *flying;
    size_t *answered;           /* cookies that may be used again */
    size_t nanswered;
    size_t skip;                /* bytes of data that are to come, of */
    uint64_t cookie;            /* a reply to this */
    bool ends;                  /* that is complete then */
    uint8_t *in;
    pthread_t thread;
};

static _Atomic bool enough;

static void
must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static void
say(int fd, const void *buf, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t r = send(fd, (const char *)buf + done, size - done,
                         MSG_NOSIGNAL);

        must(r > 0, "the server does not listen");
        done += (size_t)r;
    }
}

static void
hear(int fd, void *buf, size_t size)
{
    must(recv(fd, buf, size, MSG_WAITALL) == (ssize_t)size,
         "the server hung up");
}

static void
opt(int fd, uint32_t option)
{
    struct { uint64_t magic; uint32_t option, size; } said
        = { htobe64(OPT_MAGIC), htobe32(option), 0 };

    say(fd, &said, sizeof said);
}

/* Agree on structured replies, or not. */
static void
ask_for_chunks(int fd)
{
    struct {
        uint64_t magic;
        uint32_t option, type, size;
    } __attribute__((packed)) reply;

    opt(fd, OPT_STRUCTURED_REPLY);
    hear(fd, &reply, sizeof reply);
    for (uint32_t left = be32toh(reply.size); left > 0; left--)
        hear(fd, &(char){ 0 }, 1);
}

static void
dial(struct worker *w)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    uint8_t greeting[18], answer[10];
    uint32_t flags = htobe32(FIXED_NEWSTYLE | NO_ZEROES);
    uint64_t size;

    must(strlen(w->path) < sizeof to.sun_path, "the path is too long");
    strcpy(to.sun_path, w->path);
    w->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    must(connect(w->fd, (struct sockaddr *)&to, sizeof to) == 0, w->path);
    hear(w->fd, greeting, sizeof greeting);
    must(memcmp(greeting, "NBDMAGICIHAVEOPT", 16) == 0, "this is not NBD");
    must(greeting[17] & NO_ZEROES, "the server sends zeroes");
    say(w->fd, &flags, sizeof flags);
    ask_for_chunks(w->fd);
    opt(w->fd, OPT_EXPORT_NAME);
    hear(w->fd, answer, sizeof answer);
    memcpy(&size, answer, sizeof size);
    w->disk = be64toh(size) / w->size * w->size;
    must(w->disk > 0, "the disk is smaller than a request");
}

static uint64_t
next_offset(struct worker *w)
{
    if (w->at_random)
        return random_below(&w->state, w->disk / w->size) * w->size;
    uint64_t offset = w->next % w->disk;

    w->next = offset + w->size;
    return offset;
}

/* Ask once more for each request that is answered. */
static void
ask(struct worker *w)
{
    size_t n = w->nanswered;

    for (size_t i = 0; i < n; i++) {
        size_t cookie = w->answered[i];
        uint64_t offset = next_offset(w);

        w->flying[cookie] = (struct flying){ offset, w->size, true };
        w->out[i] = (struct request){
            .magic = htobe32(REQUEST_MAGIC),
            .cookie = cookie,
            .offset = htobe64(offset),
            .size = htobe32((uint32_t)w->size),
        };
    }
    w->nanswered = 0;
    say(w->fd, w->out, n * sizeof *w->out);
}

static struct flying *
flying(struct worker *w, uint64_t cookie)
{
    must(cookie < w->depth && w->flying[cookie].is_asked,
         "a reply to nothing that was asked");
    w->cookie = cookie;
    return &w->flying[cookie];
}

static void
take(struct flying *f, size_t size)
{
    must(size <= f->left, "a reply is too long");
    f->offset += size;
    f->left -= size;
}

/* A reply is here, with its data. */
static void
end(struct worker *w)
{
    must(w->flying[w->cookie].left == 0, "a reply ends early");
    w->flying[w->cookie].is_asked = w->ends = false;
    w->answered[w->nanswered++] = w->cookie;
}

static size_t
simple(struct worker *w, const uint8_t *at)
{
    struct simple s;

    memcpy(&s, at, sizeof s);
    must(s.error == 0, "a reply is an error");
    take(flying(w, s.cookie), w->size);
    w->skip = w->size;
    w->ends = true;
    return sizeof s;
}

/* The chunk at `at`, of whose bytes have are here: how many were taken. */
static size_t
chunk(struct worker *w, const uint8_t *at, size_t have)
{
    struct chunk c = { 0 };

    memcpy(&c, at, have < sizeof c ? have : sizeof c);
    size_t type = be16toh(c.type), size = be32toh(c.size);
    size_t more = type == HOLE ? 12 : type == DATA ? 8 : 0;
    struct flying *f = flying(w, c.cookie);

    must(type == NONE || type == DATA || type == HOLE, "a reply is an error");
    must(type == DATA ? size > more : size == more, "a chunk is too short");
    if (have < CHUNK_HEAD + more)
        return 0;
    must(type == NONE || be64toh(c.offset) == f->offset,
         "a chunk is from elsewhere");
    w->skip = type == DATA ? size - more : 0;
    take(f, type == HOLE ? be32toh(c.hole) : w->skip);
    w->ends = be16toh(c.flags) & CHUNK_DONE;
    return CHUNK_HEAD + more;
}

/* Go through what came; how much of it. */
static size_t
understand(struct worker *w, size_t have)
{
    size_t at = 0, n = 1;

    while (n > 0) {
        uint32_t magic = 0;

        n = w->skip < have - at ? w->skip : have - at;
        w->skip -= n;
        at += n;
        if (w->skip == 0 && w->ends)
            end(w);
        if (have - at < CHUNK_HEAD)
            break;
        memcpy(&magic, w->in + at, sizeof magic);
        must(magic == htobe32(SIMPLE_MAGIC) || magic == htobe32(CHUNK_MAGIC),
             "this is no reply");
        n = magic == htobe32(SIMPLE_MAGIC) ? simple(w, w->in + at)
                                           : chunk(w, w->in + at, have - at);
        at += n;
    }
    return at;
}

/* Read until it is enough; what is in flight then is taken in, too. */
static void *
work(void *of)
{
    struct worker *w = of;
    size_t capacity = w->depth * (w->size + sizeof(struct chunk)), have = 0;
    size_t left = w->depth;

    for (w->nanswered = 0; w->nanswered < w->depth; w->nanswered++)
        w->answered[w->nanswered] = w->nanswered;
    ask(w);
    while (left > 0) {
        ssize_t r = recv(w->fd, w->in + have, capacity - have, 0);

        must(r > 0, "the server hung up");
        have += (size_t)r;
        size_t n = understand(w, have);

        have -= n;
        memmove(w->in, w->in + n, have);
        w->done += w->nanswered * w->size;
        if (atomic_load_explicit(&enough, memory_order_relaxed)) {
            left -= w->nanswered;
            w->nanswered = 0;
        } else if (w->nanswered > 0) {
            ask(w);
        }
    }
    return NULL;
}

static double
run(struct worker *workers, size_t count, double duration)
{
    double began = seconds();
    uint64_t done = 0;

    for (size_t i = 0; i < count; i++)
        must(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0,
             "no thread");
    usleep((useconds_t)(duration * 1e6));
    atomic_store(&enough, true);
    for (size_t i = 0; i < count; i++) {
        must(pthread_join(workers[i].thread, NULL) == 0, "no join");
        done += workers[i].done;
    }
    return (double)done / (seconds() - began);
}

int
main(int argc, char **argv)
{
    must(argc == 7, "usage: load SOCKET rand|seq SIZE DEPTH CONNECTIONS "
                    "SECONDS");
    size_t size = (size_t)atol(argv[3]), depth = (size_t)atol(argv[4]);
    size_t count = (size_t)atol(argv[5]);

    must(size > 0 && depth > 0 && count > 0, "nothing to do");
    struct worker *workers = need(calloc(count, sizeof *workers));

    for (size_t i = 0; i < count; i++) {
        workers[i] = (struct worker){
            .path = argv[1], .at_random = strcmp(argv[2], "rand") == 0,
            .size = size, .depth = depth, .state = i + 1, .next = i << 30,
            .out = need(calloc(depth, sizeof(struct request))),
            .flying = need(calloc(depth, sizeof(struct flying))),
            .answered = need(calloc(depth, sizeof(size_t))),
            .in = need(malloc(depth * (size + sizeof(struct chunk)))),
        };
        dial(&workers[i]);
    }
    printf("%.9g\n", run(workers, count, atof(argv[6])));
    for (size_t i = 0; i < count; i++) {
        close(workers[i].fd);
        free(workers[i].out);
        free(workers[i].flying);
        free(workers[i].answered);
        free(workers[i].in);
    }
    free(workers);
    return 0;
}
