//! Requests sent to another server through mod_proxy, with connections that stay open.
//!
//! mod_proxy may be absent and may be loaded later than the module on top of this layer: its functions are looked up
//! when the configuration is read.
// spec: mod_backhand-httpd24 6

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::ffi;
use crate::pool::Pool;
use crate::server::{Request, Server};

/// Looks for mod_proxy; in `pre_config`, once per reading of the configuration. False when it is not loaded.
pub fn find() -> bool {
    // SAFETY: looks names up; one thread reads the configuration.
    unsafe {
        let found = ffi::httpd_shim_proxy_find() != 0;
        if found {
            ffi::httpd_shim_proxy_hook();
        }
        found
    }
}

/// Settings of connections to other servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connections {
    /// Limit for making one.
    pub connect: Duration,
    /// An idle one is kept so long; less than the other server's `KeepAliveTimeout`.
    pub idle: Duration,
    /// Whether they are kept at all.
    pub reuse: bool,
}

/// Most servers with connections of their own.
const WORKERS_MAX: usize = 4096;

/// The servers that a child has connections to. Never freed before the child ends.
#[derive(Debug)]
pub struct Workers {
    pool: NonNull<ffi::apr_pool_t>,
    main: NonNull<ffi::server_rec>,
    overlay: NonNull<std::ffi::c_void>,
    settings: Connections,
    known: Mutex<BTreeMap<SocketAddr, Worker>>,
}

#[derive(Clone, Copy, Debug)]
struct Worker(NonNull<std::ffi::c_void>);

// SAFETY: the pool has a lock and an allocator of its own, the other pointers are read only, and a worker of mod_proxy
// is made for use by several threads.
unsafe impl Send for Workers {}
// SAFETY: as above.
unsafe impl Sync for Workers {}

/// Result of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// The other server answered; hand this to the server as the result of the handler.
    Answered(i32),
    /// No connection could be made. The request is untouched.
    NoConnection,
    /// The connection broke before anything was answered. The request is untouched, but what was sent of its body is
    /// lost to the other server.
    Broken(i32),
}

impl Workers {
    /// None yet. In `child_init`, only after [`find`] found mod_proxy.
    pub fn new(child: Pool<'_>, main: Server<'_>, settings: Connections) -> Option<Self> {
        let pool = child.shared()?;
        // SAFETY: mod_proxy was found; the pool is live and lives as long as the child.
        let overlay = NonNull::new(unsafe { ffi::httpd_shim_proxy_overlay(pool.as_ptr()) })?;
        let main = NonNull::new(main.raw())?;
        Some(Self { pool, main, overlay, settings, known: Mutex::default() })
    }

    fn worker(&self, addr: SocketAddr) -> Option<Worker> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = known.get(&addr) {
            return Some(*worker);
        }
        if known.len() >= WORKERS_MAX {
            return None;
        }
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        let Connections { connect, idle, reuse } = self.settings;
        // SAFETY: the pool lives as long as the child; the lock is held, so one thread makes a worker.
        let worker = unsafe {
            let url = Pool::from_raw(self.pool.as_ptr()).text(format!("http://{addr}").as_bytes());
            let (pool, main) = (self.pool.as_ptr(), self.main.as_ptr());
            let (connect, idle) = (micros(connect), micros(idle));
            ffi::httpd_shim_proxy_worker(pool, main, url.as_ptr(), connect, idle, reuse.into())
        };
        let worker = Worker(NonNull::new(worker)?);
        known.insert(addr, worker);
        Some(worker)
    }

    /// Sends the request to `addr` with this target (path and query as they were received; it begins with `/`), the
    /// client's `Host` included. All handlers run again: the caller's own must step aside. With `repeatable` a lost
    /// connection is reported on every connection of the client, so that another server can be tried.
    ///
    /// `None` when mod_proxy gives no worker.
    pub fn attempt(
        &self,
        request: Request<'_>,
        addr: SocketAddr,
        target: &[u8],
        repeatable: bool,
    ) -> Option<Attempt> {
        let worker = self.worker(addr)?;
        let url = [format!("proxy:http://{addr}").as_bytes(), target].concat();
        let url = request.pool().text(&url);
        let code = request.mod_proxy(worker.0, url, self.overlay, repeatable);
        let unanswered = request.unanswered();
        Some(match code {
            c if c == ffi::OK as i32 || c == ffi::DONE || !unanswered => Attempt::Answered(c),
            503 => Attempt::NoConnection,
            c => Attempt::Broken(c),
        })
    }
}

impl Request<'_> {
    fn mod_proxy(
        self,
        worker: NonNull<std::ffi::c_void>,
        url: &std::ffi::CStr,
        overlay: NonNull<std::ffi::c_void>,
        silent: bool,
    ) -> i32 {
        // SAFETY: the request is live and this thread's; worker and overlay live as long as the child.
        unsafe {
            let (worker, overlay) = (worker.as_ptr(), overlay.as_ptr());
            ffi::httpd_shim_proxy_try(self.raw(), worker, url.as_ptr(), overlay, silent.into())
        }
    }

    /// Whether nothing of the response has been sent.
    pub fn unanswered(self) -> bool {
        // SAFETY: the request is live and this thread's.
        unsafe { ffi::httpd_shim_unanswered(self.raw()) != 0 }
    }

    /// After failed attempts: gives what was read of the body to the local handler.
    pub fn replay_body(self) {
        // SAFETY: the request is live and this thread's.
        unsafe { ffi::httpd_shim_replay_body(self.raw()) };
    }
}
