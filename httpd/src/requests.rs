//! Modules with a say in each request, and their settings of directories.
// spec: mod_backhand-httpd24 4, 5

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::ffi;
use crate::guard::guard;
use crate::module::{Hooks, Module, keep};
use crate::pool::Pool;
use crate::server::{Request, Server, bytes};

/// What a handler did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing: others may.
    Declined,
    /// The response is complete, or this code of another handler stands for it.
    Done(i32),
    /// Answer with this HTTP status.
    Status(u16),
}

impl Outcome {
    fn code(self) -> c_int {
        match self {
            Self::Declined => ffi::DECLINED,
            Self::Done(code) => code,
            Self::Status(status) => status.into(),
        }
    }
}

/// Settings of a section within another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merged<T> {
    /// Those around it.
    Base,
    /// Its own.
    Over,
    /// Something of both.
    New(T),
}

/// A module with a say in each request.
pub trait RequestModule: Module {
    /// Settings of a directory or location.
    type DirConfig: 'static;

    /// Settings before any directive was read.
    fn create_dir() -> Self::DirConfig;

    /// Settings of an inner section over those around it. Sections are merged for each request, so it is worth saying
    /// that one of the two holds as it is.
    fn merge_dir(base: &Self::DirConfig, over: &Self::DirConfig) -> Merged<Self::DirConfig>;

    /// In the parent, just before the first children, once in the life of the server.
    fn pre_mpm() {}

    /// A request was read. By any thread.
    fn post_read(_request: Request<'_>) {}

    /// A request is to be answered, before all other handlers. By any thread.
    fn handler(request: Request<'_>) -> Outcome;
}

impl<M: RequestModule> Hooks<'_, M> {
    /// Calls [`RequestModule::pre_mpm`], [`post_read`](RequestModule::post_read) and
    /// [`handler`](RequestModule::handler).
    pub fn requests(&self) {
        // SAFETY: registration functions copy their arguments; lists inside are static.
        unsafe {
            ffi::httpd_shim_hook_requests(Some(post_read::<M>), Some(handler::<M>), Some(pre_mpm::<M>));
        }
    }
}

/// The settings of a module for the place of a request.
pub fn dir_config<M: RequestModule>(request: Request<'_>) -> Option<&M::DirConfig> {
    // SAFETY: the vector of a live request holds what `create_dir` or `merge_dir` of this module made; it lives as long
    // as the request and does not change.
    unsafe {
        ffi::ap_get_module_config((*request.raw()).per_dir_config, M::raw()).cast::<M::DirConfig>().as_ref()
    }
}

/// The settings of a module for another path of the server, `/` at its beginning. `None` if a request for it would be
/// refused.
pub fn config_of_path<'a, M: RequestModule>(request: Request<'a>, path: &[u8]) -> Option<&'a M::DirConfig> {
    if !path.starts_with(b"/") {
        return None;
    }
    let path = request.pool().text(path);
    // SAFETY: a live request of this thread; the sub-request is only looked up, not run, and lives in the pool of the
    // request, as do the merged settings.
    unsafe {
        let sub = ffi::ap_sub_req_lookup_uri(path.as_ptr(), request.raw(), std::ptr::null_mut());
        if sub.is_null() || (*sub).status != ffi::HTTP_OK as c_int {
            return None;
        }
        dir_config::<M>(Request::from_raw(sub))
    }
}

/// The settings of a module outside of all sections of a server.
pub fn server_dir_config<M: RequestModule>(server: Server<'_>) -> Option<&M::DirConfig> {
    // SAFETY: as above, for a live server.
    unsafe {
        ffi::ap_get_module_config((*server.raw()).lookup_defaults, M::raw()).cast::<M::DirConfig>().as_ref()
    }
}

