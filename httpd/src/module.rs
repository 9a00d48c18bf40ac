//! A module: what the server loads.
// spec: httpd-ffi 2.1, 5

use std::ffi::{CStr, c_int, c_void};

use crate::ffi;
use crate::guard::guard;
use crate::log::{Level, set_module_index};
use crate::pool::Pool;
use crate::server::{Request, Server, StatusForm};

/// Result of a hook that may stop the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Go on.
    Ok,
    /// Do not start. Say why in the error log.
    Stop,
}

impl Status {
    const fn code(self) -> c_int {
        match self {
            Self::Ok => ffi::OK as c_int,
            Self::Stop => ffi::HTTP_INTERNAL_SERVER_ERROR as c_int,
        }
    }
}

/// Place of a hook among those of other modules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Early.
    First,
    /// Usual.
    Middle,
    /// Late.
    Last,
}

impl Order {
    const fn code(self) -> c_int {
        (match self {
            Self::First => ffi::APR_HOOK_FIRST,
            Self::Middle => ffi::APR_HOOK_MIDDLE,
            Self::Last => ffi::APR_HOOK_LAST,
        }) as c_int
    }
}

/// A module. The hooks run only when [`Module::register`] asks for them.
///
/// All methods but [`Module::status`] are called by one thread. `pre_config` to `post_config` run in the parent, for
/// every reading of the configuration; `child_init` once in each child, after the change of user.
pub trait Module: Sized + 'static {
    /// Settings of one server (main or virtual host).
    type ServerConfig: 'static;

    /// The exported structure, see [`export!`](crate::export).
    fn raw() -> *mut ffi::module;

    /// Settings before any directive was read.
    fn create_server(server: Server<'_>) -> Self::ServerConfig;

    /// Settings of a virtual host over those of the main server.
    fn merge_server(base: &Self::ServerConfig, over: &Self::ServerConfig) -> Self::ServerConfig;

    /// Switches hooks on.
    fn register(hooks: &Hooks<'_, Self>);

    /// Before directives are read: reset what a former reading left.
    fn pre_config(_conf: Pool<'_>) -> Status {
        Status::Ok
    }

    /// After directives were read, also for `-t`: check them.
    fn check_config(_temp: Pool<'_>, _main: Server<'_>) -> Status {
        Status::Ok
    }

    /// Logs are opened.
    fn open_logs(_log: Pool<'_>, _main: Server<'_>) -> Status {
        Status::Ok
    }

    /// Logs have been opened: the second function of the `open_logs` hook, ordered last.
    fn logs_opened(_main: Server<'_>) -> Status {
        Status::Ok
    }

    /// The configuration is complete.
    fn post_config(_conf: Pool<'_>, _main: Server<'_>) -> Status {
        Status::Ok
    }

    /// A child begins. `child` ends with it, after all its worker threads.
    fn child_init(_child: Pool<'_>, _main: Server<'_>) {}

    /// The status page is shown, by any thread.
    fn status(_request: Request<'_>, _form: StatusForm) {}
}

/// Registration of hooks.
#[derive(Debug)]
pub struct Hooks<'a, M> {
    pool: Pool<'a>,
    module: std::marker::PhantomData<M>,
}

impl<M: Module> Hooks<'_, M> {
    /// Calls [`Module::pre_config`].
    pub fn pre_config(&self, order: Order) {
        // SAFETY: registration functions copy their arguments; lists are null or live in the process's pool.
        unsafe { ffi::ap_hook_pre_config(Some(pre_config::<M>), NONE, NONE, order.code()) };
    }

    /// Calls [`Module::check_config`].
    pub fn check_config(&self, order: Order) {
        // SAFETY: as above.
        unsafe { ffi::ap_hook_check_config(Some(check_config::<M>), NONE, NONE, order.code()) };
    }

    /// Calls [`Module::open_logs`], before these modules (by file name, `mod_x.c`).
    pub fn open_logs(&self, order: Order, before: &[&'static CStr]) {
        let before = self.pool.names(before);
        // SAFETY: as above.
        unsafe { ffi::ap_hook_open_logs(Some(open_logs::<M>), NONE, before, order.code()) };
    }

    /// Calls [`Module::logs_opened`], after these modules.
    pub fn logs_opened(&self, after: &[&'static CStr]) {
        let after = self.pool.names(after);
        // SAFETY: as above.
        unsafe { ffi::ap_hook_open_logs(Some(logs_opened::<M>), after, NONE, Order::Last.code()) };
    }

    /// Calls [`Module::post_config`].
    pub fn post_config(&self, order: Order) {
        // SAFETY: as above.
        unsafe { ffi::ap_hook_post_config(Some(post_config::<M>), NONE, NONE, order.code()) };
    }

    /// Calls [`Module::child_init`].
    pub fn child_init(&self, order: Order) {
        // SAFETY: as above.
        unsafe { ffi::ap_hook_child_init(Some(child_init::<M>), NONE, NONE, order.code()) };
    }

    /// Calls [`ErrorLog::entry`](crate::errorlog::ErrorLog::entry) for what goes into the error log.
    pub fn error_log(&self)
    where
        M: crate::errorlog::ErrorLog,
    {
        crate::errorlog::listen::<M>(self.pool);
    }

    /// Calls [`Module::status`] when mod_status shows its page.
    pub fn status(&self) {
        // SAFETY: as above.
        unsafe { ffi::httpd_shim_hook_status(Some(status::<M>)) };
    }
}

const NONE: *const *const std::ffi::c_char = std::ptr::null();

/// The value of the exported structure.
pub const fn module_value<M: Module>(file: &'static CStr, table: *const ffi::command_rec) -> ffi::module {
    ffi::module {
        version: ffi::MODULE_MAGIC_NUMBER_MAJOR as c_int,
        minor_version: ffi::MODULE_MAGIC_NUMBER_MINOR as c_int,
        module_index: -1,
        name: file.as_ptr(),
        dynamic_load_handle: std::ptr::null_mut(),
        next: std::ptr::null_mut(),
        magic: ffi::MODULE_MAGIC_COOKIE as std::ffi::c_ulong,
        rewrite_args: None,
        create_dir_config: None,
        merge_dir_config: None,
        create_server_config: Some(create_server::<M>),
        merge_server_config: Some(merge_server::<M>),
        cmds: table,
        register_hooks: Some(register_hooks::<M>),
        flags: 0,
    }
}

/// The value of the exported structure of a module with settings of directories.
pub const fn request_module_value<M: crate::requests::RequestModule>(
    file: &'static CStr,
    table: *const ffi::command_rec,
) -> ffi::module {
    ffi::module {
        create_dir_config: Some(crate::requests::create_dir::<M>),
        merge_dir_config: Some(crate::requests::merge_dir::<M>),
        ..module_value::<M>(file, table)
    }
}

/// Exports a module under the name that `LoadModule` looks for.
///
/// `export!(log_spread_module, LogSpread, c"mod_log_spread.c", [&SPREAD_DAEMON, &QUEUE]);`
///
/// With `dir` before the name, for a [`RequestModule`](crate::requests::RequestModule).
#[macro_export]
macro_rules! export {
    ($symbol:ident, $module:ty, $file:literal, [$($directive:expr),* $(,)?]) => {
        $crate::export!(@ module_value $symbol, $module, $file, [$($directive),*]);
    };
    (dir $symbol:ident, $module:ty, $file:literal, [$($directive:expr),* $(,)?]) => {
        $crate::export!(@ request_module_value $symbol, $module, $file, [$($directive),*]);
    };
    (@ $value:ident $symbol:ident, $module:ty, $file:literal, [$($directive:expr),*]) => {
        const TABLE_LEN: usize = <[()]>::len(&[$({ let _ = stringify!($directive); }),*]) + 1;
        static TABLE: $crate::directive::Table<TABLE_LEN> = $crate::directive::Table([
            $($directive.entry(),)*
            $crate::directive::end_of_table(),
        ]);
        /// What the server loads; it writes the index and the links.
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals, reason = "the server looks for this name")]
        pub static mut $symbol: $crate::ffi::module =
            $crate::module::$value::<$module>($file, (&raw const TABLE).cast());
    };
}

