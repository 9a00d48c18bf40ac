/* Rows GR, MC, RX, SC, MB, PO and ER of the specification. */
#include "case.h"

static mailbox a, b;

static int is_name(const char *cell, const char *name) {
    return strncmp(cell, name, MAX_GROUP_NAME) == 0;
}

static void joins(void) {
    mailbox n;
    char g31[32], g32[40];
    static const char *illegal[] = {"", "01234567890123456789012345678901", "#x", "a b", "#a#localhost", "a\x7f", "\xe9", NULL};
    int i;
    memset(g31, 'x', 31);
    g31[31] = 0;
    memset(g32, 'x', 32);
    g32[32] = 0;
    IS("GR1", SP_join(a, "g1"), 0);
    IS("GR1", receive(a, 0, 10, 1000), 56);
    ROW("GR1", r.svc == 0x1100 && is_name(r.sender, "g1") && r.ng == 1 && r.mt == 0 && r.em == 0 &&
                   is_name(r.groups[0], "#a#localhost"));
    IS("GR2", SP_join(a, "g1"), 0);
    ROW("GR2", nothing(a, "#a#localhost"));
    IS("GR3", SP_leave(a, "never"), 0);
    ROW("GR3", nothing(a, "#a#localhost"));
    for (i = 0; illegal[i]; i++) IS("GR4", SP_join(a, illegal[i]), -14);
    IS("GR4", SP_join(a, NULL), -14);
    IS("GR5", SP_join(a, g31), 0);
    IS("GR5", receive(a, 0, 10, 1000), 56);
    ROW("GR5", is_name(r.sender, g31));
    IS("GR5", SP_join(a, "$"), 0);
    IS("GR5", receive(a, 0, 10, 1000), 56);
    IS("GR5", SP_join(a, "~"), 0);
    IS("GR5", receive(a, 0, 10, 1000), 56);
    IS("GR6", SP_leave(a, ""), -14);
    IS("GR6", SP_leave(a, g32), -14);
    IS("GR6", SP_leave(a, "#x"), -14);

    n = session(port, "n", 0);
    IS("GR7", SP_join(n, "g1"), 0);
    IS("GR8", receive(a, 0, 10, 1000), 56);
    ROW("GR8", r.svc == 0x1100 && r.ng == 2);
    IS("GR7", SP_leave(n, "g1"), 0);
    IS("GR8", receive(a, 0, 10, 1000), 56);
    ROW("GR8", r.svc == 0x1200 && r.ng == 1);
    ROW("GR7", nothing(n, "#n#localhost"));
    SP_join(n, "g1");
    receive(a, 0, 10, 1000);
    IS("GR8", SP_disconnect(n), 0);
    IS("GR8", receive(a, 0, 10, 1000), 56);
    ROW("GR8", r.svc == 0x1400);
    n = session(port, "n2", 0);
    SP_join(n, "g1");
    receive(a, 0, 10, 1000);
    SP_kill(n);
    IS("GR8", receive(a, 0, 10, 1000), 56);
    ROW("GR8", r.svc == 0x1400);
    IS("GR16", SP_poll(n), -11);
    IS("GR16", SP_join(n, "g"), -11);
    IS("GR16", SP_multicast(n, FIFO_MESS, "g", 0, 0, NULL), -11);
    IS("GR16", receive(n, 0, 10, 10), -11);
    ROW("GR16", r.svc == 0 && untouched());

    IS("GR9", SP_leave(a, "g1"), 0);
    IS("GR9", receive(a, 0, 10, 1000), 0);
    ROW("GR9", r.svc == 0x200 && is_name(r.sender, "g1") && r.ng == 0 && r.mt == -1 && r.em == 0);

    IS("GR12", SP_join(-1, "g"), -11);
    IS("GR12", SP_multicast(-1, FIFO_MESS, "g", 0, 0, NULL), -11);
    IS("GR12", receive(-1, 0, 1, 1), -11);
    IS("GR13", SP_disconnect(-1), -11);
    IS("GR14", SP_poll(999), -11);
    IS("GR14", SP_join(999, "g"), -11);
    IS("GR14", SP_disconnect(999), -11);
    n = session(port, "n3", 1);
    IS("GR15", SP_disconnect(n), 0);
    IS("GR15", SP_disconnect(n), -11);
}

