//! The `E_` loop: timers and descriptors with priorities (spec: c-api 7).
//!
//! Each round of [`E_handle_events`]: timers that are due, in their order; a wait; all ready descriptors of the highest
//! priority above low that has any; at most one ready descriptor of low priority, in turn. After the loop is entered,
//! timers wait until one round had no event above low.
//!
//! All state is global, as the interface has it. Callbacks run without the lock: they may call everything here.

use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::guard;
use crate::types::SpTime;

const MICROS: c_long = 1_000_000;
/// Longest wait without a timer, in seconds.
const WAIT_MAX: c_long = 10_000;
const PRIORITIES: usize = 3;
const LOW: usize = 0;
/// Descriptors of one priority at most.
const FDS_MAX: usize = 2000;

/// A function of the program for a timer.
pub type TimerFunction = extern "C" fn(c_int, *mut c_void);
/// A function of the program for a descriptor.
pub type FdFunction = extern "C" fn(c_int, c_int, *mut c_void);

#[derive(Clone, Copy)]
struct Timer {
    at: SpTime,
    function: TimerFunction,
    code: c_int,
    data: Data,
}

impl Timer {
    fn is(&self, function: TimerFunction, code: c_int, data: *mut c_void) -> bool {
        std::ptr::fn_addr_eq(self.function, function) && self.code == code && self.data.0 == data
    }
}

/// A pointer of the program, only ever given back to its functions.
#[derive(Clone, Copy)]
struct Data(*mut c_void);

// SAFETY: nothing here looks behind it.
unsafe impl Send for Data {}

#[derive(Clone, Copy)]
struct Watch {
    fd: c_int,
    kind: c_int,
    function: FdFunction,
    code: c_int,
    data: Data,
    active: bool,
}

struct State {
    /// By time; of equal ones the first queued comes first.
    timers: Vec<Timer>,
    watches: [Vec<Watch>; PRIORITIES],
    threshold: usize,
    /// Which descriptor of low priority was served last.
    last_low: Option<(c_int, c_int)>,
}

static STATE: Mutex<State> = Mutex::new(State {
    timers: Vec::new(),
    watches: [const { Vec::new() }; PRIORITIES],
    threshold: LOW,
    last_low: None,
});
/// Set by a callback or a signal handler.
static EXIT: AtomicBool = AtomicBool::new(false);
/// A counter that wakes the wait; -1 until there is one.
static WAKE: AtomicI32 = AtomicI32::new(-1);

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clock(id: libc::clockid_t) -> SpTime {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for a time.
    unsafe { libc::clock_gettime(id, &raw mut now) };
    normal(now.tv_sec, (now.tv_nsec + 500) / 1000)
}

/// Brings |usec| below a second and both fields to the same sign.
fn normal(sec: c_long, usec: c_long) -> SpTime {
    let (mut sec, mut usec) = (sec.saturating_add(usec / MICROS), usec % MICROS);
    if sec > 0 && usec < 0 {
        sec -= 1;
        usec += MICROS;
    } else if sec < 0 && usec > 0 {
        sec += 1;
        usec -= MICROS;
    }
    SpTime { sec, usec }
}

fn key(time: &SpTime) -> (c_long, c_long) {
    (time.sec, time.usec)
}

/// Forgets all events. 0
#[unsafe(no_mangle)]
pub extern "C" fn E_init() -> c_int {
    guard(|| {
        let mut state = state();
        state.timers.clear();
        state.watches = [const { Vec::new() }; PRIORITIES];
        state.threshold = LOW;
        state.last_low = None;
        drop(state);
        ready_to_wake();
        0
    })
}

fn ready_to_wake() {
    if WAKE.load(Ordering::Acquire) < 0 {
        // SAFETY: plain numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if WAKE.compare_exchange(-1, fd, Ordering::AcqRel, Ordering::Acquire).is_err() && fd >= 0 {
            // SAFETY: ours, and nobody else has it.
            unsafe { libc::close(fd) };
        }
    }
}

/// Gives the time of day.
#[unsafe(no_mangle)]
pub extern "C" fn E_get_time() -> SpTime {
    clock(libc::CLOCK_REALTIME)
}

