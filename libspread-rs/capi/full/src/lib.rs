//! `libspread.so.3`: the functions of the crate `spread-capi` and the flush layer, `FL_`.
//!
//! The protocol is `spread::flush::Engine`; here are its mailboxes and the outputs of the receive call.
//!
//! Source: `spec/flush-api.md`.
//!
//! # Safety
//!
//! All exported functions take pointers as the C prototypes in `include/fl.h` say.

pub mod receive;
pub mod send;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spread::GroupName;
use spread::flush::{Engine, Event, FlushError, Output};
use spread_capi::guard;
use spread_capi::layer::{self, bytes_of_c};
use spread_wire::codes;

use receive::Parts;

pub use spread_capi::{
    connect, events, membership, misc, receive as sp_receive, send as sp_send, session, types,
};

const FLUSH_REQ_MESS: u32 = 0x2000_0000;
const ILLEGAL_PARAM: c_int = -24;
const WOULD_BLOCK: c_int = -25;
const ILLEGAL_MESSAGE_TYPE: c_int = -26;
const ILLEGAL_STATE: c_int = -27;
const ILLEGAL_RECEIVERS: c_int = -28;

/// A connection of this layer. Its lock is held while a message is read or written, never in the wait for one.
struct Connection {
    own: GroupName,
    /// Tells connections with the same descriptor number apart.
    id: u64,
    state: Mutex<State>,
}

struct State {
    engine: Engine,
    events: VecDeque<Event>,
}

static NEXT: AtomicU64 = AtomicU64::new(0);
static CONNECTIONS: Mutex<BTreeMap<c_int, Arc<Connection>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find(mbox: c_int) -> Option<Arc<Connection>> {
    lock(&CONNECTIONS).get(&mbox).cloned()
}

/// Frees a mailbox whose connection is gone; gives the code for the call that met it.
fn give_up(mbox: c_int) -> c_int {
    lock(&CONNECTIONS).remove(&mbox);
    layer::disconnect(mbox);
    codes::CONNECTION_CLOSED
}

fn is_gone(code: c_int) -> bool {
    matches!(code, codes::CONNECTION_CLOSED | codes::ILLEGAL_SESSION | codes::NET_ERROR_ON_SESSION)
}

/// Sends what the engine wants sent and queues what it delivers; the result of the last send.
fn perform(mbox: c_int, state: &mut State) -> c_int {
    let mut result = 0;
    while let Some(output) = state.engine.poll_output() {
        match output {
            Output::Deliver(event) => state.events.push_back(event),
            Output::Send(out) => {
                result = layer::send(mbox, out.service_type, &out.groups, out.message_type, &out.data);
            }
        }
    }
    result
}

/// Runs a command on a connection: 0, or the code of what went wrong.
fn command(mbox: c_int, run: impl FnOnce(&mut Engine) -> Result<(), FlushError>) -> c_int {
    let Some(connection) = find(mbox) else { return codes::ILLEGAL_SESSION };
    let code = {
        let mut state = lock(&connection.state);
        match run(&mut state.engine) {
            Ok(()) => perform(mbox, &mut state),
            Err(error) => error.code(),
        }
    };
    if is_gone(code) { give_up(mbox) } else { code.min(0) }
}

/// To be called once before threads start; 0, later -27. Everything works without it.
#[unsafe(no_mangle)]
pub extern "C" fn FL_lib_init() -> c_int {
    static CALLED: AtomicBool = AtomicBool::new(false);
    if CALLED.swap(true, Ordering::Relaxed) { ILLEGAL_STATE } else { 0 }
}

/// Tells the version of the layer.
///
/// # Safety
///
/// Numbers to be written to, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_version(major: *mut c_int, minor: *mut c_int, patch: *mut c_int) {
    for (to, number) in [(major, 2), (minor, 0), (patch, 0)] {
        if !to.is_null() {
            // SAFETY: a number.
            unsafe { *to = number };
        }
    }
}

/// Prints a code and its text to standard output.
#[unsafe(no_mangle)]
pub extern "C" fn FL_error(error: c_int) {
    let text = match error {
        ILLEGAL_PARAM => c"illegal parameter",
        WOULD_BLOCK => c"no message, and the call was not to wait",
        ILLEGAL_MESSAGE_TYPE => c"message types below -32765 are reserved",
        ILLEGAL_STATE => c"not in this flush state",
        ILLEGAL_RECEIVERS => c"a receiver is not in the current view",
        _ => return misc::SP_error(error),
    };
    // SAFETY: the format fits the arguments.
    unsafe { libc::printf(c"FL_error: (%d) %s\n".as_ptr(), error, text.as_ptr()) };
}