pub(crate) unsafe extern "C" fn create_dir<M: RequestModule>(
    p: *mut ffi::apr_pool_t,
    _path: *mut c_char,
) -> *mut c_void {
    // SAFETY: the server gives a live pool.
    let pool = unsafe { Pool::from_raw(p) };
    guard("create_dir", std::ptr::null_mut(), || keep(pool, M::create_dir()))
}

pub(crate) unsafe extern "C" fn merge_dir<M: RequestModule>(
    p: *mut ffi::apr_pool_t,
    base: *mut c_void,
    over: *mut c_void,
) -> *mut c_void {
    // SAFETY: the server gives a live pool and settings made by this module.
    let (pool, outer, inner) = unsafe {
        (Pool::from_raw(p), base.cast::<M::DirConfig>().as_ref(), over.cast::<M::DirConfig>().as_ref())
    };
    guard("merge_dir", std::ptr::null_mut(), || match (outer, inner) {
        (Some(outer), Some(inner)) => match M::merge_dir(outer, inner) {
            Merged::Base => base,
            Merged::Over => over,
            Merged::New(settings) => keep(pool, settings),
        },
        _ => std::ptr::null_mut(),
    })
}

unsafe extern "C" fn pre_mpm<M: RequestModule>(_: *mut ffi::apr_pool_t, _: ffi::ap_scoreboard_e) -> c_int {
    guard("pre_mpm", (), M::pre_mpm);
    ffi::OK as c_int
}

unsafe extern "C" fn post_read<M: RequestModule>(r: *mut ffi::request_rec) -> c_int {
    // SAFETY: a live request of this thread.
    let request = unsafe { Request::from_raw(r) };
    guard("post_read_request", (), || M::post_read(request));
    ffi::DECLINED
}

unsafe extern "C" fn handler<M: RequestModule>(r: *mut ffi::request_rec) -> c_int {
    // SAFETY: a live request of this thread.
    let request = unsafe { Request::from_raw(r) };
    guard("a handler", ffi::HTTP_INTERNAL_SERVER_ERROR as c_int, || M::handler(request).code())
}

/// A table of texts of a request. Names are compared without regard to case.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    raw: *mut ffi::apr_table_t,
    pool: Pool<'a>,
}

impl<'a> Table<'a> {
    /// The first value of a name.
    pub fn get(self, name: &CStr) -> Option<&'a [u8]> {
        // SAFETY: the table is live; its texts live as long as the request.
        unsafe { bytes(ffi::apr_table_get(self.raw, name.as_ptr())) }
    }

    /// All values of a name.
    pub fn all(self, name: &CStr) -> Vec<&'a [u8]> {
        // SAFETY: the table begins with an array of entries, `nelts` of them; texts as above.
        unsafe {
            let array = self.raw.cast::<ffi::apr_array_header_t>();
            let (count, entries) = ((*array).nelts, (*array).elts.cast::<ffi::apr_table_entry_t>());
            let count = usize::try_from(count).unwrap_or(0);
            (0..count)
                .map(|i| *entries.add(i))
                .filter(|e| bytes(e.key).is_some_and(|key| key.eq_ignore_ascii_case(name.to_bytes())))
                .filter_map(|e| bytes(e.val))
                .collect()
        }
    }

    /// Sets the only value of a name.
    pub fn set(self, name: &'static CStr, value: &[u8]) {
        self.put(name, self.pool.text(value));
    }

    /// As [`set`](Self::set), for a value that need not be copied.
    pub fn set_static(self, name: &'static CStr, value: &'static CStr) {
        self.put(name, value);
    }

    fn put(self, name: &'static CStr, value: &'a CStr) {
        // SAFETY: the table is live and keeps both pointers; the texts live as long as it does.
        unsafe { ffi::apr_table_setn(self.raw, name.as_ptr(), value.as_ptr()) };
    }

    /// Removes all values of a name.
    pub fn remove(self, name: &CStr) {
        // SAFETY: the table is live.
        unsafe { ffi::apr_table_unset(self.raw, name.as_ptr()) };
    }
}

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident),*) => {
        impl<'a> Request<'a> {
            $($(#[$doc])*
            pub fn $name(self) -> Table<'a> {
                // SAFETY: a live request; the table is always there.
                Table { raw: unsafe { (*self.raw()).$name }, pool: self.pool() }
            })*
        }
    };
}

