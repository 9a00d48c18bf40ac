/* What the Rust side sees of the server. Macros cannot be bound: shim.c turns the needed ones into functions. */
#include "httpd.h"
#include "http_config.h"
#include "http_core.h"
#include "http_log.h"
#include "http_protocol.h"
#include "ap_mpm.h"
#include "mpm_common.h"
#include "mod_log_config.h"
#include "mod_status.h"
#include "apr_optional.h"
#include "apr_strings.h"
#include "unixd.h"

/* One text to the error log of a server (or of the process when the server is null), if the level is wanted. */
void httpd_shim_log(const char *file, int line, int module_index, int level, const server_rec *s, const char *text);

/* One text to the error log before a server exists; also to the console at start. */
void httpd_shim_log_pool(const char *file, int line, int module_index, int level, apr_pool_t *p, const char *text);

/* Installs the log writer callbacks and gives the previous ones. Zero when mod_log_config is not loaded. */
int httpd_shim_take_log_writer(ap_log_writer_init *init, ap_log_writer *writer, ap_log_writer_init **init_before,
                               ap_log_writer **writer_before);

/* Adds a function to the status page of mod_status, if that is loaded. */
void httpd_shim_hook_status(int (*status)(request_rec *r, int flags));

/* The user and group of the children. */
void httpd_shim_run_user(unsigned int *user, unsigned int *group);

/* The values of STANDARD20_MODULE_STUFF, for the check of the Rust constants. */
void httpd_shim_module_stuff(module *out);