static void multicasts(void) {
    static const service six[] = {UNRELIABLE_MESS, RELIABLE_MESS, FIFO_MESS, CAUSAL_MESS, AGREED_MESS, SAFE_MESS};
    static const service none[] = {0, SELF_DISCARD, DROP_RECV, REG_MEMB_MESS, REJECT_MESS, 0x10000};
    static const service foreign[] = {0x4000, 0x8000, 0x100000, 0x200000, 0x02000000, 0x10000000, 0x40000000};
    static char big[200000], cells[200][MAX_GROUP_NAME];
    unsigned i;
    mailbox d;
    SP_join(a, "g1");
    settle(a, "#a#localhost");
    IS("MC1", SP_multicast(b, FIFO_MESS, "g1", 7, 5, "hello"), 5);
    IS("MC1", receive(a, 0, 10, 100), 5);
    ROW("MC1", r.svc == 4 && is_name(r.sender, "#b#localhost") && r.ng == 1 && r.mt == 7 && r.em == 0 &&
                   is_name(r.groups[0], "g1") && memcmp(r.body, "hello~", 6) == 0);
    SP_join(b, "g1");
    settle(b, "#b#localhost");
    settle(a, "#a#localhost");
    IS("MC2", SP_multicast(b, FIFO_MESS | SELF_DISCARD, "g1", 0, 1, "x"), 1);
    IS("MC2", receive(a, 0, 10, 100), 1);
    IS("MC2", r.svc, 0x44);
    ROW("MC2", nothing(b, "#b#localhost"));
    SP_leave(b, "g1");
    settle(b, "#b#localhost");
    settle(a, "#a#localhost");
    IS("MC3", SP_multicast(b, FIFO_MESS, "#a#localhost", -1, 2, "pq"), 2);
    IS("MC3", receive(a, 0, 10, 100), 2);
    ROW("MC3", is_name(r.groups[0], "#a#localhost") && r.mt == -1);
    IS("MC4", SP_multicast(a, AGREED_MESS, "#a#localhost", -32768, 1, "x"), 1);
    IS("MC4", receive(a, 0, 10, 100), 1);
    ROW("MC4", r.svc == 0x10 && r.mt == -32768);
    IS("MC5", SP_multicast(b, FIFO_MESS, "#zz#localhost", 0, 1, "x"), 1);
    IS("MC5", SP_multicast(b, FIFO_MESS, "#zz#otherd", 0, 1, "x"), 1);
    IS("MC5", SP_multicast(b, FIFO_MESS, "#zz", 0, 1, "x"), 1);
    ROW("MC5", nothing(a, "#a#localhost") && nothing(b, "#b#localhost"));
    IS("MC6", SP_multicast(b, FIFO_MESS, "g1", 0, 0, NULL), 0);
    IS("MC6", receive(a, 0, 10, 100), 0);
    strcpy(cells[0], "g1");
    strcpy(cells[1], "nobody");
    strcpy(cells[2], "#a#localhost");
    IS("MC7", SP_multigroup_multicast(b, SAFE_MESS, 3, (void *)cells, 0, 3, "abc"), 3);
    IS("MC7", receive(a, 0, 10, 100), 3);
    ROW("MC7", r.ng == 3 && is_name(r.groups[0], "g1") && is_name(r.groups[1], "nobody") &&
                   is_name(r.groups[2], "#a#localhost"));
    strcpy(cells[1], "g1");
    IS("MC8", SP_multigroup_multicast(b, SAFE_MESS, 2, (void *)cells, 0, 3, "abc"), 3);
    IS("MC8", receive(a, 0, 10, 100), 3);
    ROW("MC8", r.ng == 2 && is_name(r.groups[1], "g1"));
    IS("MC9", SP_multigroup_multicast(b, SAFE_MESS, 0, NULL, 0, 3, "abc"), 3);
    ROW("MC9", nothing(b, "#b#localhost") && nothing(a, "#a#localhost"));
    for (i = 0; i < sizeof none / sizeof *none; i++)
        IS("MC11", SP_multicast(b, none[i], "g1", 0, 1, "x"), -12);
    for (i = 0; i < 6; i++) {
        IS("MC12", SP_multicast(b, six[i], "g1", 0, 1, "x"), 1);
        IS("MC12", receive(a, 0, 10, 100), 1);
        IS("MC12", r.svc, six[i]);
    }
    IS("MC14", SP_multicast(b, FIFO_MESS, "g1", (int16)70000, 1, "x"), 1);
    IS("MC14", receive(a, 0, 10, 100), 1);
    IS("MC14", r.mt, 4464);
    IS("MC15", SP_multicast(b, FIFO_MESS | REJECT_MESS, "g1", 0, 1, "x"), -12);
    IS("MC16", SP_multicast(b, FIFO_MESS | AGREED_MESS, "g1", 0, 1, "x"), -12);
    IS("MC16", SP_multicast(b, REGULAR_MESS, "g1", 0, 1, "x"), -12);
    IS("MC16", SP_multicast(b, -1, "g1", 0, 1, "x"), -12);
    IS("MC16", SP_multicast(b, FIFO_MESS | 0x10000, "g1", 0, 1, "x"), -12);
    IS("MC17", SP_multicast(b, FIFO_MESS | DROP_RECV, "g1", 0, 1, "x"), 1);
    IS("MC17", receive(a, 0, 10, 100), 1);
    IS("MC17", r.svc, 0x01000004);
    for (i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        IS("MC18", SP_multicast(b, FIFO_MESS | foreign[i], "g1", 0, 1, "x"), 1);
        IS("MC18", receive(a, 0, 10, 100), 1);
        IS("MC18", r.svc, FIFO_MESS | foreign[i]);
    }
    IS("MC19", SP_multicast(b, FIFO_MESS | 0x80, "g1", 0, 1, "x"), 1);
    IS("MC19", receive(a, 0, 10, 100), 1);
    IS("MC19", r.svc, 4);
    IS("MC19", SP_multicast(b, (service)(FIFO_MESS | 0x80000000u), "g1", 0, 1, "x"), 1);
    IS("MC19", receive(a, 0, 10, 100), 1);
    IS("MC19", r.svc, 4);
    for (i = 0; i < sizeof big; i++) big[i] = (char)(i * 31 % 251);
    IS("MC20", SP_multicast(b, SAFE_MESS, "g1", 0, 143120, big), 143120);
    IS("MC20", receive(a, 0, 10, sizeof r.body), 143120);
    ROW("MC20", memcmp(r.body, big, 143120) == 0);
    IS("MC21", SP_multicast(b, SAFE_MESS, "g1", 0, 143969, big), -17);
    IS("MC21", SP_multicast(b, SAFE_MESS, "g1", 0, 200000, big), -17);
    ROW("MC21", nothing(b, "#b#localhost"));
    for (i = 0; i < 200; i++) strcpy(cells[i], i ? "nobody" : "g1");
    IS("MC24", SP_multigroup_multicast(b, SAFE_MESS, 43, (void *)cells, 0, 1, "x"), 1);
    IS("MC24", receive(a, 0, 200, 100), 1);
    IS("MC24", r.ng, 43);
    IS("MC24", SP_multigroup_multicast(b, SAFE_MESS, 100, (void *)cells, 0, 1, "x"), 1);
    IS("MC24", receive(a, 0, 200, 100), 1);
    IS("MC24", r.ng, 100);
    IS("MC25", SP_multigroup_multicast(b, SAFE_MESS, 101, (void *)cells, 0, 1, "x"), -13);
    IS("MC26", SP_multigroup_multicast(b, SAFE_MESS, 311, (void *)cells, 0, 1, "x"), -13);
    IS("MC27", SP_multigroup_multicast(b, SAFE_MESS, 312, (void *)cells, 0, 1, "x"), -13);
    IS("MC27", SP_multigroup_multicast(b, SAFE_MESS, -1, (void *)cells, 0, 1, "x"), -13);
    IS("MC28", SP_multicast(b, SAFE_MESS, "g1", 0, -1, "x"), -13);
    IS("MC28", SP_multicast(b, SAFE_MESS, "g1", 0, -40, "x"), -13);
    ROW("MC28", nothing(b, "#b#localhost"));
    {
        char name[64];
        memset(name, 'q', 63);
        name[63] = 0;
        name[31] = 0;
        SP_join(a, name);
        settle(a, "#a#localhost");
        name[31] = 'q';
        IS("MC29", SP_multicast(b, SAFE_MESS, name, 0, 1, "x"), 1);
        IS("MC29", receive(a, 0, 10, 100), 1);
        ROW("MC29", strlen(r.groups[0]) == 31);
    }
    IS("MC30", SP_multicast(b, SAFE_MESS, "", 0, 1, "x"), 1);
    IS("MC30", SP_multicast(b, SAFE_MESS, "a b", 0, 1, "x"), 1);
    IS("MC30", SP_multicast(b, SAFE_MESS, NULL, 0, 1, "x"), -14);
    ROW("MC30", nothing(b, "#b#localhost") && nothing(a, "#a#localhost"));
    memset(cells[0], '!', 32);
    strcpy(cells[0], "g1");
    IS("MC31", SP_multigroup_multicast(b, SAFE_MESS, 1, (void *)cells, 0, 1, "x"), 1);
    IS("MC31", receive(a, 0, 10, 100), 1);
    ROW("MC31", memcmp(r.groups[0], "g1\0!!", 5) == 0 && r.groups[0][31] == '!');
    IS("MC31", SP_multicast(b, SAFE_MESS, "g1", 0, 1, "x"), 1);
    IS("MC31", receive(a, 0, 10, 100), 1);
    ROW("MC31", memcmp(r.groups[0], "g1\0\0\0", 5) == 0 && r.groups[0][31] == 0);

    /* A session the daemon has closed: the errors of the arguments come first. */
    d = session(port, "d", 1);
    shutdown(d, SHUT_WR);
    IS("MC13", receive(d, 0, 10, 100), -8);
    IS("MC13", receive(d, 0, 10, 100), -18);
    ROW("MC13", untouched());
    IS("MC13", SP_multicast(d, 0, "g1", 0, 1, "x"), -12);
    IS("MC13", SP_multicast(d, FIFO_MESS, "g1", 0, 1, "x"), -18);
    IS("GR10", SP_join(d, "#x"), -14);
    IS("GR10", SP_join(d, "x"), -18);
    IS("GR10", SP_leave(d, "x"), -18);
    IS("MC13", SP_disconnect(d), 0);
}

