#include "shim.h"

void httpd_shim_log(const char *file, int line, int module_index, int level, const server_rec *s, const char *text)
{
    if ((level & APLOG_LEVELMASK) <= APLOG_NOTICE || s == NULL ||
        ap_get_server_module_loglevel(s, module_index) >= (level & APLOG_LEVELMASK)) {
        ap_log_error_(file, line, module_index, level, 0, s, "%s", text);
    }
}

void httpd_shim_log_pool(const char *file, int line, int module_index, int level, apr_pool_t *p, const char *text)
{
    ap_log_perror_(file, line, module_index, level, 0, p, "%s", text);
}

int httpd_shim_take_log_writer(ap_log_writer_init *init, ap_log_writer *writer, ap_log_writer_init **init_before,
                               ap_log_writer **writer_before)
{
    APR_OPTIONAL_FN_TYPE(ap_log_set_writer_init) *set_init = APR_RETRIEVE_OPTIONAL_FN(ap_log_set_writer_init);
    APR_OPTIONAL_FN_TYPE(ap_log_set_writer) *set_writer = APR_RETRIEVE_OPTIONAL_FN(ap_log_set_writer);

    if (set_init == NULL || set_writer == NULL) {
        return 0;
    }
    *init_before = set_init(init);
    *writer_before = set_writer(writer);
    return 1;
}

void httpd_shim_hook_status(int (*status)(request_rec *r, int flags))
{
    APR_OPTIONAL_HOOK(ap, status_hook, status, NULL, NULL, APR_HOOK_MIDDLE);
}

void httpd_shim_run_user(unsigned int *user, unsigned int *group)
{
    *user = ap_unixd_config.user_id;
    *group = ap_unixd_config.group_id;
}

void httpd_shim_module_stuff(module *out)
{
    static const module stuff = {STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, NULL, NULL, 0};

    *out = stuff;
}
