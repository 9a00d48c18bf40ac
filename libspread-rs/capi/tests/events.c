/* Rows EV of the specification. */
#include "case.h"

static char order[64];
static int placed;
static double started, at_time[8];

static void timer(int code, void *data) {
    (void)data;
    if (placed < 60) order[placed++] = (char)code;
    if (code >= 'A' && code < 'A' + 8) at_time[code - 'A'] = now() - started;
}

static void stop(int code, void *data) {
    (void)code;
    (void)data;
    E_exit_events();
}

static void reads(int fd, int code, void *data) {
    char byte;
    (void)data;
    if (read(fd, &byte, 1) == 1 && placed < 60) order[placed++] = (char)code;
}

static void nothing_to_do(int fd, int code, void *data) {
    (void)fd, (void)code, (void)data;
}

static int again_left = 3;

static void again(int code, void *data) {
    sp_time t = {0, 1000};
    if (--again_left) E_queue(again, code, data, t);
    else E_exit_events();
}

static void detaches(int fd, int code, void *data) {
    reads(fd, code, data);
    IS("EV12", E_detach_fd(fd, READ_FD), 0);
}

static int writable;

static void writes(int fd, int code, void *data) {
    (void)code, (void)data;
    writable = 1;
    E_detach_fd(fd, WRITE_FD);
    E_exit_events();
}

static void on_signal(int number) {
    (void)number;
    E_exit_events_async_safe();
}

static void put_bytes(int fd, int n) {
    ROW("write", write(fd, "xxxxxxxxxx", (size_t)n) == n);
}

static int same(sp_time t, long sec, long usec) {
    return t.sec == sec && t.usec == usec;
}

static sp_time time_of(long sec, long usec) {
    sp_time t;
    t.sec = sec, t.usec = usec;
    return t;
}