static void put_message(void) {
    static const char cells[3][MAX_GROUP_NAME] = {"g1", "g2", "g3"};
    IS("RX", SP_multigroup_multicast(b, AGREED_MESS, 3, cells, 0x1234, 11, "hello world"), 11);
}

/* A message has arrived whole. */
static void arrived(void) {
    UNTIL("RX", SP_poll(a) >= 48 + 96 + 11);
}

static void receives(void) {
    SP_join(a, "g1");
    SP_join(a, "g2");
    settle(a, "#a#localhost");
    put_message();
    IS("RX1", receive(a, 0, 10, 5), -15);
    ROW("RX1", r.svc == 0x10 && is_name(r.sender, "#b#localhost") && r.ng == 0 && r.mt == 0x1234 && r.em == -11 &&
                   r.groups[0][0] == '~' && r.body[0] == '~');
    IS("RX2", receive(a, 0, 10, 10), -15);
    IS("RX2", r.em, -11);
    IS("RX3", receive(a, 0, 2, 100), -16);
    ROW("RX3", r.ng == -3 && r.em == 0 && r.groups[0][0] == '~');
    IS("RX4", receive(a, 0, 1, 1), -16);
    ROW("RX4", r.ng == -3 && r.em == -11);
    IS("RX4", receive(a, 0, 0, 0), -16);
    IS("RX5", receive(a, 0, 3, 11), 11);
    ROW("RX5", r.ng == 3 && r.em == 0 && memcmp(r.body, "hello world~", 12) == 0 && is_name(r.groups[2], "g3"));
    put_message();
    {
        service svc = 0;
        char sender[MAX_GROUP_NAME];
        int ng = 1, em = 1;
        int16 mt = 1;
        IS("RX6", SP_receive(a, &svc, sender, 0, &ng, NULL, &mt, &em, 0, NULL), -16);
        ROW("RX6", ng == -3 && em == -11);
        IS("RX11", receive(a, svc, 10, 100), 11);
    }
    put_message();
    IS("RX7", receive(a, DROP_RECV, 10, 5), -15);
    ROW("RX7", r.ng == 3 && r.em == 0 && memcmp(r.body, "hello~", 6) == 0 && is_name(r.groups[0], "g1"));
    IS("RX7", SP_poll(a), 0);
    put_message();
    IS("RX8", receive(a, DROP_RECV, 2, 100), 11);
    ROW("RX8", r.ng == -3 && is_name(r.groups[1], "g2") && r.groups[2][0] == '~' && r.body[10] == 'd');
    put_message();
    IS("RX9", receive(a, DROP_RECV, 2, 5), -15);
    ROW("RX9", r.ng == -3 && r.em == 0 && memcmp(r.body, "hello~", 6) == 0);
    put_message();
    IS("RX10", receive(a, DROP_RECV, 0, 0), -15);
    ROW("RX10", r.ng == -3 && r.em == 0);
    IS("RX10", SP_poll(a), 0);
    put_message();
    IS("RX12", receive(a, DROP_RECV, 10, 100), 11);
    ROW("RX12", r.ng == 3 && r.em == 0);
    put_message();
    put_message();
    IS("RX13", receive(a, 0, 3, 5), -15);
    IS("RX13", receive(a, DROP_RECV, 2, 100), 11);
    IS("RX13", r.ng, -3);
    IS("RX14", receive(a, (service)0xfeffffff, 10, 5), -15);
    IS("RX14", r.em, -11);
    IS("RX15", receive(a, 0x01001100, 10, 100), 11);
    IS("RX15", r.svc, 0x10);
    put_message();
    IS("RX16", receive(a, 0, -1, 100), -16);
    IS("RX16", r.ng, -3);
    IS("RX16", receive(a, 0, 10, -1), -15);
    IS("RX16", r.em, -11);
    IS("RX16", receive(a, 0, 10, 100), 11);
    put_message();
    arrived();
    IS("RX17", receive(a, 0, 3, 5), -15);
    put_message();
    IS("RX17", receive(a, DROP_RECV, 3, 5), -15);
    ROW("RX17", r.ng == 3 && memcmp(r.body, "hello~", 6) == 0);
    IS("RX18", receive(a, 0, 3, 100), 11);
    ROW("RX18", r.ng == 3 && memcmp(r.body, "hello world~", 12) == 0);

    SP_leave(a, "g2");
    settle(a, "#a#localhost");
    SP_join(a, "g2");
    IS("RX19", receive(a, 0, 10, 10), -15);
    ROW("RX19", r.svc == 0x1100 && is_name(r.sender, "g2") && r.ng == 0 && r.mt == 0 && r.em == -56);
    IS("RX19", receive(a, 0, 10, 100), 56);
    SP_join(b, "g2");
    IS("RX20", receive(a, 0, 1, 100), -16);
    ROW("RX20", r.ng == -2 && r.em == 0);
    IS("RX20", receive(a, 0, 0, 0), -16);
    ROW("RX20", r.ng == -2 && r.em == -56);
    IS("RX21", receive(a, DROP_RECV, 1, 100), 56);
    ROW("RX21", r.ng == -2 && r.mt == -1);
    IS("RX22", receive(b, DROP_RECV, 10, 10), -15);
    ROW("RX22", r.ng == 2 && r.mt == 1 && r.body[10] == '~');
    SP_leave(b, "g2");
    IS("RX23", receive(b, 0, 0, 0), 0);
    IS("RX23", r.svc, 0x200);
    settle(a, "#a#localhost");
}

