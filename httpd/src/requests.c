#include "requests.h"
#include "ap_listen.h"
#include "apr_thread_proc.h"
#include "http_request.h"
#include "mod_proxy.h"
#include "scoreboard.h"
#include "unixd.h"
#include "util_filter.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

/* mod_proxy may be loaded after the module that uses this, or not at all: no link-time reference. */
static struct {
    module *proxy;
    /* The module that uses this. Its place in a request holds null, its mark (its own address), or, while mod_proxy
     * has the request, the worker. */
    module *user;
    char *(*define_worker)(apr_pool_t *, proxy_worker **, proxy_balancer *, proxy_server_conf *, const char *, int);
    apr_status_t (*initialize_worker)(proxy_worker *, server_rec *, apr_pool_t *);
    void (*hook_pre_request)(proxy_HOOK_pre_request_t *, const char *const *, const char *const *, int);
    /* Length of a vector of settings: a place for each module. */
    int modules;
} mod_proxy;

int httpd_shim_proxy_find(module *user)
{
    mod_proxy.user = user;
    mod_proxy.proxy = dlsym(RTLD_DEFAULT, "proxy_module");
    *(void **)&mod_proxy.define_worker = dlsym(RTLD_DEFAULT, "ap_proxy_define_worker");
    *(void **)&mod_proxy.initialize_worker = dlsym(RTLD_DEFAULT, "ap_proxy_initialize_worker");
    *(void **)&mod_proxy.hook_pre_request = dlsym(RTLD_DEFAULT, "proxy_hook_pre_request");
    /* An unloaded module may still be mapped: ask the server too. */
    return mod_proxy.proxy && mod_proxy.define_worker && mod_proxy.initialize_worker && mod_proxy.hook_pre_request &&
           ap_find_linked_module("mod_proxy.c") != NULL;
}

static int own_worker(proxy_worker **worker, proxy_balancer **balancer, request_rec *r, proxy_server_conf *conf,
                      char **url)
{
    void *own = ap_get_module_config(r->request_config, mod_proxy.user);

    (void)conf;
    (void)url;
    if (own == NULL || own == mod_proxy.user) {
        return DECLINED;
    }
    *worker = own;
    *balancer = NULL;
    return OK;
}

void httpd_shim_proxy_hook(void)
{
    mod_proxy.hook_pre_request(own_worker, NULL, NULL, APR_HOOK_FIRST);
}

void httpd_shim_proxy_ready(void)
{
    const module *m;

    mod_proxy.modules = 0;
    for (m = ap_top_module; m != NULL; m = m->next) {
        if (m->module_index >= mod_proxy.modules) {
            mod_proxy.modules = m->module_index + 1;
        }
    }
}

/* The settings of a request with those of mod_proxy changed. Merging would do it too, for much more. */
static struct ap_conf_vector_t *with_overlay(request_rec *r)
{
    int index = mod_proxy.proxy->module_index;
    void **copy = apr_pmemdup(r->pool, r->per_dir_config, mod_proxy.modules * sizeof(void *));
    proxy_dir_conf *conf = copy[index] != NULL ? apr_pmemdup(r->pool, copy[index], sizeof(*conf))
                                               : mod_proxy.proxy->create_dir_config(r->pool, NULL);

    conf->preserve_host = 1;
    conf->preserve_host_set = 1;
    /* The other server restores the client's address from these. */
    conf->add_forwarded_headers = 1;
    conf->add_forwarded_headers_set = 1;
    copy[index] = conf;
    return (struct ap_conf_vector_t *)copy;
}

