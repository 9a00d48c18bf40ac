/* Rows FL of the specification. */
#include "case.h"

#include <fl.h>

static mailbox fa, fb;
static int more;

static int fl_receive(mailbox m, service in, int max_groups, int max_len) {
    r.svc = in;
    memset(r.sender, '~', sizeof r.sender);
    memset(r.groups, '~', sizeof r.groups);
    memset(r.body, '~', 300);
    r.ng = r.em = more = UNTOUCHED;
    r.mt = 0x5a5a;
    r.ret = FL_receive(m, &r.svc, r.sender, max_groups, &r.ng, r.groups, &r.mt, &r.em, max_len, r.body, &more);
    return r.ret;
}

static int is(const char *cell, const char *name) {
    return strncmp(cell, name, MAX_GROUP_NAME) == 0;
}

static int in_view(int i) {
    int n;
    memcpy(&n, r.body + 12, 4);
    return n == i;
}

/* The next message is of this type. */
static void expect(const char *id, mailbox m, service svc) {
    fl_receive(m, 0, 100, 1000);
    if (r.svc != svc) printf("%s: got 0x%x, not 0x%x (result %d)\n", id, r.svc, svc, r.ret);
    ROW(id, r.svc == svc);
}

static struct {
    mailbox m;
    int ret;
} waiting;

static void *waits(void *arg) {
    static char body[100], groups[10][MAX_GROUP_NAME], sender[MAX_GROUP_NAME];
    service svc = 0;
    int ng, em, rest;
    int16 mt;
    (void)arg;
    waiting.ret = FL_receive(waiting.m, &svc, sender, 10, &ng, groups, &mt, &em, 100, body, &rest);
    return NULL;
}

static void basics(void) {
    char group[64];
    int a, b, c, i;
    scatter s;
    static char big[144001];
    IS("FL1", FL_lib_init(), 0);
    IS("FL1", FL_lib_init(), -27);
    IS("FL2", FL_connect(port, "fa", 0, &fa, group), 1);
    ROW("FL2", is(group, "#fa#localhost"));
    IS("FL3", FL_connect(port, "fa", 0, &fb, group), -6);
    IS("FL3", FL_connect("abc", "x", 0, &fb, group), -1);
    IS("FL4", FL_leave(fa, "g"), -14);
    IS("FL4", FL_multicast(fa, FIFO_MESS, "g", 0, 1, "x"), -14);
    IS("FL4", FL_flush(fa, "g"), -14);
    IS("FL5", FL_join(fa, ""), -14);
    IS("FL5", FL_join(fa, "#x"), -14);
    IS("FL6", FL_join(fa, "g"), 0);
    IS("FL6", FL_join(fa, "g"), 0);
    IS("FL7", FL_leave(fa, "g"), -14);
    IS("FL7", FL_multicast(fa, FIFO_MESS, "g", 0, 1, "x"), -14);
    IS("FL8", fl_receive(fa, 0, 10, 1000), 48);
    ROW("FL8", r.svc == 0x1100 && is(r.sender, "g") && r.ng == 1 && r.mt == 0 && r.em == 0 && more == 0);
    ROW("FL8", in_view(1) && is(r.body + 16, "#fa#localhost") && is(r.groups[0], "#fa#localhost"));
    IS("FL6", FL_join(fa, "g"), -14);
    do fl_receive(fa, DONT_BLOCK, 10, 100); while (r.ret != WOULD_BLOCK);
    ROW("FL9", r.svc == DONT_BLOCK && more == UNTOUCHED && untouched());
    IS("FL11", FL_multicast(fa, FIFO_MESS, "g", 77, 5, "hello"), 5);
    IS("FL11", fl_receive(fa, 0, 10, 100), 5);
    ROW("FL11", r.svc == 4 && r.mt == 77 && r.ng == 1 && memcmp(r.body, "hello~", 6) == 0);
    IS("FL12", FL_flush(fa, "g"), -27);
    IS("FL24", FL_multicast(fa, 0, "g", 0, 1, "x"), -12);
    IS("FL24", FL_multicast(fa, FIFO_MESS | REG_MEMB_MESS, "g", 0, 1, "x"), -12);
    IS("FL24", FL_multicast(fa, FIFO_MESS | FLUSH_REQ_MESS, "g", 0, 1, "x"), -12);
    IS("FL24", FL_multicast(fa, FIFO_MESS | 0x4000, "g", 0, 1, "x"), -12);
    IS("FL26", FL_multicast(fa, FIFO_MESS, "g", -32768, 1, "x"), -26);
    IS("FL26", FL_multicast(fa, FIFO_MESS, "g", -32766, 1, "x"), -26);
    IS("FL26", FL_multicast(fa, FIFO_MESS | SUBGROUP_CAST, "g", -32765, 1, "x"), 1);
    IS("FL26", fl_receive(fa, 0, 10, 100), 1);
    IS("FL25", r.svc, 4);
    IS("FL27", FL_multicast(fa, FIFO_MESS, "g", 0, 144001, big), -17);
    s.num_elements = 100;
    for (i = 0; i < 100; i++) s.elements[i].buf = "x", s.elements[i].len = 1;
    IS("FL28", FL_scat_multicast(fa, FIFO_MESS, "g", 0, &s), -13);
    s.num_elements = 99;
    IS("FL28", FL_scat_multicast(fa, FIFO_MESS, "g", 0, &s), 99);
    IS("FL28", fl_receive(fa, 0, 10, 1000), 99);
    IS("FL29", fl_receive(fa, 0, -1, 10), -24);
    IS("FL29", fl_receive(999, 0, -1, 10), -24);
    FL_version(&a, &b, &c);
    ROW("FL52", a == 2 && b == 0 && c == 0 && FL_get_gid_offset_memb_mess() == 0 &&
                    FL_get_num_vs_offset_memb_mess() == 12 && FL_get_vs_set_offset_memb_mess() == 16);
}