/// Gives the time of a clock that is never set.
#[unsafe(no_mangle)]
pub extern "C" fn E_get_time_monotonic() -> SpTime {
    clock(libc::CLOCK_MONOTONIC)
}

/// Negates both fields.
#[unsafe(no_mangle)]
pub extern "C" fn E_neg_time(t: SpTime) -> SpTime {
    SpTime { sec: t.sec.wrapping_neg(), usec: t.usec.wrapping_neg() }
}

/// Adds.
#[unsafe(no_mangle)]
pub extern "C" fn E_add_time(t: SpTime, delta_t: SpTime) -> SpTime {
    normal(t.sec.saturating_add(delta_t.sec), t.usec.saturating_add(delta_t.usec))
}

/// Subtracts.
#[unsafe(no_mangle)]
pub extern "C" fn E_sub_time(t: SpTime, delta_t: SpTime) -> SpTime {
    normal(t.sec.saturating_sub(delta_t.sec), t.usec.saturating_sub(delta_t.usec))
}

/// Compares: 1, 0 or -1.
#[unsafe(no_mangle)]
pub extern "C" fn E_compare_time(t1: SpTime, t2: SpTime) -> c_int {
    match key(&t1).cmp(&key(&t2)) {
        std::cmp::Ordering::Less => -1,
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Greater => 1,
    }
}

/// Queues a timer in place of an equal one. 0
#[unsafe(no_mangle)]
pub extern "C" fn E_queue(
    function: Option<TimerFunction>,
    code: c_int,
    data: *mut c_void,
    delta_time: SpTime,
) -> c_int {
    guard(|| {
        let Some(function) = function else { return -1 };
        let at = E_add_time(E_get_time_monotonic(), delta_time);
        let mut state = state();
        state.timers.retain(|timer| !timer.is(function, code, data));
        let place = state.timers.partition_point(|timer| key(&timer.at) <= key(&at));
        state.timers.insert(place, Timer { at, function, code, data: Data(data) });
        0
    })
}

/// Tells whether a timer is queued: 1 or 0.
#[unsafe(no_mangle)]
pub extern "C" fn E_in_queue(function: Option<TimerFunction>, code: c_int, data: *mut c_void) -> c_int {
    guard(|| {
        let Some(function) = function else { return 0 };
        c_int::from(state().timers.iter().any(|timer| timer.is(function, code, data)))
    })
}

/// Removes a timer: 0, or -1 if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn E_dequeue(function: Option<TimerFunction>, code: c_int, data: *mut c_void) -> c_int {
    guard(|| {
        let Some(function) = function else { return -1 };
        let mut state = state();
        let before = state.timers.len();
        state.timers.retain(|timer| !timer.is(function, code, data));
        if state.timers.len() < before { 0 } else { -1 }
    })
}

/// Sleeps; a signal ends it.
#[unsafe(no_mangle)]
pub extern "C" fn E_delay(t: SpTime) {
    let t = normal(t.sec, t.usec);
    if t.sec >= 0 && t.usec >= 0 {
        let time = libc::timespec { tv_sec: t.sec, tv_nsec: t.usec * 1000 };
        // SAFETY: a valid time.
        unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
    }
}

fn is_kind(kind: c_int) -> bool {
    (0..3).contains(&kind)
}

fn priority_of(priority: c_int) -> Option<usize> {
    usize::try_from(priority).ok().filter(|priority| *priority < PRIORITIES)
}

/// Watches a descriptor: 0, 1 if it was watched at this priority already, or -1.
#[unsafe(no_mangle)]
pub extern "C" fn E_attach_fd(
    fd: c_int,
    fd_type: c_int,
    function: Option<FdFunction>,
    code: c_int,
    data: *mut c_void,
    priority: c_int,
) -> c_int {
    guard(|| {
        let (Some(priority), Some(function)) = (priority_of(priority), function) else { return -1 };
        if fd < 0 || !is_kind(fd_type) {
            return -1;
        }
        let watch = Watch { fd, kind: fd_type, function, code, data: Data(data), active: true };
        let mut state = state();
        let watches = &mut state.watches[priority];
        if let Some(old) = watches.iter_mut().find(|old| old.fd == fd && old.kind == fd_type) {
            *old = watch;
            return 1;
        }
        if watches.len() >= FDS_MAX {
            return -1;
        }
        watches.push(watch);
        0
    })
}

