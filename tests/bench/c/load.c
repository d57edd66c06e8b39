/* SPDX-License-Identifier: Apache-2.0 */
/* load - an NBD client that costs as little as one can.
 *
 * load SOCKET rand|seq SIZE DEPTH CONNECTIONS SECONDS reads from the default
 * export of a server on a unix socket: SIZE bytes at a time, DEPTH in flight on
 * each of CONNECTIONS, a thread each.  It prints the bytes a second.
 *
 * Requests go out together and replies come in together, as many as there are,
 * so that what is measured is the server.  Simple replies only.  That the bytes
 * are right is for others to see; a wrong cookie or an error ends it.
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
#define OPT_MAGIC UINT64_C(0x49484156454f5054)
#define REQUEST_MAGIC UINT32_C(0x25609513)
#define REPLY_MAGIC UINT32_C(0x67446698)

struct request {
    uint32_t magic;
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;
    uint32_t size;
} __attribute__((packed));

struct reply {
    uint32_t magic;
    uint32_t error;
    uint64_t cookie;
} __attribute__((packed));

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
dial(struct worker *w)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    uint8_t greeting[18], answer[10];
    uint32_t flags = htobe32(FIXED_NEWSTYLE | NO_ZEROES);
    struct { uint64_t magic; uint32_t option, size; } option
        = { htobe64(OPT_MAGIC), htobe32(OPT_EXPORT_NAME), 0 };
    uint64_t size;

    must(strlen(w->path) < sizeof to.sun_path, "the path is too long");
    strcpy(to.sun_path, w->path);
    w->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    must(connect(w->fd, (struct sockaddr *)&to, sizeof to) == 0, w->path);
    hear(w->fd, greeting, sizeof greeting);
    must(memcmp(greeting, "NBDMAGICIHAVEOPT", 16) == 0, "this is not NBD");
    must(greeting[17] & NO_ZEROES, "the server sends zeroes");
    say(w->fd, &flags, sizeof flags);
    say(w->fd, &option, sizeof option);
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

/* Ask for n more. */
static void
ask(struct worker *w, size_t n)
{
    for (size_t i = 0; i < n; i++)
        w->out[i] = (struct request){
            .magic = htobe32(REQUEST_MAGIC),
            .cookie = w->size,
            .offset = htobe64(next_offset(w)),
            .size = htobe32((uint32_t)w->size),
        };
    say(w->fd, w->out, n * sizeof *w->out);
}

static void
check(const struct worker *w, const uint8_t *at)
{
    struct reply reply;

    memcpy(&reply, at, sizeof reply);
    must(be32toh(reply.magic) == REPLY_MAGIC && reply.cookie == w->size
         && reply.error == 0, "a reply is wrong");
}

/* Read until it is enough; what is in flight then is taken in, too. */
static void *
work(void *of)
{
    struct worker *w = of;
    size_t one = sizeof(struct reply) + w->size, have = 0;
    size_t capacity = one * w->depth, flying = w->depth;

    ask(w, w->depth);
    while (flying > 0) {
        ssize_t r = recv(w->fd, w->in + have, capacity - have, 0);
        size_t n = 0;

        must(r > 0, "the server hung up");
        have += (size_t)r;
        for (; (n + 1) * one <= have; n++)
            check(w, w->in + n * one);
        have -= n * one;
        memmove(w->in, w->in + n * one, have);
        flying -= n;
        w->done += n * w->size;
        if (n > 0 && !atomic_load_explicit(&enough, memory_order_relaxed)) {
            ask(w, n);
            flying += n;
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
            .in = need(malloc(depth * (size + sizeof(struct reply)))),
        };
        dial(&workers[i]);
    }
    printf("%.9g\n", run(workers, count, atof(argv[6])));
    for (size_t i = 0; i < count; i++) {
        close(workers[i].fd);
        free(workers[i].out);
        free(workers[i].in);
    }
    free(workers);
    return 0;
}