/// The settings of a module for a server.
pub fn config<M: Module>(server: Server<'_>) -> Option<&M::ServerConfig> {
    // SAFETY: the vector holds what `create_server` or `merge_server` of this module made; it lives as long as the
    // server record and is not changed after the configuration was read.
    unsafe { raw_config::<M>(server).as_ref() }
}

/// # Safety
/// Nothing else refers to the settings: only while directives are read.
pub(crate) unsafe fn config_mut<M: Module>(server: Server<'_>) -> Option<&mut M::ServerConfig> {
    // SAFETY: by contract.
    unsafe { raw_config::<M>(server).as_mut() }
}

fn raw_config<M: Module>(server: Server<'_>) -> *mut M::ServerConfig {
    // SAFETY: the vector belongs to a live server; the index in the module's structure was set at load.
    unsafe { ffi::ap_get_module_config(server.config_vector(), M::raw()).cast() }
}

/// Keeps settings until the pool ends.
pub(crate) fn keep<T: 'static>(pool: Pool<'_>, value: T) -> *mut c_void {
    pool.keep(value).as_ptr().cast()
}

unsafe extern "C" fn create_server<M: Module>(
    p: *mut ffi::apr_pool_t,
    s: *mut ffi::server_rec,
) -> *mut c_void {
    // SAFETY: the server gives a live pool and record.
    let (pool, server) = unsafe { (Pool::from_raw(p), Server::from_raw(s)) };
    guard("create_server", std::ptr::null_mut(), || keep(pool, M::create_server(server)))
}