static void two(void) {
    char group[64];
    IS("FL13", FL_connect(port, "fb", 0, &fb, group), 1);
    IS("FL13", FL_join(fb, "g"), 0);
    IS("FL13", fl_receive(fa, 0, 10, 100), 0);
    ROW("FL13", r.svc == FLUSH_REQ_MESS && is(r.sender, "g") && r.ng == 0 && r.mt == 0 && r.em == 0);
    ROW("FL13", Is_flush_req_mess(r.svc) && !Is_subgroup_mess(r.svc));
    IS("FL14", FL_multicast(fa, AGREED_MESS, "g", 5, 3, "old"), 3);
    IS("FL35", FL_multicast(fa, FIFO_MESS, "g", 6, 4, "old2"), 4);
    IS("FL15", FL_unicast(fa, FIFO_MESS, "g", "#fb#localhost", 0, 1, "x"), -28);
    IS("FL16", FL_flush(fa, "g"), 0);
    IS("FL16", FL_flush(fa, "g"), -27);
    IS("FL16", FL_multicast(fa, FIFO_MESS, "g", 0, 1, "x"), -27);
    IS("FL14", fl_receive(fa, 0, 10, 100), 3);
    IS("FL35", fl_receive(fa, 0, 10, 100), 4);
    ROW("FL35", r.svc == 4 && r.mt == 6);
    /* A joiner agrees by receiving. */
    IS("FL17", fl_receive(fb, 0, 10, 100), 48);
    ROW("FL17", r.svc == 0x1100 && r.ng == 2 && r.mt == 1);
    IS("FL17", fl_receive(fa, 0, 10, 100), 48);
    ROW("FL17", r.svc == 0x1100 && r.ng == 2 && in_view(1) && is(r.body + 16, "#fb#localhost"));
    IS("FL18", FL_multicast(fa, SAFE_MESS | SELF_DISCARD, "g", 1, 1, "s"), 1);
    IS("FL18", fl_receive(fb, 0, 10, 100), 1);
    IS("FL18", r.svc, 0x60);
    IS("FL19", FL_unicast(fb, FIFO_MESS, "g", "#fa#localhost", 2, 2, "un"), 2);
    IS("FL19", fl_receive(fa, 0, 10, 100), 2);
    ROW("FL19", r.svc == 0x40000004 && r.ng == 2 && is(r.groups[0], "#fa#localhost") && is(r.groups[1], "g") && r.mt == 2);
    {
        char cells[3][MAX_GROUP_NAME] = {"#fa#localhost", "#fb#localhost", "#zz#localhost"};
        IS("FL20", FL_subgroupcast(fb, SAFE_MESS, "g", 2, cells, 3, 11, "hello world"), 11);
        IS("FL20", fl_receive(fa, 0, 10, 100), 11);
        ROW("FL20", r.ng == 3 && is(r.groups[2], "g"));
        IS("FL42", fl_receive(fb, 0, 2, 100), -16);
        IS("FL42", r.ng, -3);
        IS("FL44", fl_receive(fb, DROP_RECV, 2, 100), -16);
        ROW("FL44", r.ng == -3 && is(r.groups[0], "#fa#localhost") && is(r.groups[1], "g"));
        IS("FL21", FL_subgroupcast(fb, SAFE_MESS, "g", 3, cells, 3, 1, "x"), -28);
        IS("FL21", FL_subgroupcast(fb, SAFE_MESS, "g", 0, cells, 3, 1, "x"), 1);
        IS("FL21", FL_subgroupcast(fb, SAFE_MESS, "g", -1, cells, 3, 1, "x"), -24);
    }
    IS("FL22", FL_multicast(fb, FIFO_MESS, "#fa#localhost", 4, 3, "pri"), 3);
    IS("FL22", fl_receive(fa, 0, 10, 100), 3);
    ROW("FL22", r.svc == 4 && r.ng == 1);
    IS("FL23", FL_unicast(fb, FIFO_MESS, "#fa#localhost", "#fa#localhost", 4, 3, "pri"), 3);
    IS("FL23", fl_receive(fa, 0, 10, 100), 3);
    IS("FL23", r.ng, 2);
    IS("FL23", FL_unicast(fb, FIFO_MESS, "#fa#localhost", "#fb#localhost", 4, 3, "pri"), -28);
    IS("FL41", FL_multicast(fb, SAFE_MESS, "g", 4, 11, "hello world"), 11);
    IS("FL41", fl_receive(fa, 0, 10, 5), -15);
    IS("FL41", r.em, -11);
    IS("FL41", fl_receive(fa, 0, 0, 10), -16);
    ROW("FL41", r.ng == -1 && r.em == -11);
    IS("FL41", fl_receive(fa, 0, 0, 100), -16);
    ROW("FL41", r.ng == -1 && r.em == 0);
    IS("FL41", fl_receive(fa, 0, 1, 11), 11);
    fl_receive(fb, 0, 10, 100);
    IS("FL43", FL_multicast(fb, SAFE_MESS, "g", 4, 11, "hello world"), 11);
    IS("FL43", fl_receive(fa, DROP_RECV, 10, 5), -15);
    ROW("FL43", memcmp(r.body, "hello~", 6) == 0);
    IS("FL43", fl_receive(fb, DROP_RECV, 0, 100), -16);
    IS("FL43", r.ng, -1);
    IS("FL40", FL_multicast(fb, SAFE_MESS, "#fa#localhost", 4, 1, "x"), 1);
    UNTIL("FL40", FL_poll(fa) > 0);
    IS("FL40", FL_more_msgs(fa), 0);
    IS("FL40", fl_receive(fa, 0, 10, 100), 1);
}

