//! Connecting and authentication (spec: c-api 4.2, 4.3).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use spread::Address;
use spread_wire::limits::{AUTH_CHOICE, AUTH_SLOT, AUTH_SLOTS, GROUP_FIELD, PRIVATE_NAME_MAX};
use spread_wire::{GroupName, codes};

use crate::guard;
use crate::session;
use crate::sys::{Deadline, after, read_exact, wait, write_now};
use crate::types::SpTime;

/// What the library says it is.
const VERSION: [u8; 3] = [5, 0, 1];
/// Size the socket buffers are raised to, in bytes.
const SOCKET_BUFFER: c_int = 200 * 1024;
/// Pause between attempts on a Unix socket whose daemon has a full backlog.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// An authentication function of the program.
pub type AuthFunction = extern "C" fn(c_int, *mut c_void) -> c_int;

struct AuthMethod {
    name: Vec<u8>,
    function: AuthFunction,
    /// A pointer of the program, given back to its function as it is.
    data: usize,
}

extern "C" fn null_auth(_fd: c_int, _data: *mut c_void) -> c_int {
    1
}

static METHODS: Mutex<Option<Vec<AuthMethod>>> = Mutex::new(None);

/// The bytes of a C string; none for null.
///
/// # Safety
///
/// Null or a string that lives on.
pub unsafe fn bytes_of_c<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: not null, so a string.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// Sets one authentication method for all connects to come. 1, or 0 if it is refused.
///
/// # Safety
///
/// A name that is a string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_set_auth_method(
    name: *const c_char,
    function: Option<AuthFunction>,
    data: *mut c_void,
) -> c_int {
    let (names, functions, data) = ([name], [function], [data]);
    // SAFETY: arrays of one.
    unsafe { SP_set_auth_methods(1, names.as_ptr(), functions.as_ptr(), data.as_ptr()) }
}

/// Sets up to three authentication methods. 1, or 0 if they are refused; nothing has changed then.
///
/// # Safety
///
/// Arrays of `count` elements; names that are strings or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_set_auth_methods(
    count: c_int,
    names: *const *const c_char,
    functions: *const Option<AuthFunction>,
    data: *const *mut c_void,
) -> c_int {
    let code = guard(|| {
        session::init();
        let Ok(count) = usize::try_from(count) else { return 0 };
        if count > AUTH_SLOTS || (count > 0 && (names.is_null() || functions.is_null())) {
            return 0;
        }
        let mut methods = Vec::new();
        for i in 0..count {
            // SAFETY: the arrays have `count` elements.
            let (name, function, data) = unsafe {
                let data = if data.is_null() { std::ptr::null_mut() } else { *data.add(i) };
                (*names.add(i), *functions.add(i), data)
            };
            // SAFETY: a string or null.
            let bytes = unsafe { bytes_of_c(name) };
            let Some(function) = function else { return 0 };
            if name.is_null() || bytes.len() >= AUTH_SLOT {
                return 0;
            }
            methods.push(AuthMethod { name: bytes.to_vec(), function, data: data.expose_provenance() });
        }
        *METHODS.lock().unwrap_or_else(PoisonError::into_inner) = Some(methods);
        1
    });
    c_int::from(code == 1)
}

/// Connects without limit of time.
///
/// # Safety
///
/// Strings or null; `mbox` and `private_group` (32 bytes) to be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_connect(
    spread_name: *const c_char,
    private_name: *const c_char,
    priority: c_int,
    group_membership: c_int,
    mbox: *mut c_int,
    private_group: *mut c_char,
) -> c_int {
    let no_limit = SpTime::default();
    // SAFETY: the arguments are passed on.
    unsafe {
        SP_connect_timeout(
            spread_name,
            private_name,
            priority,
            group_membership,
            mbox,
            private_group,
            no_limit,
        )
    }
}

