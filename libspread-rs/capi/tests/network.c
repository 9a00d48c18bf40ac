/* Rows of the specification about two daemons, h1 and h2, of which the second stops and goes on; and what the flush layer
 * puts on the wire. */
#include "case.h"

#include <fl.h>

static const char *d1, *d2;
static mailbox a, a2, b;
static membership_info info;
static vs_set_info sets[10];
static unsigned int mine;
static char names[10][MAX_GROUP_NAME];

/* Receives the next message and looks into it, if it is a view. */
static void take(mailbox m) {
    receive(m, 0, 100, sizeof r.body);
    if (Is_reg_memb_mess(r.svc)) SP_get_memb_info(r.body, r.svc, &info);
}

static void view_of(mailbox m, int members) {
    do take(m); while (r.ret >= 0 && !(Is_reg_memb_mess(r.svc) && r.ng == members));
}

static int order_is_same(int index) {
    return r.mt == index && strcmp(r.groups[0], "#a#h1") == 0 && strcmp(r.groups[1], "#a2#h1") == 0 &&
           strcmp(r.groups[2], "#b#h2") == 0;
}

static void spread_layer(void) {
    group_id old;
    int transitional = 0;
    a = session(d1, "a", 1);
    a2 = session(d1, "a2", 1);
    b = session(d2, "b", 1);
    IS("MB15", SP_join(a, "g"), 0);
    view_of(a, 1);
    IS("MB15", SP_join(b, "g"), 0);
    view_of(a, 2);
    IS("MB15", SP_join(a2, "g"), 0);
    view_of(a, 3);
    old = info.gid;
    ROW("MB15", order_is_same(0));
    view_of(a2, 3);
    ROW("MB15", order_is_same(1) && SP_equal_group_ids(old, info.gid));
    view_of(b, 3);
    ROW("MB15", order_is_same(2) && SP_equal_group_ids(old, info.gid));

    ask("stop 2");
    IS("MB9", (take(a), r.ret), 12);
    ROW("MB9", r.svc == TRANSITION_MESS && r.mt == -1 && memcmp(r.body, &old, 12) == 0 && strcmp(r.sender, "g") == 0);
    IS("MB9", (take(a), r.ret), 88);
    ROW("MB9", r.svc == (REG_MEMB_MESS | CAUSED_BY_NETWORK) && r.ng == 2 && info.changed_member[0] == 0);
    ROW("MB9", info.num_vs_sets == 1 && info.my_vs_set.num_members == 2 && info.my_vs_set.members_offset == 24);
    IS("MB9", SP_get_vs_set_members(r.body, &info.my_vs_set, names, 10), 2);
    ROW("MB9", strcmp(names[0], "#a#h1") == 0 && strcmp(names[1], "#a2#h1") == 0);

    ask("cont 2");
    /* Without a transitional message; h2 may have been alone for a moment, h1 not. */
    IS("MB10", (take(a), r.ret), 124);
    ROW("MB10", r.svc == (REG_MEMB_MESS | CAUSED_BY_NETWORK) && order_is_same(0) && info.num_vs_sets == 2);
    ROW("MB10", info.my_vs_set.num_members == 2 && info.my_vs_set.members_offset == 60);
    IS("MB10", SP_get_vs_sets_info(r.body, sets, 10, &mine), 2);
    ROW("MB10", mine == 1 && sets[0].num_members == 1 && sets[0].members_offset == 24 && sets[1].num_members == 2 &&
                    sets[1].members_offset == 60);
    IS("MB10", SP_get_vs_set_members(r.body, &sets[0], names, 10), 1);
    ROW("MB10", strcmp(names[0], "#b#h2") == 0);
    old = info.gid;
    do {
        take(b);
        transitional += Is_transition_mess(r.svc) != 0;
        /* Alone first, perhaps. */
        if (Is_reg_memb_mess(r.svc) && r.ng != 3) ROW("MB11", r.ng == 1 && transitional == 1);
    } while (r.ret >= 0 && !(Is_reg_memb_mess(r.svc) && r.ng == 3));
    IS("MB11", r.ret, 124);
    ROW("MB11", transitional >= 1 && order_is_same(2) && SP_equal_group_ids(old, info.gid));
    ROW("MB11", info.num_vs_sets == 2 && info.my_vs_set.num_members == 1 && info.my_vs_set.members_offset == 24);
    IS("MB11", SP_get_vs_sets_info(r.body, sets, 10, &mine), 2);
    IS("MB11", mine, 0);
    SP_disconnect(a);
    SP_disconnect(a2);
    SP_disconnect(b);
}

