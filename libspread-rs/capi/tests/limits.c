/* Rows of the specification at limits: sessions, sizes, a reader that does not read. The daemon takes ten sessions. */
#include "case.h"

#define SESSIONS 10

/* Not declared by an installed header, but there. */
extern int SP_query_groups(void);
extern int SP_query_members(void);

static int called;

static int good_method(int fd, void *data) {
    (void)fd;
    (void)data;
    called++;
    return 1;
}

static int try_connect(const char *where, mailbox *m) {
    char group[MAX_GROUP_NAME];
    return SP_connect(where, NULL, 0, 0, m, group);
}

static void methods(void) {
    const char *names[3] = {"NULL", "NULL", "NULL"};
    int (*functions[3])(int, void *) = {good_method, good_method, good_method};
    void *data[3] = {NULL, NULL, NULL};
    mailbox m;
    int ret;
    IS("AU9", SP_set_auth_methods(3, names, functions, data), 1);
    ret = try_connect(port, &m);
    IS("AU9", called, 3);
    /* The original refuses a session with three methods that all succeed; there is no reason to. */
    IS("AU9", ret, 1);
    if (ret == 1) SP_disconnect(m);
    IS("AU9", SP_set_auth_method("NULL", NULL, NULL), 0);
    IS("AU9", SP_set_auth_methods(1, names, functions, data), 1);
}

static void sessions(void) {
    mailbox all[SESSIONS + 1], m;
    int n = 0, ret = 1;
    while (n <= SESSIONS && (ret = try_connect(n % 2 ? port : at("%s@localhost", port), &all[n])) == 1) n++;
    IS("CN26", n, SESSIONS);
    IS("CN26", ret, -3);
    IS("CN26", try_connect(port, &m), -3);
    IS("CN26", try_connect(at("%s@localhost", port), &m), -3);
    IS("CN26", SP_disconnect(all[0]), 0);
    UNTIL("CN26", try_connect(port, &all[0]) == 1);
    while (n > 0) SP_disconnect(all[--n]);
    /* All are free again. */
    UNTIL("CN26", try_connect(port, &m) == 1);
    SP_disconnect(m);
}

/* What the original's library lets pass, and its daemon dies of, or closes the session for: refused in the call, with the
 * code that longer ones have. */
static void sizes(void) {
    static char big[144001];
    mailbox m = session(port, "sizes", 0);
    IS("MC22", SP_multicast(m, AGREED_MESS, "#sizes#localhost", 7, 143121, big), -17);
    IS("MC22", SP_multicast(m, AGREED_MESS, "#sizes#localhost", 7, 143920, big), -17);
    IS("MC23", SP_multicast(m, AGREED_MESS, "#sizes#localhost", 7, 143968, big), -17);
    /* Nothing was sent, and the session is fine. */
    ROW("MC22", nothing(m, "#sizes#localhost"));
    IS("MC22", SP_disconnect(m), 0);
}

static void *reader(void *arg) {
    /* The watcher is in a group with the one that does not read, and sees it go. */
    mailbox m = *(mailbox *)arg;
    do receive(m, 0, 200, sizeof r.body); while (r.ret >= 0 && !Is_caused_disconnect_mess(r.svc));
    return NULL;
}

static void slow(void) {
    mailbox s = session(port, "sender", 0), w = session(port, "watcher", 1);
    mailbox q = session(at("%s@localhost", port), "quiet", 0);
    static char body[1000], into[1000];
    static char groups[10][MAX_GROUP_NAME];
    char sender[MAX_GROUP_NAME];
    pthread_t thread;
    service svc;
    int i, n, ng, em, ret;
    int16 mt;
    double start;
    IS("ER11", SP_join(q, "slow"), 0);
    IS("ER11", SP_join(q, "watched"), 0);
    IS("ER11", SP_join(w, "watched"), 0);
    do receive(w, 0, 200, sizeof r.body); while (r.ret >= 0 && r.ng < 2);
    pthread_create(&thread, NULL, reader, &w);
    start = now();
    for (i = 0; i < 20000; i++) {
        if ((ret = SP_multicast(s, FIFO_MESS, "slow", 0, sizeof body, body)) != sizeof body) {
            IS("ER11", ret, sizeof body);
            break;
        }
    }
    /* Not for the daemon's patience with the other one, nor for ever. */
    ROW("ER11", now() - start < 60);
    pthread_join(thread, NULL);
    ROW("ER11", Is_caused_disconnect_mess(r.svc) && strcmp(r.groups[0], "#watcher#localhost") == 0);
    for (n = 0;; n++) {
        svc = 0;
        ret = SP_receive(q, &svc, sender, 10, &ng, groups, &mt, &em, sizeof into, into);
        if (ret != (int)sizeof into) break;
    }
    ROW("ER11", n > 0 && n < 20000);
    IS("ER11", ret, -8);
    IS("ER11", SP_disconnect(q), 0);
    SP_disconnect(s);
    SP_disconnect(w);
}

int main(int argc, char **argv) {
    (void)argc;
    port = argv[1];
    IS("MS4", SP_query_groups(), -1);
    IS("MS4", SP_query_members(), -1);
    methods();
    sessions();
    sizes();
    slow();
    return finish();
}