void *httpd_shim_proxy_worker(apr_pool_t *p, server_rec *s, const char *url, apr_interval_time_t connect,
                              apr_interval_time_t idle, int reuse)
{
    proxy_worker *worker = NULL;

    if (mod_proxy.define_worker(p, &worker, NULL, NULL, url, 0) != NULL || worker == NULL) {
        return NULL;
    }
    worker->s->conn_timeout = connect;
    worker->s->conn_timeout_set = 1;
    worker->s->ttl = idle;
    worker->s->disablereuse = !reuse;
    worker->s->disablereuse_set = 1;
    /* A failure is judged by the caller: the worker itself is never out of use. */
    worker->s->retry = 0;
    worker->s->retry_set = 1;
    worker->s->status |= PROXY_WORKER_IGNORE_ERRORS;
    return mod_proxy.initialize_worker(worker, s, p) == APR_SUCCESS ? worker : NULL;
}

int httpd_shim_unanswered(request_rec *r)
{
    return r->bytes_sent == 0 && r->sent_bodyct == 0 && !r->eos_sent && !r->connection->aborted;
}

int httpd_shim_proxy_try(request_rec *r, void *worker, char *filename, int silent)
{
    char *filename_before = r->filename;
    const char *handler_before = r->handler;
    int proxyreq_before = r->proxyreq;
    struct ap_conf_vector_t *config_before = r->per_dir_config;
    int keepalives = r->connection->keepalives;
    int rv;

    r->filename = filename;
    r->handler = "proxy-server";
    r->proxyreq = PROXYREQ_REVERSE;
    r->per_dir_config = with_overlay(r);
    apr_table_setn(r->notes, "proxy-nocanon", "1");
    ap_set_module_config(r->request_config, mod_proxy.user, worker);
    if (silent) {
        /* On a connection with earlier requests mod_proxy answers a lost peer by closing it. With 0 it returns 502,
         * and another server can be tried. */
        r->connection->keepalives = 0;
    }
    rv = ap_run_handler(r);
    if (silent) {
        r->connection->keepalives += keepalives;
    }
    ap_set_module_config(r->request_config, mod_proxy.user, mod_proxy.user);
    if (rv != OK && rv != DONE && httpd_shim_unanswered(r)) {
        r->filename = filename_before;
        r->handler = handler_before;
        r->proxyreq = proxyreq_before;
        r->per_dir_config = config_before;
        r->status = HTTP_OK;
        r->status_line = NULL;
        apr_table_unset(r->notes, "proxy-nocanon");
        apr_table_unset(r->notes, "error-notes");
        apr_table_unset(r->notes, "verbose-error-to");
    }
    return rv;
}

/* Gives what was read before, then goes away. */
static apr_status_t replay(ap_filter_t *f, apr_bucket_brigade *out, ap_input_mode_t mode, apr_read_type_e block,
                           apr_off_t bytes)
{
    apr_bucket_brigade *kept = f->ctx;
    apr_bucket *end;

    if (APR_BRIGADE_EMPTY(kept)) {
        ap_remove_input_filter(f);
        return ap_get_brigade(f->next, out, mode, block, bytes);
    }
    if (mode != AP_MODE_READBYTES && mode != AP_MODE_SPECULATIVE) {
        return APR_ENOTIMPL;
    }
    apr_brigade_partition(kept, bytes, &end);
    if (mode == AP_MODE_SPECULATIVE) {
        apr_bucket *e, *copy;
        for (e = APR_BRIGADE_FIRST(kept); e != end; e = APR_BUCKET_NEXT(e)) {
            if (apr_bucket_copy(e, &copy) == APR_SUCCESS) {
                APR_BRIGADE_INSERT_TAIL(out, copy);
            }
        }
        return APR_SUCCESS;
    }
    while (!APR_BRIGADE_EMPTY(kept) && APR_BRIGADE_FIRST(kept) != end) {
        apr_bucket *e = APR_BRIGADE_FIRST(kept);
        APR_BUCKET_REMOVE(e);
        APR_BRIGADE_INSERT_TAIL(out, e);
    }
    return APR_SUCCESS;
}