/* ---- the flush layer ---- */

struct member {
    mailbox m;
    const char *own;
    int requests, transitionals, views;
    int members, set;      /* of the last view */
    service cause;
    char first[MAX_GROUP_NAME]; /* of the set */
    char order[8];         /* t, q, v: transitional, request, view */
};

/* Takes what is there; answers flush requests. */
static void pump(struct member *p) {
    static char body[1000], groups[10][MAX_GROUP_NAME];
    char sender[MAX_GROUP_NAME];
    int ng, em, more, ret, len = (int)strlen(p->order);
    int16 mt;
    service svc = DONT_BLOCK;
    ret = FL_receive(p->m, &svc, sender, 10, &ng, groups, &mt, &em, sizeof body, body, &more);
    if (ret == WOULD_BLOCK) return;
    if (ret < 0) {
        printf("FAIL FL51: %s cannot receive: %d, after %s\n", p->own, ret, p->order);
        exit(2);
    }
    if (Is_flush_req_mess(svc)) {
        p->requests++;
        if (len < 7) p->order[len] = 'q';
        IS("FL51", FL_flush(p->m, "fg"), 0);
    } else if (Is_transition_mess(svc)) {
        p->transitionals++;
        if (len < 7) p->order[len] = 't';
    } else if (Is_reg_memb_mess(svc)) {
        p->views++;
        if (len < 7) p->order[len] = 'v';
        p->members = ng;
        p->cause = svc;
        memcpy(&p->set, body + 12, 4);
        memcpy(p->first, body + 16, MAX_GROUP_NAME);
        IS("FL51", mt, ng == 1 ? 0 : p->own[2] == 'b');
    }
}

static void forget(struct member *p) {
    p->requests = p->transitionals = p->views = 0;
    memset(p->order, 0, sizeof p->order);
}

static void flush_layer(void) {
    struct member one, two;
    char group[MAX_GROUP_NAME];
    memset(&one, 0, sizeof one);
    memset(&two, 0, sizeof two);
    one.own = "#fa#h1";
    two.own = "#fb#h2";
    IS("FL51", FL_connect(d1, "fa", 0, &one.m, group), 1);
    IS("FL51", FL_connect(d2, "fb", 0, &two.m, group), 1);
    IS("FL51", FL_join(one.m, "fg"), 0);
    UNTIL("FL51", (pump(&one), one.members == 1));
    IS("FL51", FL_join(two.m, "fg"), 0);
    UNTIL("FL51", (pump(&one), pump(&two), one.members == 2 && two.members == 2));
    forget(&one);
    forget(&two);

    ask("stop 2");
    UNTIL("FL51", (pump(&one), one.views > 0));
    /* The transitional message, then the request, then the view of those who are left. */
    ROW("FL51", strcmp(one.order, "tqv") == 0);
    ROW("FL51", one.cause == (REG_MEMB_MESS | CAUSED_BY_NETWORK) && one.members == 1 && one.set == 1);
    ROW("FL51", strcmp(one.first, "#fa#h1") == 0);
    IS("FL51", FL_multicast(one.m, FIFO_MESS, "fg", 5, 5, "alone"), 5);

    forget(&one);
    ask("cont 2");
    UNTIL("FL51", (pump(&one), pump(&two), one.members == 2 && two.members == 2 && two.views > 0));
    ROW("FL51", one.cause == (REG_MEMB_MESS | CAUSED_BY_NETWORK) && strcmp(one.order, "qv") == 0);
    ROW("FL51", one.set == 1 && strcmp(one.first, "#fa#h1") == 0);
    ROW("FL51", two.cause == (REG_MEMB_MESS | CAUSED_BY_NETWORK) && two.transitionals >= 1);
    ROW("FL51", two.set == 1 && strcmp(two.first, "#fb#h2") == 0);
    /* The group works again. */
    IS("FL51", FL_multicast(two.m, AGREED_MESS, "fg", 6, 8, "together"), 8);
    {
        service svc;
        int ng, em, more, ret;
        int16 mt = 0;
        static char body[100], groups[10][MAX_GROUP_NAME], sender[MAX_GROUP_NAME];
        do {
            svc = 0;
            ret = FL_receive(one.m, &svc, sender, 10, &ng, groups, &mt, &em, 100, body, &more);
        } while (ret >= 0 && mt != 6);
        ROW("FL51", ret == 8 && memcmp(body, "together", 8) == 0);
    }
    IS("FL51", FL_disconnect(one.m), 0);
    IS("FL51", FL_disconnect(two.m), 0);
}