/// Applies a change to the entries of a descriptor: 0, or -1 if there is none.
fn change(fd: c_int, kind: c_int, only: Option<usize>, apply: impl Fn(&mut Vec<Watch>, usize)) -> c_int {
    let mut found = -1;
    if !is_kind(kind) {
        return found;
    }
    for (priority, watches) in state().watches.iter_mut().enumerate() {
        if only.is_some_and(|only| only != priority) {
            continue;
        }
        if let Some(at) = watches.iter().position(|watch| watch.fd == fd && watch.kind == kind) {
            apply(watches, at);
            found = 0;
        }
    }
    found
}

/// Stops watching a descriptor at all priorities: 0, or -1 if it is not watched.
#[unsafe(no_mangle)]
pub extern "C" fn E_detach_fd(fd: c_int, fd_type: c_int) -> c_int {
    guard(|| {
        change(fd, fd_type, None, |watches, at| {
            watches.remove(at);
        })
    })
}

/// Stops watching a descriptor at one priority: 0, or -1 if it is not watched.
#[unsafe(no_mangle)]
pub extern "C" fn E_detach_fd_priority(fd: c_int, fd_type: c_int, priority: c_int) -> c_int {
    guard(|| {
        let Some(priority) = priority_of(priority) else { return -1 };
        change(fd, fd_type, Some(priority), |watches, at| {
            watches.remove(at);
        })
    })
}

/// Watches a descriptor again: 0, or -1 if it is not known.
#[unsafe(no_mangle)]
pub extern "C" fn E_activate_fd(fd: c_int, fd_type: c_int) -> c_int {
    guard(|| change(fd, fd_type, None, |watches, at| watches[at].active = true))
}

/// Does not watch a descriptor for a while: 0, or -1 if it is not known.
#[unsafe(no_mangle)]
pub extern "C" fn E_deactivate_fd(fd: c_int, fd_type: c_int) -> c_int {
    guard(|| change(fd, fd_type, None, |watches, at| watches[at].active = false))
}

/// Watches only descriptors of this priority or above: it, or -1.
#[unsafe(no_mangle)]
pub extern "C" fn E_set_active_threshold(priority: c_int) -> c_int {
    guard(|| {
        let Some(threshold) = priority_of(priority) else { return -1 };
        state().threshold = threshold;
        priority
    })
}

/// Counts the active descriptors of exactly this priority, or -1.
#[unsafe(no_mangle)]
pub extern "C" fn E_num_active(priority: c_int) -> c_int {
    guard(|| {
        let Some(priority) = priority_of(priority) else { return -1 };
        let count = state().watches[priority].iter().filter(|watch| watch.active).count();
        c_int::try_from(count).unwrap_or(c_int::MAX)
    })
}

/// Serves events until [`E_exit_events`].
#[unsafe(no_mangle)]
pub extern "C" fn E_handle_events() {
    guard(|| {
        ready_to_wake();
        EXIT.store(false, Ordering::Release);
        let mut timers_wait = true;
        while !EXIT.load(Ordering::Acquire) {
            if !timers_wait && !run_timers() {
                break;
            }
            let Some(ready) = wait() else { continue };
            let urgent =
                ready.iter().rev().find(|(priority, watches)| *priority > LOW && !watches.is_empty());
            if let Some((priority, watches)) = urgent {
                if !watches.iter().all(|watch| serve(*priority, watch)) {
                    break;
                }
            } else {
                timers_wait = false;
            }
            let low = ready.first().map_or(&[][..], |(_, watches)| watches);
            if let Some(watch) = next_low(low)
                && !serve(LOW, &watch)
            {
                break;
            }
        }
        0
    });
}

/// Ends the loop after the callback that calls it.
#[unsafe(no_mangle)]
pub extern "C" fn E_exit_events() {
    E_exit_events_async_safe();
}

/// Ends the loop; may be called from a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn E_exit_events_async_safe() {
    EXIT.store(true, Ordering::Release);
    let wake = WAKE.load(Ordering::Acquire);
    if wake >= 0 {
        let one: u64 = 1;
        // SAFETY: eight bytes; a write to a descriptor is allowed in a signal handler.
        unsafe { libc::write(wake, (&raw const one).cast(), size_of::<u64>()) };
    }
}

