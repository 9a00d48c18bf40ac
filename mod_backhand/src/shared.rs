//! The matrix in shared memory, and its view for candidacy functions in C.

use std::ptr;
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::{Acquire, Release};

use backhand::Table;
use backhand::matrix::SLOTS_MAX;
use httpd::shared::{Shared, Zeroed};

/// The table. Pages of slots that are never used take no memory.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct SharedTable(pub(crate) Table<SLOTS_MAX>);

// SAFETY: the table consists of atomics without pointers, and all zero bytes are an empty table.
unsafe impl Zeroed for SharedTable {}

/// Null before it is open; set by the parent, read by all without a lock.
static TABLE: AtomicPtr<Table<SLOTS_MAX>> = AtomicPtr::new(ptr::null_mut());

/// One record as candidacy functions in C see it.
#[repr(C)]
#[derive(Debug)]
#[allow(non_camel_case_types, reason = "the name of the paper")]
pub(crate) struct serverstat {
    words: [u32; backhand::table::CLASSIC_WORDS],
}

/// Records of all servers for candidacy functions in shared objects; see `mod_backhand.h`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "the name of the paper")]
pub(crate) static mut serverstats: *mut serverstat = ptr::null_mut();

/// Finds or makes the table; in the parent.
pub(crate) fn open() -> std::io::Result<()> {
    let shared = Shared::<SharedTable>::retained(c"mod_backhand.table")?;
    TABLE.store(ptr::from_ref(&shared.get().0).cast_mut(), Release);
    let records = shared.get().0.classic().as_ptr().cast::<serverstat>().cast_mut();
    // SAFETY: one thread configures; functions of users read the variable later only, and write atomics at most.
    unsafe { (&raw mut serverstats).write(records) };
    Ok(())
}

/// The table, once it is open.
pub(crate) fn table() -> Option<&'static Table<SLOTS_MAX>> {
    // SAFETY: null, or the table that `open` found, which is never unmapped and consists of atomics.
    unsafe { TABLE.load(Acquire).as_ref() }
}
