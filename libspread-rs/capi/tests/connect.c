/* Rows CN, AU, MS and FK5, FK6 of the specification. */
#include "case.h"

static int try(const char *where, const char *name, int priority, int membership, mailbox *m, char *group) {
    *m = UNTOUCHED;
    memset(group, '~', 64);
    return SP_connect(where, name, priority, membership, m, group);
}

static int ok(const char *where, const char *name) {
    mailbox m;
    char group[64];
    int ret = try(where, name, 0, 1, &m, group);
    if (ret == ACCEPT_SESSION) SP_disconnect(m);
    return ret;
}

static int within(const char *where, const char *name, long sec, long usec) {
    mailbox m;
    char group[64];
    sp_time t;
    int ret;
    t.sec = sec;
    t.usec = usec;
    ret = SP_connect_timeout(where, name, 0, 1, &m, group, t);
    if (ret == ACCEPT_SESSION) SP_disconnect(m);
    return ret;
}

/* Connects to a peer that answers the hello with these bytes. */
static int answered(struct peer *p, const char *bytes, int len, int priority, char *group) {
    mailbox m;
    int ret;
    peer_listen(p);
    peer_start(p, bytes, len);
    ret = try(p->where, "nm", priority, 1, &m, group);
    if (ret == ACCEPT_SESSION) SP_kill(m);
    peer_end(p);
    return ret;
}