/* ---- messages of a peer in any byte order ---- */

static char wire[4096];
static int wire_len;

static void word(unsigned v, int big) {
    int i;
    for (i = 0; i < 4; i++) wire[wire_len++] = (char)(v >> (big ? 24 - 8 * i : 8 * i));
}

static void cell(const char *name) {
    memset(wire + wire_len, 0, 32);
    memcpy(wire + wire_len, name, strlen(name));
    wire_len += 32;
}

static void head(unsigned type, const char *sender, int groups, int mt, int hint_big, int len, int big) {
    word(big ? type : type | 0x80000080u, big);
    cell(sender);
    word((unsigned)groups, big);
    word((((unsigned)mt << 8) & 0xffff00u) | (hint_big ? 0 : 0x80000080u), hint_big);
    word((unsigned)len, big);
}

static mailbox from_peer(struct peer *p) {
    char group[64];
    mailbox m = -1;
    peer_listen(p);
    p->accept_ok = 1;
    peer_start(p, wire, wire_len);
    IS("peer", SP_connect(p->where, "me", 0, 1, &m, group), 1);
    pthread_join(p->thread, NULL);
    close(p->listener);
    return m;
}

static void orders(void) {
    struct peer p;
    membership_info info;
    mailbox m;
    int i;
    wire_len = 0;
    head(0x4, "#s#d", 1, 0x1234, 1, 3, 0), cell("g"), memcpy(wire + wire_len, "abc", 3), wire_len += 3; /* RX24 */
    head(0x4, "#s#d", 1, -2, 1, 3, 1), cell("g"), memcpy(wire + wire_len, "abc", 3), wire_len += 3;     /* RX25, 26 */
    head(0x1800, "g", 2, 0, 1, 124, 1);                                                                  /* RX27 */
    cell("#a#d"), cell("#me#there");
    word(1, 1), word(2, 1), word(3, 1), word(2, 1), word(36, 1);
    word(1, 1), cell("#x#d"), word(2, 1), cell("#a#d"), cell("#me#there");
    for (i = 0; i < 3; i++) { /* RX28 */
        static const unsigned old[] = {0x4, 0x100, 0x44};
        head(0x400000, "#me#there", 2, 5, 0, 2, 0);
        word(old[i] | 0x80000080u, 0), cell("g"), cell("#me#there"), memcpy(wire + wire_len, "xy", 2), wire_len += 2;
    }
    head(0x4, "#s#d", -1, 0, 0, 0, 0);                                                               /* RX29 */
    head(0x4, "#s#d", 0, 0, 0, -2, 0);
    head(0x4, "#s#d", 0, 9, 0, 0, 0);
    head(0, "#s#d", 0, 9, 0, 4, 0), memcpy(wire + wire_len, "0000", 4), wire_len += 4;                 /* RX31 */
    head(0x4, "0123456789012345678901234567890!", 0, 9, 0, 0, 0);                                    /* RX32 */
    head(0x4, "#s#d", 1, 3, 0, 10, 0), cell("g"), memcpy(wire + wire_len, "part", 4), wire_len += 4;   /* RX33 */
    m = from_peer(&p);
    IS("RX24", receive(m, 0, 10, 100), 3);
    ROW("RX24", r.em == 1 && r.mt == 0x1234 && r.svc == 4 && r.ng == 1);
    IS("RX25", receive(m, 0, 10, 1), -15);
    ROW("RX25", r.em == -3 && r.mt == -2);
    IS("RX25", receive(m, 0, 10, 100), 3);
    ROW("RX25", r.em == 1 && r.ng == 1 && memcmp(r.body, "abc~", 4) == 0);
    IS("RX26", r.mt, -2);
    IS("RX27", receive(m, 0, 10, 200), 124);
    ROW("RX27", r.svc == 0x1800 && r.ng == 2 && r.mt == 1 && r.em == 0);
    IS("RX27", SP_get_memb_info(r.body, r.svc, &info), 1);
    ROW("RX27", info.gid.id[0] == 1 && info.gid.id[2] == 3 && info.num_vs_sets == 2 && info.my_vs_set.num_members == 2 &&
                    info.my_vs_set.members_offset == 60 && info.changed_member[0] == 0);
    IS("RX30", receive(m, 0, 1, 100), -16);
    ROW("RX30", r.svc == 0x400000 && r.mt == 5 && r.ng == -2);
    IS("RX30", receive(m, 0, 10, 1), -15);
    IS("RX30", r.svc, 0x400000);
    IS("RX28", receive(m, 0, 10, 100), 2);
    ROW("RX28", r.svc == 0x400004 && r.ng == 2 && memcmp(r.body, "xy~", 3) == 0);
    IS("RX28", receive(m, 0, 10, 100), 2);
    IS("RX28", r.svc, 0x400100);
    IS("RX28", receive(m, 0, 10, 100), 2);
    IS("RX28", r.svc, 0x400044);
    IS("RX29", receive(m, 0, 10, 100), -13);
    ROW("RX29", untouched());
    IS("RX29", receive(m, 0, 10, 100), -13);
    IS("RX29", receive(m, 0, 10, 100), 0);
    IS("RX29", r.mt, 9);
    IS("RX31", receive(m, 0, 10, 100), 4);
    ROW("RX31", r.svc == 0 && r.mt == -1);
    IS("RX32", receive(m, 0, 10, 100), 0);
    ROW("RX32", memcmp(r.sender, "012345678901234567890123456789", 30) == 0 && r.sender[31] == 0);
    IS("RX33", receive(m, 0, 10, 100), -8);
    ROW("RX33", is_name(r.sender, "#s#d") && r.mt == 3 && r.em == 0);
    IS("RX33", receive(m, 0, 10, 100), -18);
    SP_disconnect(m);

    wire_len = 0;
    head(0x4, "#s#d", 1, 3, 0, 10, 0);
    wire_len -= 1;
    m = from_peer(&p);
    IS("RX33", receive(m, 0, 10, 100), -8);
    ROW("RX33", untouched());
    SP_disconnect(m);

    wire_len = 0;
    head(0x4, "#s#d", 1, 3, 0, 10, 0);
    m = from_peer(&p);
    IS("RX34", receive(m, 0, 10, 1), -15);
    IS("RX34", receive(m, 0, 10, 100), -8);
    IS("RX34", receive(m, 0, 10, 100), -18);
    SP_disconnect(m);
}