unsafe extern "C" fn merge_server<M: Module>(
    p: *mut ffi::apr_pool_t,
    base: *mut c_void,
    over: *mut c_void,
) -> *mut c_void {
    // SAFETY: the server gives a live pool and settings made by this module.
    let (pool, base, over) = unsafe {
        (Pool::from_raw(p), base.cast::<M::ServerConfig>().as_ref(), over.cast::<M::ServerConfig>().as_ref())
    };
    guard("merge_server", std::ptr::null_mut(), || match (base, over) {
        (Some(base), Some(over)) => keep(pool, M::merge_server(base, over)),
        _ => std::ptr::null_mut(),
    })
}

unsafe extern "C" fn register_hooks<M: Module>(p: *mut ffi::apr_pool_t) {
    // SAFETY: the server gives a live pool; the structure's index was set before.
    let (pool, index) = unsafe { (Pool::from_raw(p), (*M::raw()).module_index) };
    set_module_index(index);
    guard("register_hooks", (), || M::register(&Hooks { pool, module: std::marker::PhantomData }));
}

unsafe extern "C" fn pre_config<M: Module>(
    conf: *mut ffi::apr_pool_t,
    _log: *mut ffi::apr_pool_t,
    _temp: *mut ffi::apr_pool_t,
) -> c_int {
    // SAFETY: live pool.
    let conf = unsafe { Pool::from_raw(conf) };
    guard("pre_config", Status::Stop.code(), || M::pre_config(conf).code())
}

unsafe extern "C" fn check_config<M: Module>(
    _conf: *mut ffi::apr_pool_t,
    _log: *mut ffi::apr_pool_t,
    temp: *mut ffi::apr_pool_t,
    s: *mut ffi::server_rec,
) -> c_int {
    // SAFETY: live pool and record.
    let (temp, main) = unsafe { (Pool::from_raw(temp), Server::from_raw(s)) };
    guard("check_config", Status::Stop.code(), || M::check_config(temp, main).code())
}

unsafe extern "C" fn open_logs<M: Module>(
    _conf: *mut ffi::apr_pool_t,
    log: *mut ffi::apr_pool_t,
    _temp: *mut ffi::apr_pool_t,
    s: *mut ffi::server_rec,
) -> c_int {
    // SAFETY: live pool and record.
    let (log, main) = unsafe { (Pool::from_raw(log), Server::from_raw(s)) };
    // A failure here would end a running server at a graceful restart.
    guard("open_logs", Status::Ok.code(), || M::open_logs(log, main).code())
}

unsafe extern "C" fn logs_opened<M: Module>(
    _conf: *mut ffi::apr_pool_t,
    _log: *mut ffi::apr_pool_t,
    _temp: *mut ffi::apr_pool_t,
    s: *mut ffi::server_rec,
) -> c_int {
    // SAFETY: live record.
    let main = unsafe { Server::from_raw(s) };
    guard("logs_opened", Status::Ok.code(), || M::logs_opened(main).code())
}

unsafe extern "C" fn post_config<M: Module>(
    conf: *mut ffi::apr_pool_t,
    _log: *mut ffi::apr_pool_t,
    _temp: *mut ffi::apr_pool_t,
    s: *mut ffi::server_rec,
) -> c_int {
    // SAFETY: live pool and record.
    let (conf, main) = unsafe { (Pool::from_raw(conf), Server::from_raw(s)) };
    guard("post_config", Status::Ok.code(), || M::post_config(conf, main).code())
}

unsafe extern "C" fn child_init<M: Module>(child: *mut ffi::apr_pool_t, s: *mut ffi::server_rec) {
    // SAFETY: live pool and record.
    let (child, main) = unsafe { (Pool::from_raw(child), Server::from_raw(s)) };
    guard("child_init", (), || M::child_init(child, main));
}

unsafe extern "C" fn status<M: Module>(r: *mut ffi::request_rec, flags: c_int) -> c_int {
    // SAFETY: a live request of this thread.
    let request = unsafe { Request::from_raw(r) };
    let short = flags & ffi::AP_STATUS_SHORT as c_int != 0;
    let form = if short { StatusForm::Auto } else { StatusForm::Html };
    guard("status", (), || M::status(request, form));
    ffi::OK as c_int
}

/// Checks the constants of [`module_value`] against the macros of the installed headers.
///
/// # Errors
/// Names the member that differs.
pub fn check_module_stuff<M: Module>() -> Result<(), &'static str> {
    let ours = module_value::<M>(c"shim.c", std::ptr::null());
    let mut theirs = module_value::<M>(c"", std::ptr::null());
    // SAFETY: writes one whole structure.
    unsafe { ffi::httpd_shim_module_stuff(&raw mut theirs) };
    let checks = [
        ("version", ours.version == theirs.version),
        ("minor_version", ours.minor_version == theirs.minor_version),
        ("module_index", ours.module_index == theirs.module_index),
        ("magic", ours.magic == theirs.magic),
    ];
    checks.iter().find(|c| !c.1).map_or(Ok(()), |c| Err(c.0))
}

/// Writes a message while the server starts.
#[track_caller]
pub fn say_at_start(pool: Pool<'_>, level: Level, text: &str) {
    crate::log::at_start(pool, level, text);
}
