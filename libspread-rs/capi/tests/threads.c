/* Rows TH and FK of the specification. */
#include "case.h"

struct job {
    mailbox m;
    int ret, second, count;
    char own[MAX_GROUP_NAME];
    int body[4];
    pthread_t thread;
};

static int receive_in(struct job *j) {
    char body[2000], groups[10][MAX_GROUP_NAME], sender[MAX_GROUP_NAME];
    service svc = 0;
    int ng, em, ret;
    int16 mt;
    ret = SP_receive(j->m, &svc, sender, 10, &ng, groups, &mt, &em, sizeof body, body);
    if (ret >= (int)sizeof j->body) memcpy(j->body, body, sizeof j->body);
    return ret;
}

static void *twice(void *arg) {
    struct job *j = arg;
    j->ret = receive_in(j);
    j->second = j->ret < 0 ? receive_in(j) : 0;
    return NULL;
}

static void *once(void *arg) {
    struct job *j = arg;
    j->ret = receive_in(j);
    return NULL;
}

static void *sends(void *arg) {
    struct job *j = arg;
    char body[1000];
    int i;
    memset(body, (int)(j->thread & 0x7f), sizeof body);
    for (i = 0; i < j->count; i++)
        if (SP_multicast(j->m, AGREED_MESS, j->own, 0, sizeof body, body) != (int)sizeof body) break;
    j->ret = i;
    return NULL;
}

static void start(struct job *j, mailbox m, const char *own, void *(*what)(void *)) {
    memset(j, 0, sizeof *j);
    j->m = m;
    j->ret = UNTOUCHED;
    strcpy(j->own, own);
    j->count = 500;
    pthread_create(&j->thread, NULL, what, j);
}

/* Whether a thread waits in the library: nothing has come of it yet, and nothing is on its way. */
static void let_it_wait(struct job *j) {
    usleep(30000);
    IS("waits", j->ret, UNTOUCHED);
}

static int signals;

static void on_signal(int number) {
    (void)number;
    signals++;
}