tables! {
    /// Headers of the request.
    headers_in,
    /// Headers of a good response.
    headers_out,
    /// Headers of every response.
    err_headers_out,
    /// Texts for other modules; `%{name}n` in log formats.
    notes,
    /// Environment of scripts; `%{name}e` in log formats.
    subprocess_env
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident: $field:ident),*) => {
        impl<'a> Request<'a> {
            $($(#[$doc])*
            pub fn $name(self) -> &'a [u8] {
                // SAFETY: a live request, whose texts live as long.
                unsafe { bytes((*self.raw()).$field) }.unwrap_or_default()
            })*
        }
    };
}

texts! {
    /// Method.
    method: method,
    /// Target as received.
    unparsed_uri: unparsed_uri,
    /// The query, without its `?`.
    query: args,
    /// File or URL the request was mapped to.
    filename: filename,
    /// Host of the request, without port, lower case.
    hostname: hostname
}

impl<'a> Request<'a> {
    /// Whether the configuration chose this handler.
    pub fn has_handler(self, name: &CStr) -> bool {
        // SAFETY: a live request; the handler is null or NUL-terminated, and nothing is read behind the first byte that
        // differs, which is the NUL at the latest.
        unsafe {
            let handler = (*self.raw()).handler.cast::<u8>();
            !handler.is_null()
                && name.to_bytes_with_nul().iter().enumerate().all(|(at, byte)| *handler.add(at) == *byte)
        }
    }

    /// The request that the client sent, of which this one is an internal continuation; mostly itself.
    pub fn original(self) -> Self {
        std::iter::successors(Some(self), |r| r.previous()).last().unwrap_or(self)
    }

    /// The request that led to this one by an internal redirect.
    pub fn previous(self) -> Option<Self> {
        // SAFETY: a live request; earlier ones live as long.
        unsafe {
            let raw = (*self.raw()).prev;
            (!raw.is_null()).then(|| Self::from_raw(raw))
        }
    }

    /// When its first line was read, in microseconds since 1970.
    pub fn began(self) -> u64 {
        // SAFETY: a live request.
        u64::try_from(unsafe { (*self.raw()).request_time }).unwrap_or(0)
    }

    /// Whether it asks for a tunnel, or for itself as an answer.
    pub fn is_connect_or_trace(self) -> bool {
        // SAFETY: a live request.
        let method = unsafe { (*self.raw()).method_number };
        matches!(u32::try_from(method), Ok(ffi::M_CONNECT | ffi::M_TRACE))
    }

    /// False for a request that another module makes while it works on one.
    pub fn is_main(self) -> bool {
        // SAFETY: a live request.
        unsafe { (*self.raw()).main.is_null() }
    }

    /// Whether mod_proxy has it already.
    pub fn is_proxied(self) -> bool {
        // SAFETY: a live request.
        unsafe { (*self.raw()).proxyreq != 0 }
    }

    /// Status of the response so far; not 200 for an error document.
    pub fn status(self) -> i32 {
        // SAFETY: a live request.
        unsafe { (*self.raw()).status }
    }

    /// Address of the other end of the connection, which may be another server. One of IPv4 is one of IPv4, also on a
    /// socket of IPv6.
    pub fn peer(self) -> Option<IpAddr> {
        // SAFETY: a live request with its connection; its address is null or live, and points to `ipaddr_len` bytes.
        unsafe {
            let addr = (*(*self.raw()).connection).client_addr.as_ref()?;
            let bytes = addr.ipaddr_ptr.cast::<u8>();
            let addr = match addr.ipaddr_len {
                _ if bytes.is_null() => return None,
                4 => IpAddr::from(bytes.cast::<[u8; 4]>().read_unaligned()),
                16 => IpAddr::from(bytes.cast::<[u8; 16]>().read_unaligned()),
                _ => return None,
            };
            Some(addr.to_canonical())
        }
    }