static scatter s;

static void set(int n, const int *lens) {
    static char store[4096];
    int i, place = 0;
    memset(store, '~', sizeof store);
    s.num_elements = (size_t)n;
    for (i = 0; i < n && i < 100; i++) {
        s.elements[i].buf = store + place;
        s.elements[i].len = (size_t)lens[i];
        place += lens[i] + 1;
    }
}

static int scat(int drop) {
    r.svc = drop;
    r.ng = r.em = UNTOUCHED;
    return SP_scat_receive(a, &r.svc, r.sender, 10, &r.ng, r.groups, &r.mt, &r.em, &s);
}

static void scatters(void) {
    static int ones[100];
    int i;
    static const int l1[] = {3, 4, 20}, l2[] = {0, 0, 3, 20}, l3[] = {3, 8, 0}, l4[] = {0, 3, 0, 8, 0}, l5[] = {3, 4},
                     l6[] = {3, 8};
    static const struct { const char *id; int n; const int *lens; } rows[] = {
        {"SC2", 4, l2}, {"SC3", 3, l3}, {"SC4", 5, l4}};
    static scatter out;
    put_message();
    set(3, l1);
    IS("SC1", scat(0), 11);
    ROW("SC1", memcmp(s.elements[0].buf, "hel~", 4) == 0 && memcmp(s.elements[1].buf, "lo w~", 5) == 0 &&
                   memcmp(s.elements[2].buf, "orld~", 5) == 0 && s.elements[2].len == 20);
    for (i = 0; i < 3; i++) {
        put_message();
        set(rows[i].n, rows[i].lens);
        IS(rows[i].id, scat(0), 11);
    }
    put_message();
    set(2, l5);
    IS("SC5", scat(0), -15);
    ROW("SC5", r.em == -11 && s.elements[0].buf[0] == '~');
    IS("SC5", scat(0), -15);
    set(2, l6);
    IS("SC5", scat(0), 11);
    put_message();
    set(2, l5);
    IS("SC6", scat(DROP_RECV), -15);
    ROW("SC6", r.ng == 3 && memcmp(s.elements[0].buf, "hel~", 4) == 0 && memcmp(s.elements[1].buf, "lo w~", 5) == 0);
    IS("SC6", SP_poll(a), 0);
    put_message();
    set(0, NULL);
    IS("SC7", scat(0), -15);
    IS("SC7", r.em, -11);
    IS("SC7", receive(a, 0, 10, 100), 11);
    put_message();
    IS("SC7", scat(DROP_RECV), -15);
    ROW("SC7", nothing(a, "#a#localhost"));
    for (i = 0; i < 100; i++) ones[i] = 1;
    put_message();
    set(100, ones);
    IS("SC8", scat(0), 11);
    ROW("SC8", *s.elements[0].buf == 'h' && *s.elements[10].buf == 'd' && *s.elements[11].buf == '~');

    out.num_elements = 3;
    out.elements[0].buf = "foo", out.elements[0].len = 3;
    out.elements[1].buf = NULL, out.elements[1].len = 0;
    out.elements[2].buf = "barbaz", out.elements[2].len = 6;
    IS("SC9", SP_scat_multicast(b, SAFE_MESS, "g1", 0, &out), 9);
    IS("SC9", receive(a, 0, 10, 100), 9);
    ROW("SC9", memcmp(r.body, "foobarbaz~", 10) == 0);
    out.num_elements = 0;
    IS("SC10", SP_scat_multicast(b, SAFE_MESS, "g1", 0, &out), 0);
    IS("SC10", receive(a, 0, 10, 100), 0);
    for (i = 0; i < 100; i++) out.elements[i].buf = "x", out.elements[i].len = 1;
    out.num_elements = 100;
    IS("SC11", SP_scat_multicast(b, SAFE_MESS, "g1", 0, &out), 100);
    IS("SC11", receive(a, 0, 10, 1000), 100);
    out.num_elements = 150;
    IS("SC12", SP_scat_multicast(b, SAFE_MESS, "g1", 0, &out), -13);
    out.num_elements = 2;
    {
        static const char cells[2][MAX_GROUP_NAME] = {"g1", "g2"};
        IS("SC13", SP_multigroup_scat_multicast(b, SAFE_MESS, 2, cells, 0, &out), 2);
        IS("SC13", receive(a, 0, 10, 100), 2);
        IS("SC13", r.ng, 2);
    }
}