void httpd_shim_replay_body(request_rec *r)
{
    void *kept = NULL;

    apr_pool_userdata_get(&kept, "proxy-req-input", r->pool);
    if (kept == NULL || APR_BRIGADE_EMPTY((apr_bucket_brigade *)kept)) {
        return;
    }
    ap_add_input_filter("HTTPD_OWN_REPLAY", kept, r, r->connection);
    apr_pool_userdata_setn(NULL, "proxy-req-input", NULL, r->pool);
}

void httpd_shim_set_client(request_rec *r, const void *octets, apr_size_t length, const char *text)
{
    apr_sockaddr_t *addr = apr_pcalloc(r->pool, sizeof(*addr));

    /* By hand: APR would ask the resolver of the system, which looks at the interfaces for each address. */
    addr->pool = r->pool;
    if (length == sizeof(addr->sa.sin.sin_addr)) {
        addr->family = APR_INET;
        addr->sa.sin.sin_family = AF_INET;
        addr->salen = sizeof(addr->sa.sin);
        addr->addr_str_len = 16;
        addr->ipaddr_ptr = &addr->sa.sin.sin_addr;
    }
#if APR_HAVE_IPV6
    else if (length == sizeof(addr->sa.sin6.sin6_addr)) {
        addr->family = APR_INET6;
        addr->sa.sin6.sin6_family = AF_INET6;
        addr->salen = sizeof(addr->sa.sin6);
        addr->addr_str_len = 46;
        addr->ipaddr_ptr = &addr->sa.sin6.sin6_addr;
    }
#endif
    else {
        return;
    }
    addr->ipaddr_len = (int)length;
    memcpy(addr->ipaddr_ptr, octets, length);
    r->useragent_addr = addr;
    r->useragent_ip = (char *)text;
}

void httpd_shim_force_keepalive(request_rec *r)
{
    server_rec *copy;

    if (r->server->keep_alive) {
        return;
    }
    copy = apr_pmemdup(r->pool, r->server, sizeof(*copy));
    copy->keep_alive = 1;
    copy->keep_alive_max = 0;
    r->server = copy;
}

int httpd_shim_workers(int *idle, int *busy)
{
    int processes = 0, threads = 0, i, j;

    *idle = *busy = 0;
    if (ap_scoreboard_image == NULL || ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &processes) != APR_SUCCESS ||
        ap_mpm_query(AP_MPMQ_HARD_LIMIT_THREADS, &threads) != APR_SUCCESS) {
        return 0;
    }
    if (threads == 0) {
        threads = 1;
    }
    for (i = 0; i < processes; i++) {
        process_score *process = ap_get_scoreboard_process(i);
        if (process == NULL || process->pid == 0 || process->quiescing) {
            continue;
        }
        for (j = 0; j < threads; j++) {
            worker_score *worker = ap_get_scoreboard_worker_from_indexes(i, j);
            if (worker == NULL) {
                continue;
            }
            switch (worker->status) {
            case SERVER_READY:
                ++*idle;
                break;
            case SERVER_DEAD:
            case SERVER_STARTING:
            case SERVER_IDLE_KILL:
                break;
            default:
                ++*busy;
            }
        }
    }
    return 1;
}

static struct {
    apr_pool_t *conf;
    server_rec *s;
    void (*run)(void);
    void (*stopping)(void);
    apr_time_t started;
    apr_interval_time_t delay;
} manager;


static void manager_event(int reason, void *data, apr_wait_t status)
{
    int state;

    switch (reason) {
    case APR_OC_REASON_DEATH:
    case APR_OC_REASON_LOST:
        apr_proc_other_child_unregister(data);
        if (manager.conf != NULL && ap_mpm_query(AP_MPMQ_MPM_STATE, &state) == APR_SUCCESS &&
            state != AP_MPMQ_STOPPING) {
            ap_log_error(APLOG_MARK, APLOG_WARNING, 0, manager.s, "the manager process died (status %d); starting it again",
                         status);
            if (apr_time_now() - manager.started > apr_time_from_sec(10)) {
                manager.delay = 0;
            }
            else {
                manager.delay = manager.delay == 0 ? apr_time_from_msec(500) : manager.delay * 2;
                if (manager.delay > apr_time_from_sec(30)) {
                    manager.delay = apr_time_from_sec(30);
                }
            }
            httpd_shim_manager_start();
        }
        break;
    case APR_OC_REASON_RESTART:
        apr_proc_other_child_unregister(data);
        break;
    }
}