    /// Address of the client, as access rules and logs see it.
    pub fn client(self) -> Option<IpAddr> {
        // SAFETY: as above.
        let text = unsafe { bytes((*self.raw()).useragent_ip) }?;
        std::str::from_utf8(text).ok()?.parse().ok()
    }

    /// Makes this the address of the client; `text` is the same, for people.
    pub fn set_client(self, addr: IpAddr, text: &[u8]) {
        let text = self.pool().text(text);
        let set = |octets: &[u8]| {
            // SAFETY: a live request of this thread, a NUL-terminated text of its pool, and 4 or 16 octets.
            unsafe {
                ffi::httpd_shim_set_client(
                    self.raw(),
                    octets.as_ptr().cast(),
                    octets.len() as ffi::apr_size_t,
                    text.as_ptr(),
                );
            }
        };
        match addr {
            IpAddr::V4(addr) => set(&addr.octets()),
            IpAddr::V6(addr) => set(&addr.octets()),
        }
    }

    /// Keeps the connection open after this request, whatever `KeepAlive` says.
    pub fn force_keepalive(self) {
        // SAFETY: a live request of this thread.
        unsafe { ffi::httpd_shim_force_keepalive(self.raw()) };
    }

    /// `http` or `https`, as the client sees it, and its usual port.
    pub fn scheme(self) -> (&'static str, u16) {
        // SAFETY: a live request; the result is null or a static text.
        let scheme = unsafe { bytes(ffi::ap_run_http_scheme(self.raw())) };
        if scheme == Some(b"https") { ("https", 443) } else { ("http", 80) }
    }

    /// Sets the type of the response's content.
    pub fn set_content_type(self, content_type: &'static CStr) {
        // SAFETY: a live request; the text is static.
        unsafe { ffi::ap_set_content_type(self.raw(), content_type.as_ptr()) };
    }

    /// Whether the method is HEAD.
    pub fn header_only(self) -> bool {
        // SAFETY: a live request.
        unsafe { (*self.raw()).header_only != 0 }
    }

    /// The plain pointer, for functions of other authors.
    pub fn as_ptr(self) -> *mut c_void {
        self.raw().cast()
    }

    /// Puts the mark of the module on the request. Internal continuations of it have none.
    pub fn mark<M: Module>(self) {
        // SAFETY: a live request of this thread. The module's own address serves as the mark.
        unsafe { ffi::ap_set_module_config((*self.raw()).request_config, M::raw(), M::raw().cast()) };
    }

    /// Whether the request has the mark of the module.
    pub fn is_marked<M: Module>(self) -> bool {
        // SAFETY: a live request of this thread; the vector has a place for each module.
        unsafe { !ffi::ap_get_module_config((*self.raw()).request_config, M::raw()).is_null() }
    }
}

/// A path relative to the server's folder for files of its run time.
pub fn runtime_path(pool: Pool<'_>, name: &CStr) -> Option<PathBuf> {
    // SAFETY: a live pool and a NUL-terminated text; the result is null or lives in the pool.
    let full = unsafe { bytes(ffi::ap_runtime_dir_relative(pool.raw(), name.as_ptr())) }?;
    Some(PathBuf::from(OsStr::from_bytes(full)))
}

/// Port of the first `Listen`.
pub fn first_port() -> Option<u16> {
    // SAFETY: the list of listeners is complete after the configuration was read and ends with null. New ones are put
    // in front, so the last one is the first of the configuration.
    unsafe {
        let mut raw = ffi::ap_listeners;
        let mut port = None;
        while !raw.is_null() {
            let addr = (*raw).bind_addr;
            if !addr.is_null() {
                port = Some((*addr).port);
            }
            raw = (*raw).next;
        }
        port
    }
}
