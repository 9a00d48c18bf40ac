//! Requests sent to another server through mod_proxy, with connections that stay open.
//!
//! mod_proxy may be absent and may be loaded later than the module on top of this layer: its functions are looked up
//! when the configuration is read.
// spec: mod_backhand-httpd24 6

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::net::{IpAddr, SocketAddr};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::ffi;
use crate::module::Module;
use crate::pool::Pool;
use crate::server::{Request, Server};

/// Looks for mod_proxy on behalf of the module `M`; in `pre_config`, once per reading of the configuration. False when
/// it is not loaded.
pub fn find<M: Module>() -> bool {
    // SAFETY: looks names up; one thread reads the configuration.
    unsafe {
        let found = ffi::httpd_shim_proxy_find(M::raw()) != 0;
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
    settings: Connections,
    known: Mutex<BTreeMap<SocketAddr, &'static Worker>>,
    /// Some of them, found without the lock and with one look at memory; null or for ever valid.
    recent: [AtomicPtr<Worker>; RECENT],
}

/// Places for workers that are found at once: more than usual clusters have servers.
const RECENT: usize = 64;

#[derive(Debug)]
struct Worker {
    addr: SocketAddr,
    raw: NonNull<std::ffi::c_void>,
    /// What a request is mapped to, up to its path; in the pool of the workers.
    url: &'static CStr,
}

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
        // SAFETY: mod_proxy was found, and the child has no other threads yet.
        unsafe { ffi::httpd_shim_proxy_ready() };
        let main = NonNull::new(main.raw())?;
        let recent = std::array::from_fn(|_| AtomicPtr::default());
        Some(Self { pool, main, settings, known: Mutex::default(), recent })
    }

    fn worker(&self, addr: SocketAddr) -> Option<&'static Worker> {
        let last = match addr.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        let place = self.recent.get(usize::from(u16::from(last) ^ addr.port()) % RECENT)?;
        // SAFETY: null or a worker that is never freed.
        let recent = unsafe { place.load(Acquire).as_ref() };
        if recent.is_some_and(|worker| worker.addr == addr) {
            return recent;
        }
        let worker = self.find_or_make(addr)?;
        place.store(ptr::from_ref(worker).cast_mut(), Release);
        Some(worker)
    }

    #[cold]
    fn find_or_make(&self, addr: SocketAddr) -> Option<&'static Worker> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = known.get(&addr) {
            return Some(worker);
        }
        if known.len() >= WORKERS_MAX {
            return None;
        }
        let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        let Connections { connect, idle, reuse } = self.settings;
        // SAFETY: the pool lives as long as the child; the lock is held, so one thread makes a worker.
        let (raw, url) = unsafe {
            let pool = Pool::from_raw(self.pool.as_ptr());
            let address = pool.text(format!("http://{addr}").as_bytes());
            let (raw_pool, main) = (self.pool.as_ptr(), self.main.as_ptr());
            let (connect, idle) = (micros(connect), micros(idle));
            let raw =
                ffi::httpd_shim_proxy_worker(raw_pool, main, address.as_ptr(), connect, idle, reuse.into());
            (raw, pool.join(b"proxy:", address.to_bytes()))
        };
        let worker: &Worker = Box::leak(Box::new(Worker { addr, raw: NonNull::new(raw)?, url }));
        known.insert(addr, worker);
        Some(worker)
    }

    /// Sends the request to `addr` with this target (path and query as they were received; it begins with `/`), the
    /// client's `Host` included. All handlers run again: the caller's own must step aside. The mark of the module is on
    /// the request then. With `repeatable` a lost connection is reported on every connection of the client, so that
    /// another server can be tried.
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
        let url = request.pool().join(worker.url.to_bytes(), target);
        let code = request.mod_proxy(worker.raw, url, repeatable);
        let unanswered = request.unanswered();
        Some(match code {
            c if c == ffi::OK as i32 || c == ffi::DONE || !unanswered => Attempt::Answered(c),
            503 => Attempt::NoConnection,
            c => Attempt::Broken(c),
        })
    }
}

impl Request<'_> {
    /// The address is of the pool of the request.
    fn mod_proxy(self, worker: NonNull<std::ffi::c_void>, url: &CStr, silent: bool) -> i32 {
        // SAFETY: the request is live and this thread's; the worker lives as long as the child. The server may write
        // to the address, which is memory of the request that nobody else reads meanwhile.
        unsafe {
            ffi::httpd_shim_proxy_try(self.raw(), worker.as_ptr(), url.as_ptr().cast_mut(), silent.into())
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
