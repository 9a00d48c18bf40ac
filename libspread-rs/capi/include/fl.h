/* Flush layer: view synchrony on top of Spread. Part of libspread only. */
#ifndef INC_FL
#define INC_FL

#include <sp.h>

#define DONT_BLOCK     0x10000000 /* for FL_receive */
#define FLUSH_REQ_MESS 0x20000000
#define SUBGROUP_CAST  0x40000000

#define FL_MAX_SCATTER_ELEMENTS 99
#define FL_MIN_LEGAL_MESS_TYPE  ((int16)-32765)

#define ILLEGAL_PARAM        -24
#define WOULD_BLOCK          -25
#define ILLEGAL_MESSAGE_TYPE -26
#define ILLEGAL_STATE        -27
#define ILLEGAL_RECEIVERS    -28

#define Is_flush_req_mess(s) (((s) & FLUSH_REQ_MESS) != 0)
#define Is_subgroup_mess(s)  (((s) & SUBGROUP_CAST) != 0)

#ifdef __cplusplus
extern "C" {
#endif

int FL_lib_init(void);
void FL_version(int *major_ver, int *minor_ver, int *patch_ver);
void FL_error(int error_code);

int FL_connect(const char *daemon_name, const char *user_name, int priority, mailbox *mbox,
               char *private_name);
int FL_disconnect(mailbox mbox);
int FL_join(mailbox mbox, const char *group_name);
int FL_leave(mailbox mbox, const char *group_name);
int FL_flush(mailbox mbox, const char *group_name);

int FL_multicast(mailbox mbox, service serv_type, const char *group_name, int16 mess_type, int mess_len,
                 const char *mess);
int FL_scat_multicast(mailbox mbox, service serv_type, const char *group_name, int16 mess_type,
                      const scatter *scat_mess);
int FL_unicast(mailbox mbox, service serv_type, const char *group_name, const char *recvr_name,
               int16 mess_type, int mess_len, const char *mess);
int FL_scat_unicast(mailbox mbox, service serv_type, const char *group_name, const char *recvr_name,
                    int16 mess_type, const scatter *scat);
int FL_subgroupcast(mailbox mbox, service serv_type, const char *group_name, int num_recvrs,
                    char recvr_names[][MAX_GROUP_NAME], int16 mess_type, int mess_len, const char *mess);
int FL_scat_subgroupcast(mailbox mbox, service serv_type, const char *group_name, int num_recvrs,
                         char recvr_names[][MAX_GROUP_NAME], int16 mess_type, const scatter *scat);

int FL_receive(mailbox mbox, service *serv_type, char *sender_name, int max_groups, int *num_groups,
               char group_names[][MAX_GROUP_NAME], int16 *mess_type, int *endian_mismatch,
               int max_mess_len, char *mess, int *more_msgs);
int FL_scat_receive(mailbox mbox, service *serv_type, char *sender_name, int max_groups, int *num_groups,
                    char group_names[][MAX_GROUP_NAME], int16 *mess_type, int *endian_mismatch,
                    scatter *scat_mess, int *more_msgs);
int FL_more_msgs(mailbox mbox);
int FL_poll(mailbox mbox);

int FL_get_gid_offset_memb_mess(void);
int FL_get_num_vs_offset_memb_mess(void);
int FL_get_vs_set_offset_memb_mess(void);

#ifdef __cplusplus
}
#endif

#endif /* INC_FL */