/// Connects within a limit of time; zero is none.
///
/// # Safety
///
/// Strings or null; `mbox` and `private_group` (32 bytes) to be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn SP_connect_timeout(
    spread_name: *const c_char,
    private_name: *const c_char,
    priority: c_int,
    group_membership: c_int,
    mbox: *mut c_int,
    private_group: *mut c_char,
    time_out: SpTime,
) -> c_int {
    guard(|| {
        let Some(limit) = limit_of(time_out) else { return codes::ILLEGAL_TIME };
        // SAFETY: strings or null.
        let (address, name) = unsafe { (bytes_of_c(spread_name), bytes_of_c(private_name)) };
        match connect(address, name, priority, group_membership != 0, limit) {
            Err(code) => code,
            Ok((fd, own)) => {
                session::insert(fd, own);
                // SAFETY: room for 32 bytes; exactly the name and a zero are written.
                unsafe {
                    write_private_group(private_group, &own);
                    if !mbox.is_null() {
                        *mbox = fd;
                    }
                }
                codes::ACCEPT_SESSION
            }
        }
    })
}

/// Writes the name and a zero, nothing behind them.
///
/// # Safety
///
/// Null, or room for 32 bytes.
pub unsafe fn write_private_group(to: *mut c_char, own: &GroupName) {
    let bytes = own.as_bytes();
    let len = bytes.len().min(GROUP_FIELD - 1);
    if !to.is_null() {
        // SAFETY: at most 32 bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr().cast(), to, len);
            *to.add(len) = 0;
        }
    }
}

/// `None`: malformed. `Some(None)`: no limit.
fn limit_of(time: SpTime) -> Option<Option<Duration>> {
    let SpTime { sec, usec } = time;
    if (sec > 0 && usec < 0) || (sec < 0 && usec > 0) || usec.unsigned_abs() >= 1_000_000 {
        return None;
    }
    if sec == 0 && usec == 0 {
        return Some(None);
    }
    // A negative limit has passed.
    let duration = Duration::from_secs(u64::try_from(sec).unwrap_or(0));
    Some(Some(duration + Duration::from_micros(u64::try_from(usec).unwrap_or(0))))
}

/// A socket that is closed unless the session comes about.
struct Socket(c_int);

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: ours.
        unsafe { libc::close(self.0) };
    }
}

/// Makes a session: its descriptor and its private group, or the code of the C interface.
pub(crate) fn connect(
    address: &[u8],
    name: &[u8],
    priority: c_int,
    membership: bool,
    limit: Option<Duration>,
) -> Result<(c_int, GroupName), c_int> {
    session::init();
    let text = str::from_utf8(address).map_err(|_| codes::ILLEGAL_SPREAD)?;
    let address: Address = text.parse().map_err(|_| codes::ILLEGAL_SPREAD)?;
    if session::is_full() {
        return Err(codes::REJECT_QUOTA);
    }
    // The look-up of the name has no limit and is not counted.
    let places = places(&address)?;
    let deadline = limit.map(|limit| after(limit).unwrap_or_else(Instant::now));
    let mut last = codes::COULD_NOT_CONNECT;
    for place in &places {
        match open(place, deadline) {
            Ok(socket) => {
                let own = handshake(&socket, name, priority, membership, deadline)?;
                set_nonblocking(&socket, false).map_err(|_| codes::COULD_NOT_CONNECT)?;
                let fd = socket.0;
                std::mem::forget(socket);
                return Ok((fd, own));
            }
            Err(code) => last = code,
        }
        if last == codes::CONNECTION_CLOSED {
            break;
        }
    }
    Err(last)
}

enum Place {
    Unix(std::path::PathBuf),
    Tcp(SocketAddr),
}

fn places(address: &Address) -> Result<Vec<Place>, c_int> {
    match address {
        Address::Unix(path) => Ok(vec![Place::Unix(path.clone())]),
        Address::Tcp { host, port } => {
            let addrs = (host.as_str(), *port).to_socket_addrs().map_err(|_| codes::ILLEGAL_SPREAD)?;
            Ok(addrs.map(Place::Tcp).collect())
        }
        // Programs wait for the mailbox with `select` and may read it themselves: there is no room for TLS.
        _ => Err(codes::ILLEGAL_SPREAD),
    }
}