/* The same through pieces of a body. */
static void in_pieces(const char *id, const char *body, int len, service svc, int n, const int *cuts) {
    membership_info flat, cut;
    vs_set_info sets[2][10];
    unsigned mine[2] = {99, 99};
    char names[2][10][MAX_GROUP_NAME];
    int i, place = 0, count;
    static char copy[4096];
    memcpy(copy, body, (size_t)len);
    s.num_elements = (size_t)n + 1;
    for (i = 0; i <= n; i++) {
        int part = i < n ? cuts[i] : len - place;
        s.elements[i].buf = copy + place;
        s.elements[i].len = (size_t)part;
        place += part;
    }
    memset(&flat, 0, sizeof flat);
    memset(&cut, 0, sizeof cut);
    IS(id, SP_get_memb_info(body, svc, &flat), SP_scat_get_memb_info(&s, svc, &cut));
    ROW(id, memcmp(&flat, &cut, sizeof flat) == 0);
    count = SP_get_vs_sets_info(body, sets[0], 10, &mine[0]);
    IS(id, SP_scat_get_vs_sets_info(&s, sets[1], 10, &mine[1]), count);
    ROW(id, mine[0] == mine[1] && memcmp(sets[0], sets[1], sizeof sets[0][0] * (size_t)count) == 0);
    for (i = 0; i < count; i++) {
        int members = SP_get_vs_set_members(body, &sets[0][i], names[0], 10);
        IS(id, SP_scat_get_vs_set_members(&s, &sets[1][i], names[1], 10), members);
        ROW(id, memcmp(names[0], names[1], (size_t)members * MAX_GROUP_NAME) == 0);
    }
}