static void before(void) {
    struct sigaction a;
    mailbox m;
    char group[64];
    IS("CN1", SP_poll(7), -11);
    IS("CN1", SP_join(7, "g"), -11);
    IS("CN1", SP_multicast(7, FIFO_MESS, "g", 0, 0, NULL), -11);
    IS("CN1", SP_disconnect(7), -11);
    IS("GR12", SP_join(-1, "g"), -11);
    sigaction(SIGPIPE, NULL, &a);
    ROW("CN2", a.sa_handler == SIG_DFL);
    IS("CN3", try("1", "u", 0, 1, &m, group), -2);
    ROW("CN3", m == UNTOUCHED && group[0] == '~');
    sigaction(SIGPIPE, NULL, &a);
    ROW("CN2", a.sa_handler == SIG_IGN);
    signal(SIGPIPE, SIG_DFL);
    IS("FK6", ok(port, "fk"), 1);
    sigaction(SIGPIPE, NULL, &a);
    ROW("FK6", a.sa_handler == SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
}

static void places(void) {
    static const char *bad[] = {"abc", "@localhost", "%slocalhost", "%s:localhost", "%sx", "%s@", "0x12e8", NULL};
    static const char *good[] = {"%s@localhost", "%s@127.0.0.1", "%s@127.1", "%s@0", "%s @localhost",
                                 " %s@localhost", "%s@localhost extra", "+%s", "0%s", "  %s", NULL};
    char text[128], group[64];
    mailbox m, n;
    int i;
    sprintf(text, "%d@localhost", 1);
    IS("CN4", ok(text, "u"), -2);
    IS("CN5", try(port, "u1", 0, 1, &m, group), 1);
    ROW("CN5", strcmp(group, "#u1#localhost") == 0 && m > 2);
    ROW("CN25", group[strlen(group) + 1] == '~');
    SP_disconnect(m);
    for (i = 0; good[i]; i++) IS(good[i], ok(at(good[i], port), NULL), 1);
    for (i = 0; bad[i]; i++) IS(bad[i], ok(at(bad[i], port), NULL), -1);
    sprintf(text, "%ld", atol(port) + 65536);
    IS("CN10", ok(text, NULL), 1);
    IS("CN12", ok(at("%s@no.such.host.invalid", port), NULL), -1);
    IS("CN13", ok("-1", NULL), -2);
    IS("CN13", ok("0", NULL), -2);
    IS("CN13", ok("99999999999", NULL), -2);
    sprintf(text, "%70s", port);
    IS("CN14", ok(text, NULL), 1);
    sprintf(text, "%71s", port);
    IS("CN14", ok(text, NULL), -1);
    IS("CN15", ok(at("%s@[::1]", port), NULL), -1);
    IS("CN15", ok(at("%s@::1", port), NULL), -2);
    for (i = 0; i < 2; i++) {
        IS("CN17", try(port, i ? "" : NULL, 0, 1, &m, group), 1);
        ROW("CN17", group[0] == '#' && strlen(group) > 11 && strcmp(strchr(group + 1, '#'), "#localhost") == 0);
        SP_disconnect(m);
    }
    for (i = 0; i < 3; i++) {
        static const char *names[] = {"0123456789", "abcdefghijK", "ABCDEFGHIJ123456"};
        char want[64];
        sprintf(want, "#%.10s#localhost", names[i]);
        IS("CN18", try(port, names[i], 0, 1, &m, group), 1);
        ROW("CN18", strcmp(group, want) == 0);
        SP_disconnect(m);
    }
    {
        static const char *illegal[] = {"a#b", "a b", "a!b", "\"q", "a\tb", "a\x7f", "\xc3\xa9", NULL};
        for (i = 0; illegal[i]; i++) IS("CN19", ok(port, illegal[i]), -5);
    }
    IS("CN20", ok(port, "$ok"), 1);
    IS("CN20", ok(port, "a~z"), 1);
    IS("CN21", try(port, "p5", 5, 77, &m, group), 1);
    SP_disconnect(m);
    IS("CN21", try(port, "p-3", -3, 77, &m, group), 1);
    SP_disconnect(m);
    IS("CN22", try(port, "dup", 0, 1, &m, group), 1);
    IS("CN22", ok(port, "dup"), -6);
    IS("CN22", ok(at("%s@localhost", port), "dup"), -6);
    IS("CN23", ok(port, "DUP"), 1);
    IS("CN24", SP_disconnect(m), 0);
    UNTIL("CN24", try(port, "dup", 0, 1, &n, group) == 1);
    SP_disconnect(n);
}

static void limits(void) {
    struct peer p;
    double start;
    IS("CN27", within(port, NULL, 5, 0), 1);
    IS("CN27", within(port, NULL, 0, 0), 1);
    IS("CN27", within(port, NULL, 0, 500000), 1);
    start = now();
    IS("CN28", within(port, NULL, 0, 1), -8);
    IS("CN28", within(port, NULL, -1, 0), -8);
    IS("CN28", within(port, NULL, -1, -5), -8);
    ROW("CN28", now() - start < 0.5);
    IS("CN29", within(port, NULL, 1, -1), -20);
    IS("CN29", within(port, NULL, -1, 1), -20);
    IS("CN29", within(port, NULL, 0, 1000000), -20);
    IS("CN29", within(port, NULL, 0, -1000000), -20);
    IS("CN29", within("nonsense", NULL, 0, 1000000), -20);
    start = now();
    IS("CN30", within("1@127.0.0.1", NULL, 1, 0), -2);
    ROW("CN30", now() - start < 0.5);

    /* Nobody accepts: first the backlog takes the connections, then not even that. */
    peer_listen(&p);
    start = now();
    IS("CN34", within(p.where, NULL, 0, 300000), -8);
    ROW("CN34", now() - start > 0.28 && now() - start < 1.3);
    {
        int i, fds[20];
        struct sockaddr_in a;
        socklen_t len = sizeof a;
        getsockname(p.listener, (struct sockaddr *)&a, &len);
        for (i = 0; i < 20; i++) {
            fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
            if (connect(fds[i], (struct sockaddr *)&a, len) && errno != EINPROGRESS) break;
        }
        start = now();
        IS("CN31", within(p.where, NULL, 0, 500000), -8);
        ROW("CN31", now() - start > 0.48 && now() - start < 1.5);
        while (i-- > 0) close(fds[i]);
    }
    close(p.listener);

    peer_listen(&p);
    p.pause_ms = 200;
    peer_start(&p, "\5NULL \1\5\0\1", 10);
    start = now();
    IS("CN33", within(p.where, NULL, 0, 500000), -8);
    ROW("CN33", now() - start > 0.48 && now() - start < 1.5);
    peer_end(&p);
}

static void answers(void) {
    struct peer p;
    char group[64];
    int i;
    static const unsigned char hello[2][7] = {{5, 0, 1, 1, 2, 'n', 'm'}, {5, 0, 1, 0x11, 2, 'n', 'm'}};
    for (i = 0; i < 2; i++) {
        IS("CN36", answered(&p, "", 0, i, group), -8);
        ROW("CN35", p.hello_len == 7 && memcmp(p.hello, hello[i], 7) == 0);
    }
    IS("CN37", answered(&p, "\xfb", 1, 0, group), -5);
    ROW("CN37", p.got_len == 0);
    IS("CN38", answered(&p, "\x5b", 1, 0, group), -8);
    IS("CN39", answered(&p, "\x09IP NULL X\1\5\0\1\4#a#b", 19, 0, group), 1);
    ROW("CN39", p.got_len == 90 && memcmp(p.got, "NULL\0", 5) == 0 && strcmp(group, "#a#b") == 0);
    IS("CN40", answered(&p, "\3IP ", 4, 0, group), -9);
    ROW("CN40", p.got_len == 0);
    IS("CN40", answered(&p, "\0", 1, 0, group), -9);
    ROW("CN40", p.got_len == 0);
    IS("CN41", answered(&p, "\5NULL \xf7", 7, 0, group), -9);
    IS("CN41", answered(&p, "\5NULL \xf7\5\0\1\4", 11, 0, group), -9);
    IS("CN42", answered(&p, "\5NULL \1\2\x09\x09\4#a#b", 15, 0, group), -7);
    IS("CN43", answered(&p, "\5NULL \1\3\7\0\4#a#b", 15, 0, group), 1);
    IS("CN43", answered(&p, "\5NULL \1\3\7\0\4#a#b", 15, 1, group), -7);
    IS("CN44", answered(&p, "\5NULL \0", 7, 0, group), 0);
    IS("CN45", answered(&p, "\5NULL \5", 7, 0, group), 5);
    IS("CN46", answered(&p, "\5NULL \1\5\0\1\x20", 11, 0, group), -8);
    IS("CN46", answered(&p, "\5NULL \1\5\0\1\0", 11, 0, group), 1);
    ROW("CN46", group[0] == 0 && group[1] == '~');
    IS("CN47", answered(&p, "\5NULL \1\5", 8, 0, group), -8);
}

static int called[3], nonblocking, said = 1;

static int method(int fd, void *data) {
    called[(long)data]++;
    nonblocking = (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0;
    return said;
}

static int bad_method(int fd, void *data) {
    (void)fd;
    called[(long)data]++;
    return 0;
}

static void methods(void) {
    const char *names[4] = {"NULL", "NULL", "NULL", "NULL"};
    int (*functions[4])(int, void *) = {bad_method, method, method, method};
    void *data[4] = {(void *)1, (void *)2, (void *)0, (void *)0};
    IS("AU1", SP_set_auth_method("NULL", method, (void *)1), 1);
    IS("AU1", ok(port, NULL), 1);
    IS("AU1", called[1], 1);
    ROW("AU3", nonblocking);
    said = 0;
    IS("AU2", ok(port, NULL), -9);
    IS("AU5", SP_set_auth_method("FOO", NULL, NULL), 0);
    IS("AU5", SP_set_auth_method("012345678901234567890123456789", method, NULL), 0);
    said = 1;
    IS("AU5", ok(port, NULL), 1);
    IS("AU5", called[1], 3);
    IS("AU6", SP_set_auth_method("01234567890123456789012345678", method, NULL), 1);
    IS("AU4", SP_set_auth_method("FOO", method, (void *)2), 1);
    IS("AU4", ok(port, NULL), -9);
    IS("AU4", called[2], 0);
    IS("AU7", SP_set_auth_methods(4, names, functions, data), 0);
    IS("AU7", SP_set_auth_methods(-1, names, functions, data), 0);
    called[1] = 0;
    IS("AU8", SP_set_auth_methods(2, names, functions, data), 1);
    IS("AU8", ok(port, NULL), -9);
    ROW("AU8", called[1] == 1 && called[2] == 1);
    IS("AU10", SP_set_auth_methods(0, NULL, NULL, NULL), 1);
    IS("AU10", ok(port, NULL), -9);
    IS("AU11", SP_set_auth_method("NULL", method, (void *)1), 1);
    IS("AU11", ok(port, NULL), 1);
}

static void descriptors(void) {
    int tcp, value;
    socklen_t len = sizeof value;
    for (tcp = 0; tcp < 2; tcp++) {
        mailbox m = session(tcp ? at("%s@127.0.0.1", port) : port, NULL, 1);
        ROW("FK5", !(fcntl(m, F_GETFL) & O_NONBLOCK));
        ROW("FK5", !(fcntl(m, F_GETFD) & FD_CLOEXEC));
        getsockopt(m, SOL_SOCKET, SO_KEEPALIVE, &value, &len);
        IS("FK5", value != 0, tcp);
        getsockopt(m, SOL_SOCKET, SO_SNDBUF, &value, &len);
        ROW("FK5", value >= 212992);
        if (tcp) {
            getsockopt(m, IPPROTO_TCP, TCP_NODELAY, &value, &len);
            IS("FK5", value != 0, 1);
        }
        SP_disconnect(m);
    }
}

static void small(void) {
    int a = 0, b = 0, c = 0, i, j;
    int codes[19];
    IS("MS1", SP_version(&a, &b, &c), 1);
    ROW("MS1", a == 5 && b == 0 && c == 1);
    IS("MS1", SP_version(&a, NULL, &c), 0);
    for (i = 0; i < 19; i++) codes[i] = i < 9 ? -1 - i : -2 - i;
    for (i = 0; i < 19; i++) {
        for (j = 0; j < i; j++) ROW("MS2", strcmp(SP_strerror(codes[i]), SP_strerror(codes[j])) != 0);
        ROW("MS2", strcmp(SP_strerror(codes[i]), SP_strerror(1)) != 0);
    }
    ROW("MS2", strcmp(SP_strerror(0), SP_strerror(1)) == 0 && strcmp(SP_strerror(-10), SP_strerror(-99)) == 0 &&
                   strcmp(SP_strerror(-21), SP_strerror(1)) == 0);
    SP_error(-8); /* MS3: looked at by who runs the program */
    IS("MS5", SPREAD_VERSION, 0x05000000);
}

int main(int argc, char **argv) {
    (void)argc;
    port = argv[1];
    before();
    places();
    limits();
    answers();
    methods();
    descriptors();
    small();
    return finish();
}
