//! Where a receive call of a program wants the parts of a message.

use std::ffi::{c_char, c_int, c_short};

use spread_wire::limits::{GROUP_FIELD, SCATTER_MAX};
use spread_wire::{ServiceType, codes};

use crate::types::{Name, Scatter};

/// The pointers of a receive call.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// In: bits that say how; out: the type of the message.
    pub service_type: *mut c_int,
    /// 32 bytes.
    pub sender: *mut c_char,
    /// Cells of `groups`.
    pub max_groups: c_int,
    /// Out: how many groups; negative: how many there should be room for.
    pub num_groups: *mut c_int,
    /// Cells of 32 bytes.
    pub groups: *mut Name,
    /// Out: the number of the sender, or the own place in a view.
    pub mess_type: *mut c_short,
    /// Out: whether the sender has the other byte order; negative: how many bytes there should be room for.
    pub endian_mismatch: *mut c_int,
    /// For the body.
    pub body: Space,
}

impl Wanted {
    /// Tells the program what the message is and how much room it needs, for a message that stays: `None` for what
    /// there is room for. Gives the code to return.
    ///
    /// # Safety
    ///
    /// Pointers to what the prototype of the call says.
    pub unsafe fn tell_sizes(
        &self,
        service: ServiceType,
        sender: &[u8; GROUP_FIELD],
        kind: c_short,
        groups: Option<c_int>,
        body: Option<c_int>,
    ) -> c_int {
        // SAFETY: passed on.
        unsafe {
            *self.service_type = service.0.cast_signed();
            write_name(self.sender, sender);
            *self.mess_type = kind;
            *self.num_groups = groups.map_or(0, |groups| -groups);
            *self.endian_mismatch = body.map_or(0, |body| -body);
        }
        if groups.is_some() { codes::GROUPS_TOO_SHORT } else { codes::BUFFER_TOO_SHORT }
    }
}

/// Room for a body.
#[derive(Clone, Copy, Debug)]
pub enum Space {
    /// So many bytes.
    Flat(*mut c_char, c_int),
    /// Pieces.
    Scatter(*const Scatter),
}

impl Space {
    /// Tells whether it is one: a scatter that is there and has no more elements than a scatter can have.
    ///
    /// # Safety
    ///
    /// A scatter or null.
    pub unsafe fn is_valid(&self) -> bool {
        match self {
            Self::Flat(..) => true,
            Self::Scatter(scatter) => {
                // SAFETY: a scatter or null.
                unsafe { scatter.as_ref() }.is_some_and(|scatter| scatter.num_elements <= SCATTER_MAX)
            }
        }
    }

    /// Gives the number of bytes there is room for.
    ///
    /// # Safety
    ///
    /// It is [valid](Self::is_valid).
    pub unsafe fn capacity(&self) -> usize {
        match self {
            Self::Flat(_, len) => usize::try_from(*len).unwrap_or(0),
            Self::Scatter(scatter) => {
                // SAFETY: not null, and the number of its elements.
                let elements = unsafe { (**scatter).elements.iter().take((**scatter).num_elements) };
                elements.fold(0, |sum: usize, element| sum.saturating_add(element.len))
            }
        }
    }

    /// Gives the pieces that hold up to `len` bytes.
    ///
    /// # Safety
    ///
    /// It is [valid](Self::is_valid).
    pub unsafe fn pieces(&self, len: usize) -> Vec<libc::iovec> {
        let mut left = len;
        let mut pieces = Vec::new();
        let mut add = |base: *mut c_char, room: usize| {
            let used = room.min(left);
            left -= used;
            if used > 0 {
                pieces.push(libc::iovec { iov_base: base.cast(), iov_len: used });
            }
        };
        match self {
            Self::Flat(base, room) => add(*base, usize::try_from(*room).unwrap_or(0)),
            Self::Scatter(scatter) => {
                // SAFETY: not null, and the number of its elements.
                for element in unsafe { (**scatter).elements.iter().take((**scatter).num_elements) } {
                    add(element.buf, element.len);
                }
            }
        }
        pieces
    }

    /// Copies as many of the bytes as there is room for.
    ///
    /// # Safety
    ///
    /// It is [valid](Self::is_valid), and its elements have the room they say.
    pub unsafe fn fill(&self, mut bytes: &[u8]) {
        // SAFETY: passed on.
        for piece in unsafe { self.pieces(bytes.len()) } {
            let (now, rest) = bytes.split_at(piece.iov_len.min(bytes.len()));
            // SAFETY: the piece has room for its length.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), piece.iov_base.cast(), now.len()) };
            bytes = rest;
        }
    }
}

/// Fills the 32 bytes of a name; the last is a zero, also if the peer has none.
///
/// # Safety
///
/// Room for 32 bytes.
pub unsafe fn write_name(to: *mut c_char, name: &[u8; GROUP_FIELD]) {
    // SAFETY: room for 32 bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(name.as_ptr().cast(), to, GROUP_FIELD);
        *to.add(GROUP_FIELD - 1) = 0;
    }
}
