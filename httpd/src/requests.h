/* What modules need that decide over requests: proxying, request bodies, a process of their own. */
#include "shim.h"
#include "ap_listen.h"
#include "http_request.h"
#include "scoreboard.h"

/* Finds mod_proxy among the loaded modules. Zero when it is not loaded. */
int httpd_shim_proxy_find(module *user);

/* Lets requests under httpd_shim_proxy_try go to their own worker. */
void httpd_shim_proxy_hook(void);

/* To be called in each child, when all modules are known. */
void httpd_shim_proxy_ready(void);

/* A worker with a pool of connections of its own; null when mod_proxy refuses. Times in microseconds. */
void *httpd_shim_proxy_worker(apr_pool_t *p, server_rec *s, const char *url, apr_interval_time_t connect,
                              apr_interval_time_t idle, int reuse);

/* Sends a request through a worker, with the client's Host. The file name lives as long as the request and may be
 * changed. After a failure the request is as before, for another attempt. */
int httpd_shim_proxy_try(request_rec *r, void *worker, char *filename, int silent);

/* Whether nothing of the response has been sent. */
int httpd_shim_unanswered(request_rec *r);

/* Gives the part of the request body that mod_proxy has read to the next handler. */
void httpd_shim_replay_body(request_rec *r);

/* Makes an address of 4 or 16 octets the one of the client; `text` is the same, in the pool of the request. */
void httpd_shim_set_client(request_rec *r, const void *octets, apr_size_t length, const char *text);

/* Keeps the connection open after this request although the server's settings say otherwise. */
void httpd_shim_force_keepalive(request_rec *r);

/* Workers of the server that are idle and busy. Zero when there is no scoreboard. */
int httpd_shim_workers(int *idle, int *busy);

/* Describes a process beside the children, under their user, that ends with the configuration. `stopping` is called in
 * the parent when the server ends, before the process does. */
void httpd_shim_manager_prepare(apr_pool_t *conf, server_rec *s, void (*run)(void), void (*stopping)(void));

/* Starts that process; it is started again when it dies. Zero when it cannot be. */
int httpd_shim_manager_start(void);

/* A pool for use by several threads at once, under the parent's. */
apr_pool_t *httpd_shim_shared_pool(apr_pool_t *parent);

/* Hooks of request processing. */
void httpd_shim_hook_requests(int (*post_read)(request_rec *), int (*handler)(request_rec *),
                              int (*pre_mpm)(apr_pool_t *, ap_scoreboard_e));