static void views(void) {
    membership_info info;
    vs_set_info sets[10];
    unsigned mine = 99;
    char names[10][MAX_GROUP_NAME], body[1000];
    group_id first, second, zero = {{0, 0, 0}};
    int len;
    static const int none[1] = {0}, c1[] = {12, 8}, c2[] = {20, 4}, c3[] = {5, 30};
    SP_join(a, "mb");
    len = receive(a, 0, 10, 1000);
    memcpy(body, r.body, 1000);
    IS("MB1", SP_get_memb_info(body, r.svc, &info), 1);
    ROW("MB1", is_name(info.changed_member, "#a#localhost") && info.num_vs_sets == 1 &&
                   info.my_vs_set.num_members == 1 && info.my_vs_set.members_offset == 24);
    first = info.gid;
    IS("MB3", SP_get_vs_sets_info(body, sets, 10, &mine), 1);
    IS("MB3", mine, 0);
    mine = 99;
    IS("MB3", SP_get_vs_sets_info(body, sets, 0, &mine), -15);
    IS("MB3", mine, 99);
    IS("MB4", SP_get_vs_set_members(body, sets, names, 10), 1);
    ROW("MB4", is_name(names[0], "#a#localhost"));
    IS("MB4", SP_get_vs_set_members(body, sets, names, 0), -15);
    in_pieces("MB13", body, len, r.svc, 0, none);
    in_pieces("MB14", body, len, r.svc, 2, c1);
    in_pieces("MB14", body, len, r.svc, 2, c2);
    in_pieces("MB14", body, len, r.svc, 2, c3);
    SP_join(b, "mb");
    receive(a, 0, 10, 1000);
    IS("MB2", SP_get_memb_info(r.body, r.svc, &info), 1);
    ROW("MB2", is_name(info.changed_member, "#b#localhost"));
    second = info.gid;
    receive(b, 0, 10, 1000);
    SP_get_memb_info(r.body, r.svc, &info);
    IS("MB5", SP_equal_group_ids(second, info.gid), 1);
    IS("MB5", SP_equal_group_ids(first, second), 0);
    IS("MB5", SP_equal_group_ids(zero, zero), 1);
    SP_leave(b, "mb");
    receive(a, 0, 10, 1000);
    IS("MB2", SP_get_memb_info(r.body, r.svc, &info), 1);
    ROW("MB2", r.svc == 0x1200 && is_name(info.changed_member, "#b#localhost"));
    IS("MB6", receive(b, 0, 10, 1000), 0);
    memset(&info, '~', sizeof info);
    memset(r.body, 1, 12);
    IS("MB6", SP_get_memb_info(r.body, r.svc, &info), 1);
    ROW("MB6", info.gid.id[1] == 0x01010101 && info.changed_member[0] == '~' && info.num_vs_sets == 0 &&
                   info.my_vs_set.num_members == 0 && info.my_vs_set.members_offset == 0);
    IS("MB7", SP_get_memb_info(r.body, FIFO_MESS, &info), -13);
    IS("MB7", SP_get_memb_info(r.body, 0, &info), -13);
    IS("MB8", SP_get_memb_info(body, REJECT_MESS | CAUSED_BY_JOIN, &info), 1);
    IS("MB8", SP_get_memb_info(body, CAUSED_BY_JOIN, &info), 1);
    IS("MB8", info.num_vs_sets, 0);
    /* MB10, MB12: a body with two sets. */
    wire_len = 0;
    word(1, 0), word(2, 0), word(1, 0), word(2, 0), word(36, 0);
    word(1, 0), cell("#b#d2"), word(2, 0), cell("#a#d1"), cell("#a2#d1");
    IS("MB10", SP_get_memb_info(wire, 0x1800, &info), 1);
    ROW("MB10", info.num_vs_sets == 2 && info.my_vs_set.num_members == 2 && info.my_vs_set.members_offset == 60 &&
                    info.changed_member[0] == 0 && info.changed_member[31] == 0);
    IS("MB10", SP_get_vs_sets_info(wire, sets, 10, &mine), 2);
    ROW("MB10", mine == 1 && sets[0].num_members == 1 && sets[0].members_offset == 24 && sets[1].members_offset == 60);
    mine = 99;
    IS("MB12", SP_get_vs_sets_info(wire, sets, 1, &mine), -15);
    IS("MB12", mine, 99);
    in_pieces("MB14", wire, 124, 0x1800, 2, c3);
}