/* ---- what goes over the wire ---- */

static struct {
    int listener;
    unsigned char sent[4096]; /* by the client, after the 97 bytes of the handshake */
    int len, skip;
} tap;

static void *tap_main(void *arg) {
    int client = accept(tap.listener, NULL, NULL), daemon, i, open = 1;
    struct sockaddr_in to;
    (void)arg;
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((unsigned short)atoi(d1));
    daemon = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(daemon, (struct sockaddr *)&to, sizeof to)) exit(2);
    while (open) {
        struct pollfd both[2] = {{client, POLLIN, 0}, {daemon, POLLIN, 0}};
        poll(both, 2, -1);
        for (i = 0; i < 2; i++) {
            unsigned char bytes[4096];
            int n, from = 0;
            if (!both[i].revents) continue;
            n = (int)read(both[i].fd, bytes, sizeof bytes);
            if (n <= 0) {
                open = 0;
                break;
            }
            put(both[!i].fd, bytes, n);
            if (i == 1) continue;
            if (tap.skip > 0) {
                from = n < tap.skip ? n : tap.skip;
                tap.skip -= from;
            }
            if (tap.len + n - from <= (int)sizeof tap.sent) {
                memcpy(tap.sent + tap.len, bytes + from, (size_t)(n - from));
                __atomic_store_n(&tap.len, tap.len + n - from, __ATOMIC_RELEASE);
            }
        }
    }
    close(client);
    close(daemon);
    return NULL;
}

/* A message of the layer: FIFO, to the group, with the id of the view. */
static int is_flush_message(const unsigned char *at, int kind, const char *gid) {
    unsigned int type, groups, hint, len;
    char own[32] = "#w#h1", group[32] = "pg";
    memcpy(&type, at, 4);
    memcpy(&groups, at + 36, 4);
    memcpy(&hint, at + 40, 4);
    memcpy(&len, at + 44, 4);
    return type == (0x80000080u | FIFO_MESS) && memcmp(at + 4, own, 32) == 0 && groups == 1 &&
           hint == (0x80000080u | ((unsigned int)(kind & 0xffff) << 8)) && len == 12 &&
           memcmp(at + 48, group, 32) == 0 && memcmp(at + 80, gid, 12) == 0;
}

static void wire(void) {
    struct sockaddr_in at_;
    socklen_t len = sizeof at_;
    pthread_t thread;
    mailbox m;
    char where[64], group[MAX_GROUP_NAME];
    service svc = 0;
    static char body[100], groups[10][MAX_GROUP_NAME], sender[MAX_GROUP_NAME];
    int ng, em, more;
    int16 mt;
    memset(&at_, 0, sizeof at_);
    at_.sin_family = AF_INET;
    at_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    tap.listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(tap.listener, (struct sockaddr *)&at_, sizeof at_) || listen(tap.listener, 5)) exit(2);
    getsockname(tap.listener, (struct sockaddr *)&at_, &len);
    snprintf(where, sizeof where, "%d@127.0.0.1", ntohs(at_.sin_port));
    tap.skip = 5 + 1 + 90; /* the hello with a name of one byte, the choice of methods */
    pthread_create(&thread, NULL, tap_main, NULL);
    IS("FL53", FL_connect(where, "w", 0, &m, group), 1);
    IS("FL53", FL_join(m, "pg"), 0);
    IS("FL53", FL_receive(m, &svc, sender, 10, &ng, groups, &mt, &em, 100, body, &more), 48);
    UNTIL("FL53", __atomic_load_n(&tap.len, __ATOMIC_ACQUIRE) >= 80 + 92 + 92);
    IS("FL53", tap.len, 80 + 92 + 92);
    ROW("FL53", is_flush_message(tap.sent + 80, -32768, body));
    ROW("FL53", is_flush_message(tap.sent + 80 + 92, -32767, body));
    IS("FL53", FL_disconnect(m), 0);
    pthread_join(thread, NULL);
}

int main(int argc, char **argv) {
    (void)argc;
    d1 = argv[1];
    d2 = argv[2];
    port = d1;
    spread_layer();
    flush_layer();
    wire();
    return finish();
}