fn open(place: &Place, deadline: Deadline) -> Result<Socket, c_int> {
    loop {
        let (family, addr, len) = match place {
            Place::Unix(path) => unix_address(path).ok_or(codes::COULD_NOT_CONNECT)?,
            Place::Tcp(addr) => tcp_address(addr),
        };
        // SAFETY: plain numbers. The descriptor is inherited by programs started from this one, as it always was.
        let fd = unsafe { libc::socket(family, libc::SOCK_STREAM, 0) };
        if fd < 0 {
            return Err(codes::COULD_NOT_CONNECT);
        }
        let socket = Socket(fd);
        set_options(&socket, matches!(place, Place::Tcp(_)));
        set_nonblocking(&socket, true).map_err(|_| codes::COULD_NOT_CONNECT)?;
        // SAFETY: the address is valid for its length.
        if unsafe { libc::connect(fd, (&raw const addr).cast(), len) } == 0 {
            return Ok(socket);
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EINPROGRESS | libc::EINTR) => {
                match wait(fd, libc::POLLOUT, deadline) {
                    Ok(true) => {}
                    Ok(false) => return Err(codes::CONNECTION_CLOSED),
                    Err(_) => return Err(codes::COULD_NOT_CONNECT),
                }
                let mut error: c_int = 0;
                let mut len = libc::socklen_t::try_from(size_of::<c_int>()).unwrap_or(4);
                // SAFETY: room for one number.
                unsafe {
                    libc::getsockopt(
                        fd,
                        libc::SOL_SOCKET,
                        libc::SO_ERROR,
                        (&raw mut error).cast(),
                        &raw mut len,
                    )
                };
                return if error == 0 { Ok(socket) } else { Err(codes::COULD_NOT_CONNECT) };
            }
            // The backlog of a Unix socket is full; the system offers no way to wait for it.
            Some(libc::EAGAIN) => {
                if deadline.is_some_and(|at| Instant::now() >= at) {
                    return Err(codes::CONNECTION_CLOSED);
                }
                thread::sleep(BACKLOG_PAUSE);
            }
            _ => return Err(codes::COULD_NOT_CONNECT),
        }
    }
}

type RawAddress = (c_int, libc::sockaddr_storage, libc::socklen_t);

fn zeroed_address() -> libc::sockaddr_storage {
    // SAFETY: an address of zeros is valid: of no family.
    unsafe { std::mem::zeroed() }
}

fn socklen(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).unwrap_or(libc::socklen_t::MAX)
}

fn unix_address(path: &Path) -> Option<RawAddress> {
    let mut storage = zeroed_address();
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: a sockaddr_storage has room and alignment for every kind of address.
    let addr = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_un>() };
    if bytes.len() >= addr.sun_path.len() {
        return None;
    }
    addr.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).ok()?;
    for (to, from) in addr.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Some((libc::AF_UNIX, storage, socklen(size_of::<libc::sockaddr_un>())))
}

fn tcp_address(addr: &SocketAddr) -> RawAddress {
    let mut storage = zeroed_address();
    match addr {
        SocketAddr::V4(v4) => {
            // SAFETY: a sockaddr_storage has room and alignment for every kind of address.
            let to = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
            to.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            (libc::AF_INET, storage, socklen(size_of::<libc::sockaddr_in>()))
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let to = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or_default();
            to.sin6_port = v6.port().to_be();
            to.sin6_addr.s6_addr = v6.ip().octets();
            to.sin6_scope_id = v6.scope_id();
            (libc::AF_INET6, storage, socklen(size_of::<libc::sockaddr_in6>()))
        }
    }
}

/// Options that fail cost speed, not correctness.
fn set_options(socket: &Socket, tcp: bool) {
    let set = |level, option, value: c_int| {
        let len = socklen(size_of::<c_int>());
        // SAFETY: one number.
        unsafe { libc::setsockopt(socket.0, level, option, (&raw const value).cast(), len) };
    };
    set(libc::SOL_SOCKET, libc::SO_SNDBUF, SOCKET_BUFFER);
    set(libc::SOL_SOCKET, libc::SO_RCVBUF, SOCKET_BUFFER);
    if tcp {
        set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    }
}