static void polls(void) {
    settle(a, "#a#localhost");
    settle(b, "#b#localhost");
    IS("PO1", SP_poll(a), 0);
    SP_multicast(b, SAFE_MESS, "#a#localhost", 0, 11, "hello world");
    UNTIL("PO2", SP_poll(a) == 91);
    SP_multicast(b, SAFE_MESS, "#a#localhost", 0, 3, "abc");
    UNTIL("PO3", SP_poll(a) == 174);
    receive(a, 0, 0, 0);
    IS("PO4", SP_poll(a), 126);
    IS("PO4", receive(a, 0, 10, 100), 11);
    receive(a, 0, 10, 100);
    SP_join(a, "po");
    UNTIL("PO5", SP_poll(a) == 136);
    SP_join(b, "po");
    UNTIL("PO5", SP_poll(a) == 304);
    settle(a, "#a#localhost");
    settle(b, "#b#localhost");
    {
        mailbox c = session(port, "po", 1);
        close(c);
        IS("PO9", SP_poll(c), -11);
        IS("ER10", SP_multicast(c, FIFO_MESS, "g", 0, 1, "x"), -8);
        IS("ER10", SP_multicast(c, FIFO_MESS, "g", 0, 1, "x"), -18);
        IS("ER10", SP_disconnect(c), 0);
    }
}

static int woken;

static void *waits(void *arg) {
    static char body[100], groups[10][MAX_GROUP_NAME], sender[MAX_GROUP_NAME];
    service svc = 0;
    int ng, em;
    int16 mt;
    woken = SP_receive(*(mailbox *)arg, &svc, sender, 10, &ng, groups, &mt, &em, 100, body);
    return NULL;
}

static void death(void) {
    mailbox c = session(port, "er_c", 1), d = session(at("%s@127.0.0.1", port), "er_d", 1);
    pthread_t thread;
    struct pollfd w;
    pthread_create(&thread, NULL, waits, &c);
    SP_join(a, "er");
    UNTIL("ER", SP_poll(a) == 136);
    SP_join(b, "er");
    UNTIL("ER", SP_poll(a) == 304 && SP_poll(b) == 168);
    ask("stop");
    pthread_join(thread, NULL);
    IS("ER1", woken, -8);
    IS("ER2", receive(a, 0, 10, 100), 56);
    IS("ER2", receive(a, 0, 10, 100), 56);
    w.fd = a, w.events = POLLIN;
    IS("PO7", SP_poll(a), 0);
    ROW("PO7", poll(&w, 1, 1000) == 1 && (w.revents & POLLIN));
    IS("ER2", receive(a, 0, 10, 100), -8);
    IS("ER2", receive(a, 0, 10, 100), -18);
    ROW("PO8", SP_poll(a) >= 0);
    IS("ER3", SP_join(a, "g"), -18);
    IS("ER3", SP_leave(a, "g"), -18);
    IS("ER3", SP_multicast(a, FIFO_MESS, "g", 0, 1, "x"), -18);
    IS("ER4", SP_multicast(a, 0, "g", 0, 1, "x"), -12);
    IS("ER4", SP_join(a, ""), -14);
    IS("ER5", SP_multicast(b, FIFO_MESS, "g", 0, 1, "x"), -8);
    IS("ER5", SP_multicast(b, FIFO_MESS, "g", 0, 1, "x"), -18);
    IS("ER7", receive(b, 0, 10, 100), -18);
    UNTIL("ER6", SP_multicast(d, FIFO_MESS, "g", 0, 1, "x") != 1);
    IS("ER6", SP_multicast(d, FIFO_MESS, "g", 0, 1, "x"), -18);
    IS("ER8", SP_disconnect(a), 0);
    IS("ER8", SP_disconnect(a), -11);
    SP_kill(b);
    IS("ER9", SP_poll(b), -11);
    SP_disconnect(c);
    SP_disconnect(d);
}

int main(int argc, char **argv) {
    (void)argc;
    port = argv[1];
    a = session(at("%s@localhost", port), "a", 1);
    b = session(port, "b", 1);
    joins();
    multicasts();
    receives();
    orders();
    scatters();
    views();
    polls();
    death();
    return finish();
}
