//! Declarations of the installed httpd and APR: `bindgen` over their headers, and `shim.c` for what only macros give.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

/// Functions and constants that the layer uses. Types follow.
const FUNCTIONS: &str = "ap_get_module_config|ap_set_module_config|ap_check_cmd_context|ap_hook_(pre_config|check_config|\
                         open_logs|post_config|child_init|error_log)|ap_find_module_short_name|ap_mpm_query|ap_state_query|ap_getword_conf|\
                         ap_retained_data_(create|get)|ap_rwrite|apr_palloc|apr_pool_cleanup_register|\
                         apr_pool_cleanup_null|apr_pstrmemdup|ap_pcfg_openfile|ap_conftree|\
                         ap_server_root_relative|ap_sub_req_lookup_uri|ap_set_content_type|ap_run_http_scheme|ap_runtime_dir_relative|\
                         apr_table_(get|setn|unset)";
const VARIABLES: &str = "APR_HOOK_.*|APLOG_.*|AP_MPMQ_.*|AP_SQ_.*|MODULE_MAGIC_.*|OR_.*|RSRC_CONF|OK|DECLINED|\
                         GLOBAL_ONLY|NOT_IN_.*|AP_STATUS_.*|ap_conftree|ap_listeners|ACCESS_CONF|DONE|M_CONNECT|M_TRACE|HTTP_OK|HTTP_INTERNAL_SERVER_ERROR";
const TYPES: &str = "module|module_struct|command_rec|cmd_parms|server_rec|request_rec|process_rec|ap_directive_t|\
                     apr_status_t|apr_size_t|apr_pool_t|conn_rec|apr_table_t|apr_array_header_t|apr_table_entry_t|ap_listen_rec|ap_errorlog_info|ap_log_writer|ap_log_writer_init";

fn main() {
    println!("cargo::rerun-if-changed=src/shim.c");
    println!("cargo::rerun-if-changed=src/shim.h");
    println!("cargo::rerun-if-changed=src/requests.c");
    println!("cargo::rerun-if-changed=src/requests.h");
    println!("cargo::rerun-if-env-changed=APXS");
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    let apxs = env::var("APXS").unwrap_or_else(|_| "apxs".into());
    let include = query(&apxs, &["-q", "INCLUDEDIR"]);
    let flags = query(&apxs, &["-q", "EXTRA_CPPFLAGS"]);
    let apr = query(&apxs, &["-q", "APR_CONFIG"]);
    let apr = if apr.is_empty() { "apr-1-config".into() } else { apr };
    let apr_flags = query(&apr, &["--includes", "--cppflags"]);
    let apu_flags = query(&apr.replace("apr-", "apu-"), &["--includes"]);

    let mut args = vec![format!("-I{include}")];
    let words = [&*apr_flags, &*apu_flags, &*flags];
    args.extend(
        words.iter().flat_map(|f| f.split_whitespace()).filter(|w| w.starts_with('-')).map(String::from),
    );

    let mut shim = cc::Build::new();
    shim.file("src/shim.c").file("src/requests.c").warnings(true);
    for arg in &args {
        shim.flag(arg);
    }
    shim.compile("httpd_shim");

    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    // bindgen panics when it finds no libclang: say what to install instead.
    let made = std::panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header("src/requests.h")
            .clang_args(&args)
            .allowlist_function(FUNCTIONS)
            .allowlist_function("httpd_shim_.*")
            .allowlist_var(VARIABLES)
            .allowlist_type(TYPES)
            .layout_tests(true)
            .generate_comments(false)
            .generate()
    });
    match made {
        Ok(Ok(bindings)) => {
            if let Err(error) = bindings.write_to_file(&out) {
                fail(&format!("cannot write {}: {error}", out.display()));
            }
        }
        Ok(Err(error)) => fail(&format!("the headers in {include} cannot be read: {error}")),
        Err(_) => fail(
            "libclang, which reads the C headers of Apache, was not found. On Debian: apt-get install libclang-dev. \
             Elsewhere set LIBCLANG_PATH to the folder of libclang.so",
        ),
    }
}

fn query(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines()
                .filter(|line| !line.starts_with("apxs:"))
                .collect::<Vec<_>>()
                .join(" ")
                .trim()
                .to_owned()
        }
        Ok(output) => fail(&format!(
            "\"{program} {}\" failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => fail(&format!(
            "\"{program}\" cannot be run ({error}): the development files of Apache httpd 2.4 are missing. \
             On Debian: apt-get install apache2-dev libclang-dev. Another place: set APXS"
        )),
    }
}

fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    exit(1)
}