fn set_nonblocking(socket: &Socket, on: bool) -> io::Result<()> {
    // SAFETY: plain numbers.
    let ok = unsafe {
        let flags = libc::fcntl(socket.0, libc::F_GETFL);
        let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        libc::fcntl(socket.0, libc::F_SETFL, flags) == 0
    };
    if ok { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn write_all(socket: &Socket, mut bytes: &[u8], deadline: Deadline) -> Result<(), c_int> {
    while !bytes.is_empty() {
        match write_now(socket.0, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait(socket.0, libc::POLLOUT, deadline).unwrap_or(false) {
                    return Err(codes::CONNECTION_CLOSED);
                }
            }
            Err(_) => return Err(codes::CONNECTION_CLOSED),
        }
    }
    Ok(())
}

/// Reads exactly the space; every failure is the same to the program.
fn read(socket: &Socket, space: &mut [u8], deadline: Deadline) -> Result<(), c_int> {
    // A limit that has passed counts also if the bytes are there.
    if deadline.is_some_and(|at| Instant::now() >= at) {
        return Err(codes::CONNECTION_CLOSED);
    }
    read_exact(socket.0, space, &mut 0, deadline).map_err(|_| codes::CONNECTION_CLOSED)
}

/// The exchange of c-api 4.2. Reads exactly what belongs to it: messages may follow at once.
fn handshake(
    socket: &Socket,
    name: &[u8],
    priority: c_int,
    membership: bool,
    deadline: Deadline,
) -> Result<GroupName, c_int> {
    let name = &name[..name.len().min(PRIVATE_NAME_MAX)];
    let mut hello = VERSION.to_vec();
    hello.push(if priority > 0 { 0x10 } else { 0 } | u8::from(membership));
    hello.push(u8::try_from(name.len()).unwrap_or(0));
    hello.extend_from_slice(name);
    // A daemon that is full says so and closes before it reads: the answer counts.
    let sent = write_all(socket, &hello, deadline);

    let mut len = [0];
    read(socket, &mut len, deadline)?;
    let len = i8::from_ne_bytes(len);
    let Ok(len) = usize::try_from(len) else { return Err(c_int::from(len)) };
    sent?;
    if len > AUTH_CHOICE {
        return Err(codes::CONNECTION_CLOSED);
    }
    let mut list = vec![0; len];
    read(socket, &mut list, deadline)?;

    let (choice, functions) = choose(&list)?;
    write_all(socket, &choice, deadline)?;
    let mut good = true;
    for (function, data) in functions {
        // All are run, also after one has failed.
        good &= function(socket.0, std::ptr::with_exposed_provenance_mut(data)) != 0;
    }
    if !good {
        return Err(codes::REJECT_AUTH);
    }

    let mut first = [0];
    read(socket, &mut first, deadline)?;
    if c_int::from(first[0]) != codes::ACCEPT_SESSION {
        return Err(c_int::from(i8::from_ne_bytes(first)));
    }
    let mut rest = [0; 4];
    read(socket, &mut rest, deadline)?;
    let [major, minor, patch, len] = rest.map(u8::cast_signed);
    if major < 0 || minor < 0 || patch < 0 {
        return Err(codes::CONNECTION_CLOSED);
    }
    if major < 3 || (priority > 0 && major == 3 && minor < 8) {
        return Err(codes::REJECT_VERSION);
    }
    let len = usize::try_from(len).ok().filter(|len| *len < GROUP_FIELD).ok_or(codes::CONNECTION_CLOSED)?;
    let mut own = [0; GROUP_FIELD];
    read(socket, &mut own[..len], deadline)?;
    Ok(GroupName::from_field(own))
}

type Functions = Vec<(AuthFunction, usize)>;

/// The 90 bytes that name the methods, and the functions to run; refused if the daemon does not offer one of them.
fn choose(list: &[u8]) -> Result<([u8; AUTH_CHOICE], Functions), c_int> {
    let null = [AuthMethod { name: b"NULL".to_vec(), function: null_auth, data: 0 }];
    let setting = METHODS.lock().unwrap_or_else(PoisonError::into_inner);
    let methods = setting.as_deref().unwrap_or(&null);
    let mut choice = [0; AUTH_CHOICE];
    let mut functions = Vec::new();
    for (method, slot) in methods.iter().zip(choice.as_chunks_mut::<AUTH_SLOT>().0) {
        if !list.split(|b| *b == b' ').any(|word| word == method.name) {
            return Err(codes::REJECT_AUTH);
        }
        slot[..method.name.len()].copy_from_slice(&method.name);
        functions.push((method.function, method.data));
    }
    // Released before the functions run.
    Ok((choice, functions))
}