int main(void) {
    int p[3][2], i;
    for (i = 0; i < 3; i++) if (pipe(p[i])) return 2;
    IS("EV1", E_init(), 0);
    IS("EV1", E_attach_fd(p[0][0], READ_FD, reads, 'l', NULL, LOW_PRIORITY), 0);
    IS("EV1", E_attach_fd(p[0][0], READ_FD, reads, 'l', NULL, LOW_PRIORITY), 1);
    IS("EV1", E_attach_fd(p[0][0], READ_FD, reads, 'l', NULL, HIGH_PRIORITY), 0);
    IS("EV2", E_attach_fd(p[0][0], READ_FD, reads, 0, NULL, 3), -1);
    IS("EV2", E_attach_fd(p[0][0], 5, reads, 0, NULL, 0), -1);
    IS("EV2", E_attach_fd(-1, READ_FD, reads, 0, NULL, 0), -1);
    IS("EV3", E_num_active(LOW_PRIORITY), 1);
    IS("EV3", E_num_active(HIGH_PRIORITY), 1);
    IS("EV3", E_num_active(7), -1);
    IS("EV4", E_deactivate_fd(p[0][0], READ_FD), 0);
    IS("EV4", E_num_active(LOW_PRIORITY), 0);
    IS("EV4", E_activate_fd(p[0][0], READ_FD), 0);
    IS("EV4", E_num_active(LOW_PRIORITY), 1);
    IS("EV4", E_deactivate_fd(900, READ_FD), -1);
    IS("EV5", E_detach_fd_priority(p[0][0], READ_FD, HIGH_PRIORITY), 0);
    IS("EV5", E_detach_fd_priority(p[0][0], READ_FD, HIGH_PRIORITY), -1);
    IS("EV5", E_detach_fd(p[0][0], READ_FD), 0);
    IS("EV5", E_detach_fd(p[0][0], READ_FD), -1);
    IS("EV6", E_set_active_threshold(2), 2);
    IS("EV6", E_set_active_threshold(2), 2);
    IS("EV6", E_set_active_threshold(0), 0);
    IS("EV6", E_set_active_threshold(3), -1);
    IS("EV7", E_queue(timer, 1, NULL, time_of(100, 0)), 0);
    IS("EV7", E_in_queue(timer, 1, NULL), 1);
    IS("EV7", E_in_queue(timer, 2, NULL), 0);
    IS("EV7", E_dequeue(timer, 1, NULL), 0);
    IS("EV7", E_dequeue(timer, 1, NULL), -1);

    started = now();
    E_queue(timer, 'A', NULL, time_of(0, 150000));
    E_queue(timer, 'B', NULL, time_of(0, 50000));
    E_queue(timer, 'A', NULL, time_of(0, 100000));
    E_queue(stop, 0, NULL, time_of(0, 250000));
    E_exit_events(); /* EV13: without effect */
    E_handle_events();
    ROW("EV8", memcmp(order, "BA", 3) == 0);
    ROW("EV8", at_time[1] >= 0.049 && at_time[0] >= 0.099 && now() - started >= 0.249);

    /* EV9 */
    placed = 0;
    memset(order, 0, sizeof order);
    E_attach_fd(p[0][0], READ_FD, reads, 'l', NULL, LOW_PRIORITY);
    E_attach_fd(p[2][0], READ_FD, reads, 'h', NULL, HIGH_PRIORITY);
    put_bytes(p[0][1], 1);
    put_bytes(p[2][1], 1);
    E_set_active_threshold(HIGH_PRIORITY);
    E_queue(stop, 0, NULL, time_of(0, 20000));
    E_handle_events();
    ROW("EV9", strcmp(order, "h") == 0);
    E_set_active_threshold(LOW_PRIORITY);

    /* EV10: one more byte is left on low. */
    placed = 0;
    memset(order, 0, sizeof order);
    E_attach_fd(p[1][0], READ_FD, reads, 'm', NULL, MEDIUM_PRIORITY);
    put_bytes(p[0][1], 3);
    put_bytes(p[1][1], 3);
    put_bytes(p[2][1], 2);
    E_queue(timer, 't', NULL, time_of(0, 0));
    E_queue(stop, 0, NULL, time_of(0, 20000));
    E_handle_events();
    ROW("EV10", strcmp(order, "hlhlmlmlmt") == 0);
    if (strcmp(order, "hlhlmlmlmt")) printf("%s\n", order);

    /* EV11 */
    E_init();
    placed = 0;
    memset(order, 0, sizeof order);
    for (i = 0; i < 3; i++) {
        E_attach_fd(p[i][0], READ_FD, reads, '1' + i, NULL, LOW_PRIORITY);
        put_bytes(p[i][1], 2);
    }
    E_queue(stop, 0, NULL, time_of(0, 20000));
    E_handle_events();
    ROW("EV11", strcmp(order, "123123") == 0);

    /* EV12 */
    E_init();
    placed = 0;
    memset(order, 0, sizeof order);
    E_queue(again, 0, NULL, time_of(0, 1000));
    E_handle_events();
    IS("EV12", again_left, 0);
    E_attach_fd(p[0][0], READ_FD, detaches, 'd', NULL, LOW_PRIORITY);
    put_bytes(p[0][1], 2);
    E_queue(stop, 0, NULL, time_of(0, 20000));
    E_handle_events();
    ROW("EV12", strcmp(order, "d") == 0);
    E_attach_fd(p[0][1], WRITE_FD, writes, 0, NULL, MEDIUM_PRIORITY);
    E_handle_events();
    IS("EV12", writable, 1);

    /* EV14 */
    started = now();
    E_queue(stop, 0, NULL, time_of(-5, 0));
    E_handle_events();
    ROW("EV14", now() - started < 1);

    /* EV15 */
    signal(SIGALRM, on_signal);
    started = now();
    ualarm(20000, 0);
    E_handle_events();
    ROW("EV15", now() - started < 5);

    ROW("EV16", same(E_add_time(time_of(1, 900000), time_of(0, 200000)), 2, 100000));
    ROW("EV16", same(E_sub_time(time_of(1, 0), time_of(2, 500000)), -1, -500000));
    ROW("EV16", same(E_add_time(time_of(-1, -500000), time_of(0, 600000)), 0, -900000));
    ROW("EV16", same(E_add_time(time_of(5, 0), time_of(-3, -1)), 1, 999999));
    IS("EV16", E_compare_time(time_of(1, 2), time_of(1, 3)), -1);
    IS("EV16", E_compare_time(time_of(2, 0), time_of(1, 3)), 1);
    IS("EV16", E_compare_time(time_of(2, 0), time_of(2, 0)), 0);
    ROW("EV16", same(E_neg_time(time_of(1, -2)), -1, 2));
    ROW("EV16", E_get_time().sec > 1000000000 && E_get_time_monotonic().sec > 0);
    started = now();
    E_delay(time_of(0, 20000));
    ROW("E_delay", now() - started >= 0.02);
    (void)nothing_to_do, (void)port, (void)ask, (void)session, (void)settle, (void)nothing;
    return finish();
}
