/* What the programs with the rows of the specification share. */
#ifndef CASE_H
#define CASE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <sp.h>

static int failures;
static const char *port; /* of the daemon, whose name is localhost */

/* One row, or part of one: its number in the table, and what must hold. */
#define ROW(id, condition)                                                                  \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            printf("FAIL %s: %s (%s line %d)\n", id, #condition, __FILE__, __LINE__);       \
            fflush(stdout);                                                                 \
            failures++;                                                                     \
        }                                                                                   \
    } while (0)

/* The same for a number, which is shown. */
#define IS(id, call, want)                                                                  \
    do {                                                                                    \
        long got_ = (long)(call), want_ = (long)(want);                                     \
        if (got_ != want_) {                                                                \
            printf("FAIL %s: %s is %ld, not %ld (%s line %d)\n", id, #call, got_, want_,    \
                   __FILE__, __LINE__);                                                     \
            fflush(stdout);                                                                 \
            failures++;                                                                     \
        }                                                                                   \
    } while (0)

/* A program that hangs ends, with a failure. */
__attribute__((constructor)) static void limit_time(void) {
    alarm(100);
}

/* Asks who runs the program to do something, and waits until it is done. */
static void ask(const char *what) {
    char line[16];
    printf("@%s\n", what);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) exit(3);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Waits until a condition holds; a row fails if it does not within ten seconds. */
#define UNTIL(id, condition)                                                    \
    do {                                                                        \
        double end_ = now() + 10;                                               \
        int holds_ = 0;                                                         \
        while (!(holds_ = (condition)) && now() < end_) usleep(2000);           \
        if (!holds_) {                                                          \
            printf("FAIL %s: %s (%s line %d)\n", id, #condition, __FILE__, __LINE__); \
            fflush(stdout);                                                     \
            failures++;                                                         \
        }                                                                       \
    } while (0)

static const char *at(const char *format, const char *p) {
    static char text[4][128];
    static int next;
    next = (next + 1) % 4;
    snprintf(text[next], sizeof text[next], format, p);
    return text[next];
}

/* A session by Unix socket or TCP. */
static mailbox session(const char *where, const char *name, int membership) {
    mailbox m = -1;
    char group[MAX_GROUP_NAME];
    int ret = SP_connect(where, name, 0, membership, &m, group);
    if (ret != ACCEPT_SESSION) {
        printf("FAIL: %s cannot connect to %s: %d\n", name ? name : "?", where, ret);
        exit(2);
    }
    return m;
}

#define UNTOUCHED 0x5a5a

/* A message, or what a receive call left. */
struct got {
    int ret;
    service svc;
    char sender[MAX_GROUP_NAME];
    int ng;
    char groups[200][MAX_GROUP_NAME];
    int16 mt;
    int em;
    char body[200000];
};

static struct got r; /* what the last call left */

static int receive(mailbox m, service in, int max_groups, int max_len) {
    r.svc = in;
    memset(r.sender, '~', sizeof r.sender);
    memset(r.groups, '~', sizeof r.groups);
    memset(r.body, '~', 200);
    r.ng = r.em = UNTOUCHED;
    r.mt = 0x5a5a;
    r.ret = SP_receive(m, &r.svc, r.sender, max_groups, &r.ng, r.groups, &r.mt, &r.em, max_len, r.body);
    return r.ret;
}

static int untouched(void) {
    return r.ng == UNTOUCHED && r.em == UNTOUCHED && r.mt == 0x5a5a && r.sender[0] == '~' &&
           r.groups[0][0] == '~' && r.body[0] == '~';
}

/* Reads and forgets everything up to a message of this session to itself. */
static void settle(mailbox m, const char *own) {
    IS("settle", SP_multicast(m, AGREED_MESS, own, 4711, 0, NULL), 0);
    do {
        if (receive(m, 0, 200, sizeof r.body) < 0) {
            printf("FAIL settle: %d\n", r.ret);
            exit(2);
        }
    } while (!(Is_agreed_mess(r.svc) && r.mt == 4711));
}

/* Whether nothing but a message of this session to itself comes. */
static int nothing(mailbox m, const char *own) {
    SP_multicast(m, AGREED_MESS, own, 4712, 0, NULL);
    receive(m, 0, 200, sizeof r.body);
    return Is_agreed_mess(r.svc) && r.mt == 4712;
}

/* ---- a peer that sends what a row says, on TCP ---- */

struct peer {
    int listener;
    char where[64];
    const char *bytes; /* after the hello */
    int len;
    int accept_ok;     /* whether to do the handshake first */
    int pause_ms;      /* before each byte, or 0 */
    int linger;        /* whether to keep the connection open at the end */
    unsigned char hello[256];
    int hello_len;
    unsigned char got[512];
    int got_len;
    int fd;
    pthread_t thread;
};

static int read_some(int fd, void *to, int len) {
    int done = 0;
    while (done < len) {
        ssize_t n = read(fd, (char *)to + done, (size_t)(len - done));
        if (n <= 0) break;
        done += (int)n;
    }
    return done;
}

static void put(int fd, const void *bytes, int len) {
    if (send(fd, bytes, (size_t)len, MSG_NOSIGNAL) < 0) return;
}

static void *peer_main(void *arg) {
    struct peer *p = arg;
    int i;
    p->fd = accept(p->listener, NULL, NULL);
    if (p->fd < 0) return NULL;
    p->hello_len = read_some(p->fd, p->hello, 5);
    if (p->hello_len == 5) p->hello_len += read_some(p->fd, p->hello + 5, p->hello[4]);
    if (p->accept_ok) {
        put(p->fd, "\5NULL ", 6);
        p->got_len = read_some(p->fd, p->got, 90);
        put(p->fd, "\1\5\0\1\x09#me#there", 14);
        put(p->fd, "", 0);
    }
    for (i = 0; i < p->len; ) {
        int part = p->pause_ms ? 1 : p->len;
        if (p->pause_ms) usleep((useconds_t)p->pause_ms * 1000);
        put(p->fd, p->bytes + i, part);
        i += part;
    }
    if (!p->accept_ok) {
        /* What the client says after the list. */
        struct pollfd w = {p->fd, POLLIN, 0};
        while (poll(&w, 1, 300) == 1) {
            int n = (int)recv(p->fd, p->got + p->got_len, sizeof p->got - (size_t)p->got_len, MSG_DONTWAIT);
            if (n <= 0) break;
            p->got_len += n;
            if (p->got_len >= 90) break;
        }
    }
    if (!p->linger) close(p->fd);
    return NULL;
}

static void peer_listen(struct peer *p) {
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    memset(p, 0, sizeof *p);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    p->listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(p->listener, (struct sockaddr *)&a, sizeof a) || listen(p->listener, 5)) exit(2);
    getsockname(p->listener, (struct sockaddr *)&a, &len);
    snprintf(p->where, sizeof p->where, "%d@127.0.0.1", ntohs(a.sin_port));
}

static void peer_start(struct peer *p, const char *bytes, int len) {
    p->bytes = bytes;
    p->len = len;
    pthread_create(&p->thread, NULL, peer_main, p);
}

static void peer_end(struct peer *p) {
    pthread_join(p->thread, NULL);
    close(p->listener);
}

static int finish(void) {
    if (failures) printf("%d rows failed\n", failures);
    return failures != 0;
}

#endif