static void strangers(void) {
    mailbox s = session(port, "st", 1);
    IS("FL38", SP_multicast(s, FIFO_MESS, "g", 0, 1, "x"), 1);
    settle(s, "#st#localhost");
    IS("FL38", FL_multicast(fb, AGREED_MESS, "g", 9, 1, "y"), 1);
    IS("FL38", fl_receive(fa, 0, 10, 100), 1);
    ROW("FL38", r.mt == 9);
    fl_receive(fb, 0, 10, 100);
    IS("FL39", FL_join(s, "g"), -11);
    IS("FL39", FL_multicast(s, FIFO_MESS, "g", 0, 1, "x"), -11);
    IS("FL39", fl_receive(s, 0, 10, 10), -11);
    IS("FL39", FL_disconnect(s), -11);
    SP_disconnect(s);
}

static void changes(void) {
    mailbox c, d, x;
    char group[64];
    /* FL33: two joins, one request, two views. */
    FL_connect(port, "fc", 0, &c, group);
    FL_connect(port, "fd", 0, &d, group);
    FL_join(c, "g");
    expect("FL33", fa, FLUSH_REQ_MESS);
    expect("FL33", fb, FLUSH_REQ_MESS);
    FL_join(d, "g");
    IS("FL33", FL_flush(fa, "g"), 0);
    IS("FL33", FL_flush(fb, "g"), 0);
    expect("FL33", c, 0x1100);
    expect("FL33", fa, 0x1100);
    IS("FL33", r.ng, 3);
    expect("FL33", fb, 0x1100);
    expect("FL33", fa, FLUSH_REQ_MESS);
    expect("FL33", fb, FLUSH_REQ_MESS);
    expect("FL33", c, FLUSH_REQ_MESS);
    FL_flush(fa, "g");
    FL_flush(fb, "g");
    FL_flush(c, "g");
    expect("FL33", d, 0x1100);
    expect("FL33", fa, 0x1100);
    IS("FL33", r.ng, 4);
    expect("FL33", fb, 0x1100);
    expect("FL33", c, 0x1100);

    /* FL34: one joins and dies before anybody flushes. */
    x = session(port, "fx", 1);
    SP_join(x, "g");
    expect("FL34", fa, FLUSH_REQ_MESS);
    SP_disconnect(x);
    settle(x = session(port, "later", 1), "#later#localhost");
    SP_disconnect(x);
    expect("FL34", fb, FLUSH_REQ_MESS);
    expect("FL34", c, FLUSH_REQ_MESS);
    expect("FL34", d, FLUSH_REQ_MESS);
    /* What was ordered before has been taken in when a message to oneself comes back. */
    FL_multicast(fa, AGREED_MESS, "#fa#localhost", 1, 0, NULL);
    FL_multicast(fb, AGREED_MESS, "#fb#localhost", 1, 0, NULL);
    FL_multicast(c, AGREED_MESS, "#fc#localhost", 1, 0, NULL);
    FL_multicast(d, AGREED_MESS, "#fd#localhost", 1, 0, NULL);
    expect("FL34", fa, 0x10);
    expect("FL34", fb, 0x10);
    expect("FL34", c, 0x10);
    expect("FL34", d, 0x10);
    FL_flush(fa, "g");
    FL_flush(fb, "g");
    FL_flush(c, "g");
    FL_flush(d, "g");
    expect("FL34", fa, 0x1800);
    ROW("FL34", r.ng == 4 && in_view(4) && r.ret == 16 + 4 * 32);
    expect("FL34", fb, 0x1800);
    expect("FL34", c, 0x1800);
    expect("FL34", d, 0x1800);

    /* FL30, FL31, FL32 */
    IS("FL30", FL_leave(d, "g"), 0);
    IS("FL30", FL_leave(d, "g"), -14);
    IS("FL30", FL_join(d, "g"), -14);
    IS("FL30", FL_multicast(d, FIFO_MESS, "g", 0, 1, "x"), -14);
    IS("FL30", FL_flush(d, "g"), -14);
    IS("FL31", fl_receive(d, 0, 10, 100), 0);
    ROW("FL31", r.svc == 0x200 && is(r.sender, "g") && r.mt == -1);
    expect("FL32", fa, FLUSH_REQ_MESS);
    IS("FL32", more, 1);
    IS("FL32", fl_receive(fa, 0, 10, 100), 0);
    ROW("FL32", r.svc == 0x2000 && r.mt == 0 && is(r.sender, "g"));
    expect("FL32", fb, FLUSH_REQ_MESS);
    expect("FL32", fb, 0x2000);
    expect("FL32", c, FLUSH_REQ_MESS);
    expect("FL32", c, 0x2000);
    FL_flush(fa, "g");
    FL_flush(fb, "g");
    FL_flush(c, "g");
    expect("FL32", fa, 0x1200);
    ROW("FL32", in_view(1) && is(r.body + 16, "#fd#localhost"));
    expect("FL32", fb, 0x1200);
    expect("FL32", c, 0x1200);

    /* FL36: two are gone before the third flushes; FL45, FL46: the sizes are those of what is given. */
    IS("FL36", FL_disconnect(c), 0);
    expect("FL36", fa, FLUSH_REQ_MESS);
    IS("FL37", FL_leave(fb, "g"), 0);
    do fl_receive(fb, 0, 100, 1000); while (r.svc != 0x200);
    FL_multicast(fa, AGREED_MESS, "#fa#localhost", 1, 0, NULL);
    expect("FL36", fa, 0x2000);
    expect("FL36", fa, 0x10);
    IS("FL36", FL_flush(fa, "g"), 0);
    IS("FL46", fl_receive(fa, 0, 100, 48), 48);
    ROW("FL36", r.svc == 0x1800 && r.ng == 1 && in_view(1) && is(r.body + 16, "#fa#localhost"));
    FL_join(fb, "g");
    IS("FL45", fl_receive(fa, 0, 0, 0), 0);
    IS("FL45", r.svc, FLUSH_REQ_MESS);
    FL_flush(fa, "g");
    expect("FL45", fb, 0x1100);
    expect("FL45", fa, 0x1100);
    FL_disconnect(d);
}

