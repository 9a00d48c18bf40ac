//! Candidacy functions in shared objects.
//!
//! A function runs inside the server: a fault in it ends the child process, as in any module. What can be checked is:
//! the object before it is loaded, and the set after each call.
// spec: mod_backhand 6

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use backhand::chain::{External, Set};
use backhand::matrix::SLOTS_MAX;
use backhand::{Method, Servers};
use httpd::Request;

/// Most functions of shared objects in a configuration.
const FUNCTIONS_MAX: usize = 4096;

type Candidacy = unsafe extern "C" fn(*mut c_void, *mut c_int, *mut c_int, *mut c_char) -> c_int;

struct Object {
    handle: *mut c_void,
    function: Candidacy,
    argument: Option<CString>,
    /// May run in several threads at once.
    concurrent: bool,
}

// SAFETY: the handle and the function are addresses of a loaded object; calls that must not overlap take a lock.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: from `dlopen`, closed once. No request runs while the configuration is read anew.
        unsafe { libc::dlclose(self.handle) };
    }
}

static OBJECTS: RwLock<Vec<Object>> = RwLock::new(Vec::new());
/// Held while a function runs that is not made for several threads.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

thread_local! {
    /// The method that the running function chose.
    static METHOD: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// Before the configuration is read: closes all objects.
pub(crate) fn reset() {
    OBJECTS.write().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Opens an object and finds its function; gives its number.
pub(crate) fn load(path: &Path, symbol: &[u8], argument: Option<&[u8]>) -> Result<usize, String> {
    check_owner(path)?;
    let file = c_text(path.as_os_str().as_bytes())?;
    let symbol = c_text(symbol)?;
    let argument = argument.map(c_text).transpose()?;
    // SAFETY: runs the object's constructors: the administrator's choice, as with LoadModule.
    let handle = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(loader_error());
    }
    // SAFETY: a live handle and NUL-terminated names.
    let (function, concurrent) = unsafe {
        let flag = libc::dlsym(handle, c"backhand_threadsafe".as_ptr()).cast::<c_int>();
        (libc::dlsym(handle, symbol.as_ptr()), !flag.is_null() && *flag == 1)
    };
    if function.is_null() {
        let error = loader_error();
        // SAFETY: from `dlopen`.
        unsafe { libc::dlclose(handle) };
        return Err(error);
    }
    // SAFETY: the administrator names a function with the documented prototype.
    let function = unsafe { std::mem::transmute::<*mut c_void, Candidacy>(function) };
    let mut objects = OBJECTS.write().unwrap_or_else(PoisonError::into_inner);
    objects.push(Object { handle, function, argument, concurrent });
    if objects.len() > FUNCTIONS_MAX {
        objects.pop();
        return Err(format!("more than {FUNCTIONS_MAX} functions"));
    }
    Ok(objects.len() - 1)
}

/// Code is not taken from where others can put it.
fn check_owner(path: &Path) -> Result<(), String> {
    // SAFETY: no arguments, cannot fail.
    let own = unsafe { libc::geteuid() };
    for place in [Some(path), path.parent()].into_iter().flatten() {
        let meta = fs::metadata(place).map_err(|e| format!("{}: {e}", place.display()))?;
        if meta.mode() & 0o022 != 0 {
            return Err(format!("{} can be written by group or others", place.display()));
        }
        if meta.uid() != 0 && meta.uid() != own {
            return Err(format!("{} belongs to another user", place.display()));
        }
    }
    Ok(())
}

fn c_text(text: &[u8]) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a zero byte".to_owned())
}

fn loader_error() -> String {
    // SAFETY: null or a text that lives until the next call of the loader by this thread.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            return "cannot be loaded".to_owned();
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// Runs functions of shared objects for a request.
pub(crate) struct Objects<'a>(pub(crate) Request<'a>);

impl External for Objects<'_> {
    #[inline(never)]
    fn call(&mut self, id: usize, set: &mut Set, servers: &dyn Servers) -> Result<Option<Method>, String> {
        let objects = OBJECTS.read().unwrap_or_else(PoisonError::into_inner);
        let object = objects.get(id).ok_or("the function is not loaded")?;
        let _one = (!object.concurrent).then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
        // Room for all slots there can be, whatever is configured: a function that errs by little stays inside.
        let mut slots = vec![-1 as c_int; SLOTS_MAX];
        for (place, slot) in slots.iter_mut().zip(&*set) {
            *place = c_int::from(*slot);
        }
        let mut count = c_int::try_from(set.len()).unwrap_or(0);
        let argument =
            object.argument.as_ref().map_or(std::ptr::null(), |a| self.0.pool().text(a.as_bytes()).as_ptr());
        METHOD.set(None);
        // SAFETY: the documented prototype: a live request, room for all slots, the count, a copy of the argument.
        let result = unsafe {
            (object.function)(self.0.as_ptr(), slots.as_mut_ptr(), &raw mut count, argument.cast_mut())
        };
        let method = METHOD.take();
        if result < 0 {
            return Err(format!("it returned {result}"));
        }
        let entries = usize::try_from(count).ok().and_then(|n| slots.get(..n));
        let entries = entries.ok_or_else(|| format!("it left {count} servers"))?;
        set.clear();
        for entry in entries {
            let slot = u16::try_from(*entry).ok().filter(|slot| servers.figures(*slot).is_some());
            let slot = slot.ok_or_else(|| format!("it chose server {entry}, which there is not"))?;
            if !set.contains(&slot) {
                set.push(slot);
            }
        }
        Ok(method.and_then(|m| match m {
            0 => Some(Method::Proxy),
            1 => Some(Method::RedirectToName(None)),
            2 => Some(Method::RedirectToIp),
            _ => None,
        }))
    }
}

/// Version of the interface for functions in shared objects.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn backhand_api_version() -> c_int {
    1
}

/// Number of this server.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn backhand_self() -> c_int {
    0
}

/// Room of the array of candidates.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn backhand_max_servers() -> c_int {
    c_int::try_from(SLOTS_MAX).unwrap_or(c_int::MAX)
}

/// Chooses the method for the request under decision: 0 proxy, 1 redirect by name, 2 by address. Returns 0, or -1 for
/// another number.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn backhand_set_method(_request: *mut c_void, method: c_int) -> c_int {
    if (0..=2).contains(&method) {
        METHOD.set(Some(method));
        0
    } else {
        -1
    }
}