/// Runs what is due; `false`: a callback has ended the loop. A timer that a callback queues for now waits for the next
/// round.
fn run_timers() -> bool {
    let now = E_get_time_monotonic();
    loop {
        let timer = {
            let mut state = state();
            match state.timers.first() {
                Some(timer) if key(&timer.at) <= key(&now) => state.timers.remove(0),
                _ => return true,
            }
        };
        (timer.function)(timer.code, timer.data.0);
        if EXIT.load(Ordering::Acquire) {
            return false;
        }
    }
}

/// Calls the function of a descriptor, if it is still watched; `false`: the loop has been ended.
fn serve(priority: usize, ready: &Watch) -> bool {
    let watch = {
        let state = state();
        let same = |watch: &&Watch| watch.fd == ready.fd && watch.kind == ready.kind;
        state.watches[priority].iter().find(same).filter(|watch| watch.active).copied()
    };
    if let Some(watch) = watch {
        (watch.function)(watch.fd, watch.code, watch.data.0);
    }
    !EXIT.load(Ordering::Acquire)
}

/// The ready descriptor of low priority whose turn it is: the one after the last served, in the order of attaching.
fn next_low(ready: &[Watch]) -> Option<Watch> {
    let mut state = state();
    let watches = &state.watches[LOW];
    let last =
        state.last_low.and_then(|(fd, kind)| watches.iter().position(|w| (w.fd, w.kind) == (fd, kind)));
    let place = |watch: &Watch| watches.iter().position(|w| (w.fd, w.kind) == (watch.fd, watch.kind));
    let turn = |watch: &&Watch| {
        let place = place(watch).unwrap_or(usize::MAX);
        (last.is_some_and(|last| place <= last), place)
    };
    let next = ready.iter().min_by_key(turn).copied();
    if let Some(watch) = &next {
        state.last_low = Some((watch.fd, watch.kind));
    }
    next
}

type Ready = Vec<(usize, Vec<Watch>)>;

/// Waits for descriptors until the next timer; `None` after a signal.
fn wait() -> Option<Ready> {
    let (mut fds, watches, timeout) = {
        let state = state();
        let mut fds =
            vec![libc::pollfd { fd: WAKE.load(Ordering::Acquire), events: libc::POLLIN, revents: 0 }];
        let mut watches = Vec::new();
        for (priority, list) in state.watches.iter().enumerate().skip(state.threshold) {
            for watch in list.iter().filter(|watch| watch.active) {
                let events = match watch.kind {
                    0 => libc::POLLIN,
                    1 => libc::POLLOUT,
                    _ => libc::POLLPRI,
                };
                fds.push(libc::pollfd { fd: watch.fd, events, revents: 0 });
                watches.push((priority, *watch));
            }
        }
        let wait = match state.timers.first() {
            None => SpTime { sec: WAIT_MAX, usec: 0 },
            Some(timer) => E_sub_time(timer.at, E_get_time_monotonic()),
        };
        (fds, watches, millis(wait))
    };
    // SAFETY: as many entries as said.
    let got = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
    if got < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
        return None;
    }
    if fds[0].revents != 0 {
        let mut count = [0_u8; 8];
        // SAFETY: room for the counter.
        unsafe { libc::read(fds[0].fd, count.as_mut_ptr().cast(), count.len()) };
    }
    let mut ready: Ready = (0..PRIORITIES).map(|priority| (priority, Vec::new())).collect();
    for (entry, (priority, watch)) in fds[1..].iter().zip(watches) {
        let broken = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        // A broken descriptor can be read and written: the function finds out.
        let wanted = entry.events | if watch.kind == 2 { 0 } else { broken };
        if entry.revents & wanted != 0 {
            ready[priority].1.push(watch);
        }
    }
    Some(ready)
}

/// Milliseconds, rounded up so that a timer is due when the wait ends.
fn millis(time: SpTime) -> c_int {
    let (Ok(sec), Ok(usec)) = (u64::try_from(time.sec), u64::try_from(time.usec)) else { return 0 };
    let time = Duration::from_secs(sec) + Duration::from_micros(usec);
    c_int::try_from(time.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
}
