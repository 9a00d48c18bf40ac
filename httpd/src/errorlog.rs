//! Seeing what goes into the error log.
// spec: httpd-ffi 3.2

use crate::ffi;
use crate::guard::guard;
use crate::module::Module;
use crate::pool::Pool;
use crate::server::{Server, bytes};

/// What a module does with entries of the error log.
pub trait ErrorLog: Module {
    /// An entry was written. Called by any thread of any process of the server, also while it starts. What this logs
    /// comes here again: do not.
    fn entry(entry: &Entry<'_>);
}

/// One entry.
#[derive(Debug)]
pub struct Entry<'a> {
    info: &'a ffi::ap_errorlog_info,
    text: &'a [u8],
    own: bool,
}

impl<'a> Entry<'a> {
    /// The server that it is about.
    pub fn server(&self) -> Option<Server<'a>> {
        // SAFETY: null or a live record.
        (!self.info.s.is_null()).then(|| unsafe { Server::from_raw(self.info.s.cast_mut()) })
    }

    /// True for what the module itself logged.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// Its level: 0 is the most severe; without a level it counts as an error.
    pub fn level(&self) -> u32 {
        u32::try_from(self.info.level).map_or(ffi::APLOG_ERR, |level| level & ffi::APLOG_LEVELMASK)
    }

    /// Name of the module that logged it; `-` if none did.
    pub fn module(&self) -> String {
        // SAFETY: the function takes any index; the result is null or a text that lives as long as the module.
        let name = unsafe { bytes(ffi::ap_find_module_short_name(self.info.module_index)) };
        name.map_or_else(|| "-".into(), |name| String::from_utf8_lossy(name).into_owned())
    }

    /// Address and port of the client.
    pub fn client(&self) -> Option<String> {
        // SAFETY: null or live during the call, as are their texts and addresses.
        unsafe {
            let (ip, addr) = match (self.info.r.as_ref(), self.info.c.as_ref()) {
                (Some(r), _) => (bytes(r.useragent_ip)?, r.useragent_addr),
                (None, Some(c)) => (bytes(c.client_ip)?, c.client_addr),
                (None, None) => return None,
            };
            let ip = String::from_utf8_lossy(ip);
            Some(addr.as_ref().map_or_else(|| ip.to_string(), |addr| format!("{ip}:{}", addr.port)))
        }
    }

    /// The message, without the time and the rest that is before it in the file.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }
}

/// Calls [`ErrorLog::entry`] for every entry. In [`Module::register`].
pub fn listen<M: ErrorLog>(_pool: Pool<'_>) {
    // SAFETY: a registration function; the lists are null.
    unsafe {
        ffi::ap_hook_error_log(
            Some(entry::<M>),
            std::ptr::null(),
            std::ptr::null(),
            ffi::APR_HOOK_MIDDLE.cast_signed(),
        );
    }
}

unsafe extern "C" fn entry<M: ErrorLog>(info: *const ffi::ap_errorlog_info, text: *const std::ffi::c_char) {
    // SAFETY: the server gives a live structure and a NUL-terminated text; the module's structure is a static.
    let (info, text, index) =
        unsafe { (info.as_ref(), bytes(text).unwrap_or_default(), (*M::raw()).module_index) };
    let Some(info) = info else { return };
    guard("the error log", (), || M::entry(&Entry { info, text, own: info.module_index == index }));
}

/// Number that the system gives to this thread.
pub fn thread_id() -> i32 {
    // SAFETY: a plain query.
    unsafe { libc::gettid() }
}
