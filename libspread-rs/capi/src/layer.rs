//! Sessions for a layer above: whole messages in and out of a mailbox.

use std::ffi::c_int;
use std::time::Duration;

use spread_wire::{Frame, GroupName, ServiceType, codes};

use crate::receive::take_frame;
use crate::session;

pub use crate::connect::{bytes_of_c, write_private_group};
pub use crate::receive::{Step, look_and_wait};
pub use crate::send::{Flat, Pieces, cut_name, scatter_pieces};
pub use crate::session::disconnect;

/// Connects with membership messages and enters the session.
///
/// # Errors
///
/// The code of the C interface.
pub fn connect(
    address: &[u8],
    name: &[u8],
    priority: c_int,
    limit: Option<Duration>,
) -> Result<(c_int, GroupName), c_int> {
    let (fd, own) = crate::connect::connect(address, name, priority, true, limit)?;
    session::insert(fd, own);
    Ok((fd, own))
}

/// Writes one message as a unit: the number of bytes of data, or an error.
pub fn send(mbox: c_int, service: ServiceType, groups: &[GroupName], kind: i16, data: &[u8]) -> c_int {
    let Some(session) = session::find(mbox) else { return codes::ILLEGAL_SESSION };
    let cells: Vec<_> = groups.iter().map(|group| *group.as_field()).collect();
    let piece = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    crate::send::send(&session, service, &cells, kind, &mut vec![piece])
}

/// Reads one message if any of it has arrived. The code of the C interface if the session is of no use any more.
///
/// # Errors
///
/// The code of the C interface.
pub fn receive(mbox: c_int) -> Result<Option<Frame>, c_int> {
    let Some(session) = session::find(mbox) else { return Err(codes::ILLEGAL_SESSION) };
    session.receiving(|_| match session.error() {
        0 => take_frame(session.fd).map_err(|_| session.fail()),
        error => Err(error),
    })
}
