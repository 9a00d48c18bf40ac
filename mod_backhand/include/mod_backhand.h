/*
 * Candidacy functions for mod_backhand in shared objects (directive BackhandFromSO).
 *
 *     int by_something(request_rec *r, int *servers, int *n, char *arg);
 *
 * `servers` holds the numbers of the servers that may take the request, best first, `*n` how many there are. The
 * function reorders and removes (or adds, up to backhand_max_servers()); it stores the new count in `*n` and returns
 * it. A negative result, a count out of range or a number without a server leave the set as it was.
 *
 * Compile:  cc -shared -fPIC $(apxs -q EXTRA_CPPFLAGS) -I$(apxs -q INCLUDEDIR) $(apr-1-config --includes) -o f.so f.c
 *
 * A function may run in several threads at once only if its object says so by
 *     int backhand_threadsafe = 1;
 * otherwise calls within a process wait for each other. A fault in a function ends the child process of the server.
 */
#ifndef MOD_BACKHAND_H
#define MOD_BACKHAND_H

#include <netinet/in.h>
#include <time.h>

#include "httpd.h"

typedef struct {
    char hostname[40];          /* announced name, cut to 39 bytes */
    time_t mtime;               /* when this record was received, by the clock of this host; 0: no server */
    struct sockaddr_in contact; /* where it serves HTTP */

    int arriba;   /* speed of one CPU; larger is faster */
    int aservers; /* workers without a request */
    int nservers; /* workers */
    int load;     /* load average of one minute times 1000, with what was predicted */
    int load_hwm; /* power of two not below the highest load seen, not scaled */
    int cpu;      /* idle share of the CPUs times 1000 */
    int ncpu;     /* CPUs */
    int tmem;     /* installed memory in bytes, at most 2147483647 */
    int amem;     /* available memory in bytes, at most 2147483647 */
} serverstat;

/* Records of all servers, backhand_max_servers() of them. Read single fields; a record changes at any time. */
extern serverstat *serverstats;

int backhand_api_version(void); /* 1 */
int backhand_self(void);        /* number of this server */
int backhand_max_servers(void); /* room of `servers` and `serverstats` */

/* Chooses how the request reaches the server: 0 proxy, 1 redirect by name, 2 redirect by address. 0, or -1. */
int backhand_set_method(request_rec *r, int method);

#endif
