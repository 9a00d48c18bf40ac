/* The header alone: every size, offset and value of the specification, in C89, C99 and C++. */
#include <fl.h>
#include <stddef.h>

#define HOLDS(name, condition) typedef char name[(condition) ? 1 : -1]

HOLDS(s1, sizeof(sp_time) == 16 && offsetof(sp_time, usec) == 8);
HOLDS(s2, sizeof(scat_element) == 16 && offsetof(scat_element, len) == 8);
HOLDS(s3, sizeof(scatter) == 1608 && offsetof(scatter, elements) == 8);
HOLDS(s4, sizeof(group_id) == 12 && sizeof(vs_set_info) == 8 && sizeof(int16) == 2 && sizeof(int32) == 4);
HOLDS(s5, sizeof(membership_info) == 56 && offsetof(membership_info, changed_member) == 12 &&
              offsetof(membership_info, num_vs_sets) == 44 && offsetof(membership_info, my_vs_set) == 48);
HOLDS(v1, SPREAD_VERSION == 0x05000000 && MAX_GROUP_NAME == 32 && MAX_PRIVATE_NAME == 10 && MAX_PROC_NAME == 20);
HOLDS(v2, DEFAULT_SPREAD_PORT == 4803 && MAX_CLIENT_SCATTER_ELEMENTS == 100 && MAX_FD_EVENTS == 2000);
HOLDS(v3, Is_regular_mess(0x04) == 1 && Is_regular_mess(0x400004) == 0 && Is_self_leave(0x200) == 1 &&
              Is_self_leave(0x1200) == 0 && Is_membership_mess(0x2000) == 1 && Is_reg_memb_mess(0x1100) == 0x1000);
HOLDS(v4, Flip_int32(0x01020304) == 0x04030201 && Flip_int16(0x0102) == 0x0201);

HOLDS(f1, DONT_BLOCK == 0x10000000 && SUBGROUP_CAST == 0x40000000 && FL_MIN_LEGAL_MESS_TYPE == -32765);
HOLDS(f2, Is_flush_req_mess(FLUSH_REQ_MESS) == 1 && Is_subgroup_mess(4) == 0 && FL_MAX_SCATTER_ELEMENTS == 99);
HOLDS(f3, ILLEGAL_PARAM == -24 && WOULD_BLOCK == -25 && ILLEGAL_RECEIVERS == -28);

#if ILLEGAL_SPREAD != -1 || NET_ERROR_ON_SESSION != -18 || ACCEPT_SESSION != 1 || ILLEGAL_TIME != -20
#error "codes"
#endif
#ifdef int32u
#error "int32u is the program's own"
#endif
#ifdef EOF
#error "stdio.h is not to be included"
#endif

int main(void) {
    int code = -8;
    switch (code) {
    case CONNECTION_CLOSED:
        return 0;
    default:
        return 1;
    }
}