static void ends(void) {
    pthread_t thread;
    mailbox c;
    char group[64];
    FL_connect(port, "fe", 0, &c, group);
    waiting.m = c;
    waiting.ret = UNTOUCHED;
    pthread_create(&thread, NULL, waits, NULL);
    usleep(30000);
    IS("FL48", waiting.ret, UNTOUCHED);
    IS("FL48", FL_multicast(c, AGREED_MESS, "#fe#localhost", 0, 4, "self"), 4);
    pthread_join(thread, NULL);
    IS("FL48", waiting.ret, 4);
    waiting.ret = UNTOUCHED;
    pthread_create(&thread, NULL, waits, NULL);
    usleep(30000);
    IS("FL47", FL_disconnect(c), 0);
    pthread_join(thread, NULL);
    IS("FL47", waiting.ret, -8);
    do fl_receive(fa, DONT_BLOCK, 10, 100); while (r.ret != WOULD_BLOCK);
    ask("stop");
    IS("FL49", fl_receive(fa, 0, 10, 100), -8);
    IS("FL49", fl_receive(fa, 0, 10, 100), -11);
    IS("FL49", FL_join(fa, "g"), -11);
    IS("FL49", FL_disconnect(fa), -11);
    UNTIL("FL50", FL_multicast(fb, FIFO_MESS, "#fa#localhost", 0, 1, "x") == -8);
    IS("FL50", FL_multicast(fb, FIFO_MESS, "#fa#localhost", 0, 1, "x"), -11);
    IS("FL50", FL_disconnect(fb), -11);
    FL_error(-27);
    FL_error(-8);
}

int main(int argc, char **argv) {
    (void)argc;
    port = argv[1];
    basics();
    two();
    strangers();
    changes();
    ends();
    return finish();
}