static void threads(int tcp) {
    const char *where = tcp ? at("%s@127.0.0.1", port) : port;
    struct job j, k, l;
    char own[MAX_GROUP_NAME];
    mailbox m;
    int i;
    IS("TH", SP_connect(where, NULL, 0, 1, &m, own), 1);
    start(&j, m, "", once);
    let_it_wait(&j);
    IS("TH1", SP_multicast(m, AGREED_MESS, own, 0, 3, "abc"), 3);
    pthread_join(j.thread, NULL);
    IS("TH1", j.ret, 3);

    start(&j, m, own, sends);
    start(&k, m, own, sends);
    for (i = 0; i < 1000; i++) {
        int same;
        if (receive(m, 0, 10, 2000) != 1000) break;
        for (same = 1; same < 1000 && r.body[same] == r.body[0]; same++);
        IS("TH4", same, 1000);
    }
    IS("TH4", i, 1000);
    pthread_join(j.thread, NULL);
    pthread_join(k.thread, NULL);
    ROW("TH4", j.ret == 500 && k.ret == 500);

    start(&j, m, "", once);
    start(&k, m, "", once);
    let_it_wait(&j);
    SP_multicast(m, AGREED_MESS, own, 0, 1, "x");
    SP_multicast(m, AGREED_MESS, own, 0, 2, "yz");
    pthread_join(j.thread, NULL);
    pthread_join(k.thread, NULL);
    ROW("TH5", j.ret + k.ret == 3 && (j.ret == 1 || k.ret == 1));

    {
        struct sigaction s;
        memset(&s, 0, sizeof s);
        s.sa_handler = on_signal;
        sigaction(SIGUSR1, &s, NULL);
        start(&j, m, "", once);
        let_it_wait(&j);
        signals = 0;
        pthread_kill(j.thread, SIGUSR1);
        UNTIL("TH6", signals == 1);
        let_it_wait(&j);
        SP_multicast(m, AGREED_MESS, own, 0, 1, "x");
        pthread_join(j.thread, NULL);
        IS("TH6", j.ret, 1);
    }

    {
        struct timespec t0, t1;
        clockid_t clock;
        fcntl(m, F_SETFL, fcntl(m, F_GETFL) | O_NONBLOCK);
        start(&j, m, "", once);
        pthread_getcpuclockid(j.thread, &clock);
        let_it_wait(&j);
        clock_gettime(clock, &t0);
        usleep(100000);
        clock_gettime(clock, &t1);
        ROW("TH7", (t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000 < 50);
        SP_multicast(m, AGREED_MESS, own, 0, 1, "x");
        pthread_join(j.thread, NULL);
        IS("TH7", j.ret, 1);
        fcntl(m, F_SETFL, fcntl(m, F_GETFL) & ~O_NONBLOCK);
    }

    {
        void *result = NULL;
        start(&j, m, "", once);
        let_it_wait(&j);
        pthread_cancel(j.thread);
        IS("TH8", pthread_join(j.thread, &result), 0);
        ROW("TH8", result == PTHREAD_CANCELED);
        IS("TH8", SP_multicast(m, AGREED_MESS, own, 0, 3, "abc"), 3);
        IS("TH8", receive(m, 0, 10, 100), 3);
    }

    start(&l, m, "", twice);
    let_it_wait(&l);
    IS("TH2", SP_disconnect(m), 0);
    pthread_join(l.thread, NULL);
    IS("TH2", l.ret, -8);
    ROW("TH3", l.second == -11 || l.second == -18);
}

/* Of 50,000 bytes each: more than any socket buffer takes. */
#define MANY 2000

static void *big_sends(void *arg) {
    struct job *j = arg;
    static char body[50000];
    int i;
    for (i = 0; i < MANY; i++) {
        if (SP_multicast(j->m, FIFO_MESS, "nobody", 0, sizeof body, body) < 0) break;
        j->second = i;
    }
    j->ret = i;
    return NULL;
}

/* A peer that reads nothing for a while stands for a daemon that is stopped. */
static void stuck(void) {
    struct peer p;
    struct job j;
    mailbox m, n;
    char group[64], trash[65536];
    int before;
    double start_time;
    peer_listen(&p);
    p.accept_ok = p.linger = 1;
    peer_start(&p, "", 0);
    IS("TH11", SP_connect(p.where, "me", 0, 1, &m, group), 1);
    pthread_join(p.thread, NULL);
    start_time = now();
    IS("GR11", SP_join(m, "x"), 0);
    IS("GR11", SP_leave(m, "x"), 0);
    IS("GR11", SP_poll(m), 0);
    ROW("GR11", now() - start_time < 0.5);
    start(&j, m, "", big_sends);
    do {
        before = j.second;
        usleep(100000);
    } while (j.second != before || before == 0);
    IS("TH11", j.ret, UNTOUCHED);
    start_time = now();
    IS("PO10", SP_poll(m), 0);
    ROW("PO10", now() - start_time < 0.5);
    fcntl(p.fd, F_SETFL, O_NONBLOCK);
    while (j.ret == UNTOUCHED) {
        struct pollfd w = {p.fd, POLLIN, 0};
        if (poll(&w, 1, 20) == 1 && read(p.fd, trash, sizeof trash) == 0) break;
    }
    pthread_join(j.thread, NULL);
    IS("TH11", j.ret, MANY);
    start(&j, m, "", big_sends);
    do {
        before = j.second;
        usleep(100000);
    } while (j.second != before || before == 0);
    start_time = now();
    IS("TH12", SP_disconnect(m), 0);
    ROW("TH12", now() - start_time < 1);
    pthread_join(j.thread, NULL);
    ROW("TH12", j.ret < MANY);
    close(p.fd);
    close(p.listener);
    n = session(port, "after", 0);
    SP_disconnect(n);
}

static void killed(void) {
    struct job j;
    mailbox m = session(port, "k1", 1), n;
    int seen;
    start(&j, m, "", once);
    let_it_wait(&j);
    SP_kill(m);
    IS("TH9", SP_poll(m), -11);
    usleep(30000);
    seen = j.ret;
    ROW("TH9", seen == UNTOUCHED || seen == -8);
    pthread_cancel(j.thread);
    pthread_join(j.thread, NULL);
    n = session(port, "k2", 1);
    IS("TH9", SP_multicast(n, AGREED_MESS, "#k2#localhost", 0, 1, "x"), 1);
    IS("TH9", receive(n, 0, 10, 10), 1);
    SP_disconnect(n);
}

static int exit_of(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void forks(void) {
    mailbox other = session(port, "fo", 1), m = session(port, "fk1", 1);
    pid_t child;
    struct job j;
    int ready[2];
    SP_join(other, "fk");
    receive(other, 0, 10, 100);
    SP_join(m, "fk");
    receive(m, 0, 10, 100);
    receive(other, 0, 10, 100);
    if (pipe(ready)) exit(2);
    child = fork();
    if (!child) {
        char byte;
        close(ready[1]);
        if (read(ready[0], &byte, 1) != 0) _exit(9); /* the parent has given the mailbox up */
        if (SP_multicast(m, AGREED_MESS, "fk", 0, 5, "child") != 5) _exit(1);
        if (receive(m, 0, 10, 100) != 5) _exit(2);
        if (SP_disconnect(m) != 0) _exit(3);
        _exit(0);
    }
    close(ready[0]);
    SP_kill(m);
    IS("FK1", SP_multicast(m, AGREED_MESS, "fk", 0, 1, "x"), -11);
    close(ready[1]);
    IS("FK1", exit_of(child), 0);
    IS("FK1", receive(other, 0, 10, 100), 5);
    IS("FK1", receive(other, 0, 10, 100), 56);
    IS("FK1", r.svc, 0x1400);

    m = session(port, "fk2", 1);
    start(&j, m, "", once);
    let_it_wait(&j);
    child = fork();
    if (!child) {
        if (SP_poll(m) != 0) _exit(1);
        if (SP_multicast(m, AGREED_MESS, "#fk2#localhost", 0, 3, "abc") != 3) _exit(2);
        _exit(0);
    }
    IS("FK2", exit_of(child), 0);
    pthread_join(j.thread, NULL);
    IS("FK2", j.ret, 3);

    /* The lock that the thread of the parent may have had is free in the child. (Two processes that receive at once
     * would tear the stream: the one in the parent is ended.) */
    start(&j, m, "", once);
    let_it_wait(&j);
    child = fork();
    if (!child) {
        alarm(20);
        _exit(receive(m, 0, 10, 100) == 1 ? 0 : 1);
    }
    pthread_cancel(j.thread);
    pthread_join(j.thread, NULL);
    SP_multicast(m, AGREED_MESS, "#fk2#localhost", 0, 1, "x");
    IS("FK3", exit_of(child), 0);

    child = fork();
    if (!child) _exit(SP_disconnect(m) == 0 ? 0 : 1);
    IS("FK4", exit_of(child), 0);
    IS("FK4", receive(m, 0, 10, 100), -8);
    IS("FK4", SP_disconnect(m), 0);
    SP_disconnect(other);
}

int main(int argc, char **argv) {
    (void)argc;
    port = argv[1];
    threads(0);
    threads(1);
    stuck();
    killed();
    forks();
    (void)ask, (void)settle, (void)nothing, (void)untouched;
    return finish();
}