static void manager_child(void)
{
    pid_t parent = getppid();
    sigset_t set;
    apr_pool_t *pool;

    /* The end comes by SIGTERM, which the manager waits for; the server's other signals are not for it. */
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_SETMASK, &set, NULL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGHUP, SIG_IGN);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGWINCH, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    ap_close_listeners();
    apr_pool_create(&pool, manager.conf);
    if (ap_run_drop_privileges(pool, manager.s) != OK) {
        _exit(1);
    }
    /* The kernel clears this with a change of user. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) {
        _exit(0);
    }
    if (manager.delay > 0) {
        struct timespec wait = {manager.delay / APR_USEC_PER_SEC, manager.delay % APR_USEC_PER_SEC * 1000};
        if (sigtimedwait(&set, NULL, &wait) > 0) {
            _exit(0);
        }
    }
    manager.run();
    _exit(0);
}

int httpd_shim_manager_start(void)
{
    apr_proc_t *proc;

    if (manager.conf == NULL) {
        return 0;
    }
    proc = apr_pcalloc(manager.conf, sizeof(*proc));

    manager.started = apr_time_now();
    switch (apr_proc_fork(proc, manager.conf)) {
    case APR_INCHILD:
        manager_child();
        return 0;
    case APR_INPARENT:
        apr_proc_other_child_register(proc, manager_event, proc, NULL, manager.conf);
        apr_pool_note_subprocess(manager.conf, proc, APR_KILL_AFTER_TIMEOUT);
        return 1;
    default:
        ap_log_error(APLOG_MARK, APLOG_ERR, apr_get_os_error(), manager.s, "the manager process cannot be started");
        return 0;
    }
}

static apr_status_t manager_end(void *unused)
{
    (void)unused;
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_EXITING) {
        manager.stopping();
    }
    manager.conf = NULL;
    return APR_SUCCESS;
}

void httpd_shim_manager_prepare(apr_pool_t *conf, server_rec *s, void (*run)(void), void (*stopping)(void))
{
    manager.conf = conf;
    manager.s = s;
    manager.run = run;
    manager.stopping = stopping;
    manager.delay = 0;
    /* Cleanups run before processes of the pool are ended. */
    apr_pool_cleanup_register(conf, NULL, manager_end, apr_pool_cleanup_null);
}

apr_pool_t *httpd_shim_shared_pool(apr_pool_t *parent)
{
    apr_allocator_t *allocator;
    apr_thread_mutex_t *mutex;
    apr_pool_t *pool;

    if (apr_allocator_create(&allocator) != APR_SUCCESS ||
        apr_pool_create_ex(&pool, parent, NULL, allocator) != APR_SUCCESS) {
        return NULL;
    }
    apr_allocator_owner_set(allocator, pool);
    if (apr_thread_mutex_create(&mutex, APR_THREAD_MUTEX_DEFAULT, pool) != APR_SUCCESS) {
        return NULL;
    }
    apr_allocator_mutex_set(allocator, mutex);
    return pool;
}

void httpd_shim_hook_requests(int (*post_read)(request_rec *), int (*handler)(request_rec *),
                              int (*pre_mpm)(apr_pool_t *, ap_scoreboard_e))
{
    static const char *const before_remoteip[] = {"mod_remoteip.c", NULL};

    ap_hook_post_read_request(post_read, NULL, before_remoteip, APR_HOOK_FIRST);
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_pre_mpm(pre_mpm, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_register_input_filter("HTTPD_OWN_REPLAY", replay, NULL, AP_FTYPE_CONTENT_SET);
}
