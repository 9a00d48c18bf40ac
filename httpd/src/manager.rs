//! A process beside the children, for work that must go on whether requests come or not.
// spec: mod_backhand-httpd24 2

use std::ffi::c_int;
use std::time::Duration;

use crate::ffi;
use crate::guard::guard;
use crate::pool::Pool;
use crate::server::Server;

/// What the process does. Functions only: the process starts with a copy of the parent's memory.
pub trait Manager: 'static {
    /// Runs in the process, as the user of the children, until [`wait_for_end`] says so. SIGTERM and SIGINT are blocked,
    /// also in threads it starts.
    fn run();

    /// Runs in the parent when the server (not only this configuration) ends, before the process is ended.
    fn stopping();
}

/// Says what the process does; in `post_config`. It ends with this configuration.
pub fn prepare<M: Manager>(conf: Pool<'_>, main: Server<'_>) {
    unsafe extern "C" fn run<M: Manager>() {
        guard("the manager", (), M::run);
    }
    unsafe extern "C" fn stopping<M: Manager>() {
        guard("the end of the manager", (), M::stopping);
    }
    // SAFETY: the pool of the configuration and the main server live as long as the process may be started.
    unsafe { ffi::httpd_shim_manager_prepare(conf.raw(), main.raw(), Some(run::<M>), Some(stopping::<M>)) };
}

/// Starts the prepared process. It is started again when it dies, with growing pauses. In the parent only: in
/// `post_config` of restarts and in `pre_mpm` of the first start. False if it could not be started.
pub fn start() -> bool {
    // SAFETY: no arguments; does nothing when nothing is prepared.
    unsafe { ffi::httpd_shim_manager_start() != 0 }
}

/// Waits for the order to end. False after `limit` without one.
pub fn wait_for_end(limit: Duration) -> bool {
    let time = libc::timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    // SAFETY: a set on the stack, filled by the two functions before it is read.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const time) > 0
    }
}

/// Workers of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Workers {
    /// Without a request.
    pub idle: u32,
    /// With one.
    pub busy: u32,
}

/// Counts the workers of all children. `None` before the server has any.
pub fn workers() -> Option<Workers> {
    let (mut idle, mut busy): (c_int, c_int) = (0, 0);
    // SAFETY: writes two ints; reads the scoreboard, which is shared memory.
    let known = unsafe { ffi::httpd_shim_workers(&raw mut idle, &raw mut busy) } != 0;
    let count = |n: c_int| u32::try_from(n).unwrap_or(0);
    known.then(|| Workers { idle: count(idle), busy: count(busy) })
}