/// Connects, with membership messages.
///
/// # Safety
///
/// Strings or null; `mbox` and `private_name` (32 bytes) to be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_connect(
    daemon_name: *const c_char,
    user_name: *const c_char,
    priority: c_int,
    mbox: *mut c_int,
    private_name: *mut c_char,
) -> c_int {
    guard(|| {
        // SAFETY: strings or null.
        let (address, name) = unsafe { (bytes_of_c(daemon_name), bytes_of_c(user_name)) };
        match layer::connect(address, name, priority, None) {
            Err(code) => code,
            Ok((fd, own)) => {
                let state = State { engine: Engine::new(own), events: VecDeque::new() };
                let id = NEXT.fetch_add(1, Ordering::Relaxed);
                lock(&CONNECTIONS).insert(fd, Arc::new(Connection { own, id, state: Mutex::new(state) }));
                // SAFETY: room for 32 bytes.
                unsafe {
                    layer::write_private_group(private_name, &own);
                    if !mbox.is_null() {
                        *mbox = fd;
                    }
                }
                codes::ACCEPT_SESSION
            }
        }
    })
}

/// Ends a connection: 0, or -11. A thread that waits in a receive gets -8.
#[unsafe(no_mangle)]
pub extern "C" fn FL_disconnect(mbox: c_int) -> c_int {
    guard(|| match lock(&CONNECTIONS).remove(&mbox) {
        None => codes::ILLEGAL_SESSION,
        Some(_) => {
            layer::disconnect(mbox);
            0
        }
    })
}

unsafe fn group_command(
    mbox: c_int,
    group: *const c_char,
    run: impl FnOnce(&mut Engine, GroupName) -> Result<(), FlushError>,
) -> c_int {
    guard(|| {
        if find(mbox).is_none() {
            return codes::ILLEGAL_SESSION;
        }
        // SAFETY: a string or null.
        match GroupName::new(unsafe { bytes_of_c(group) }) {
            Ok(group) => command(mbox, |engine| run(engine, group)),
            Err(_) => codes::ILLEGAL_GROUP,
        }
    })
}

/// Joins a group: 0, or an error.
///
/// # Safety
///
/// A string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_join(mbox: c_int, group: *const c_char) -> c_int {
    // SAFETY: passed on.
    unsafe { group_command(mbox, group, Engine::join) }
}

/// Leaves a group: 0, or an error.
///
/// # Safety
///
/// A string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_leave(mbox: c_int, group: *const c_char) -> c_int {
    // SAFETY: passed on.
    unsafe { group_command(mbox, group, Engine::leave) }
}

/// Answers a flush request: 0, or an error.
///
/// # Safety
///
/// A string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn FL_flush(mbox: c_int, group: *const c_char) -> c_int {
    // SAFETY: passed on.
    unsafe { group_command(mbox, group, Engine::flush) }
}

/// Gives the number of messages that are queued in the library.
#[unsafe(no_mangle)]
pub extern "C" fn FL_more_msgs(mbox: c_int) -> c_int {
    guard(|| match find(mbox) {
        None => codes::ILLEGAL_SESSION,
        Some(connection) => c_int::try_from(lock(&connection.state).events.len()).unwrap_or(c_int::MAX),
    })
}

/// Tells whether something is there: not zero if so. It may be an internal message.
#[unsafe(no_mangle)]
pub extern "C" fn FL_poll(mbox: c_int) -> c_int {
    guard(|| match find(mbox) {
        None => codes::ILLEGAL_SESSION,
        Some(connection) => {
            let state = lock(&connection.state);
            let queued: usize =
                state.events.iter().map(|event| Parts::of(event, connection.own).body.len() + 48).sum();
            let socket = spread_capi::receive::SP_poll(mbox);
            if socket < 0 {
                socket
            } else {
                socket.saturating_add(c_int::try_from(queued).unwrap_or(c_int::MAX))
            }
        }
    })
}

/// Where the id stands in the body of a view.
#[unsafe(no_mangle)]
pub extern "C" fn FL_get_gid_offset_memb_mess() -> c_int {
    0
}

/// Where the number of names stands in the body of a view.
#[unsafe(no_mangle)]
pub extern "C" fn FL_get_num_vs_offset_memb_mess() -> c_int {
    12
}

/// Where the names stand in the body of a view.
#[unsafe(no_mangle)]
pub extern "C" fn FL_get_vs_set_offset_memb_mess() -> c_int {
    16
}
