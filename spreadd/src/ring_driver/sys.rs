//! The system calls of the driver that have no safe wrapper that fits: batched receive and send with
//! segmentation offload, and `ppoll` over a kept list. All `unsafe` of the driver is here.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockAddr;

/// Size of a receive buffer: the largest UDP datagram, or as many coalesced segments as the kernel gives.
pub(super) const SLAB_LEN: usize = 64 << 10;

/// Datagrams (or runs of coalesced segments) taken by one receive call.
pub(super) const RECV_BATCH: usize = 32;

/// Messages handed to one send call.
pub(super) const SEND_BATCH: usize = 64;

/// Room for the control messages of one datagram: segment size, drop counter.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// What the kernel said about one received run of segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Source; `None` if it is no Internet address.
    pub(super) from: Option<SocketAddr>,
    /// Bytes in the buffer.
    pub(super) len: usize,
    /// Length of each datagram but the last, if the kernel coalesced several.
    pub(super) segment_len: usize,
    /// Datagrams that this socket has dropped since it was opened, if the kernel mentioned it.
    pub(super) dropped: Option<u32>,
    /// The datagram was longer than the buffer.
    pub(super) truncated: bool,
}

/// Receives up to `slabs.len()` (at most [`RECV_BATCH`]) runs without blocking and replaces `out` by what
/// came. Each slab must be empty and have room for [`SLAB_LEN`] bytes; the first `out.len()` are filled.
pub(super) fn recv_batch(
    fd: BorrowedFd<'_>,
    slabs: &mut [BytesMut],
    out: &mut Vec<Received>,
) -> io::Result<()> {
    out.clear();
    let count = slabs.len().min(RECV_BATCH);
    let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; RECV_BATCH];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; RECV_BATCH];
    let mut iovs = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; RECV_BATCH];
    // SAFETY: mmsghdr is plain C data for which all zeroes is a valid value.
    let mut headers: [libc::mmsghdr; RECV_BATCH] = unsafe { mem::zeroed() };
    for (i, slab) in slabs.iter_mut().enumerate().take(count) {
        debug_assert!(slab.is_empty() && slab.capacity() >= SLAB_LEN);
        let spare = slab.spare_capacity_mut();
        iovs[i].iov_base = spare.as_mut_ptr().cast();
        iovs[i].iov_len = spare.len().min(SLAB_LEN);
        let header = &mut headers[i].msg_hdr;
        header.msg_name = names[i].as_mut_ptr().cast();
        header.msg_namelen = socklen(size_of::<libc::sockaddr_storage>());
        header.msg_iov = &raw mut iovs[i];
        header.msg_iovlen = 1;
        header.msg_control = controls[i].as_mut_ptr().cast();
        header.msg_controllen = size_of::<Control>() as _;
    }
    // SAFETY: the first `count` headers point to live, exclusively borrowed memory of the stated lengths:
    // the local arrays above and the spare room of the slabs, which nothing else touches during the call.
    let n = unsafe {
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            length(count),
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    for (i, slab) in slabs.iter_mut().enumerate().take(n.min(count)) {
        let header = &headers[i].msg_hdr;
        let len = (headers[i].msg_len as usize).min(iovs[i].iov_len);
        // SAFETY: the kernel wrote `msg_len` bytes, never more than `iov_len`, at the start of the spare
        // room of this empty slab.
        unsafe { slab.set_len(len) };
        let mut received = Received {
            // SAFETY: the kernel wrote `msg_namelen` bytes of an address into the zero-initialised storage
            // or left the length at 0.
            from: unsafe { address(names[i].as_ptr(), header.msg_namelen) },
            len,
            segment_len: len,
            dropped: None,
            truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        };
        // SAFETY: the kernel updated `msg_controllen` to the part of the buffer it filled with control
        // messages; the CMSG functions stay inside it. Data are read unaligned.
        unsafe {
            let mut cmsg = libc::CMSG_FIRSTHDR(header);
            while !cmsg.is_null() {
                match ((*cmsg).cmsg_level, (*cmsg).cmsg_type) {
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        let size = ptr::read_unaligned(libc::CMSG_DATA(cmsg).cast::<libc::c_int>());
                        received.segment_len = usize::try_from(size).ok().filter(|s| *s > 0).unwrap_or(len);
                    }
                    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                        received.dropped = Some(ptr::read_unaligned(libc::CMSG_DATA(cmsg).cast::<u32>()));
                    }
                    _ => {}
                }
                cmsg = libc::CMSG_NXTHDR(header, cmsg);
            }
        }
        out.push(received);
    }
    Ok(())
}

/// Reads an address that the kernel wrote.
///
/// # Safety
///
/// `len` bytes at `storage` are initialised.
unsafe fn address(storage: *const libc::sockaddr_storage, len: libc::socklen_t) -> Option<SocketAddr> {
    let len = len as usize;
    if len < size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: the family is the first field of every address and inside `len`; the storage is aligned for
    // all kinds of addresses; each kind is read only if `len` covers it.
    unsafe {
        match libc::c_int::from((*storage.cast::<libc::sockaddr>()).sa_family) {
            libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
                let v4 = &*storage.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
                let v6 = &*storage.cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id)))
            }
            _ => None,
        }
    }
}

/// One send: `bytes` to `to`, cut by the kernel into datagrams of `segment_len` if that is shorter.
#[derive(Clone, Copy)]
pub(super) struct Outgoing<'a> {
    /// Destination.
    pub(super) to: &'a SockAddr,
    /// One datagram, or several of equal length (the last may be shorter) back to back.
    pub(super) bytes: &'a [u8],
    /// Length of one datagram.
    pub(super) segment_len: u16,
}

/// Sends the first messages of `messages` (at most [`SEND_BATCH`]) without blocking, in order, and returns
/// how many the kernel took. An error concerns the first message; none was taken then.
pub(super) fn send_batch(fd: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let count = messages.len().min(SEND_BATCH);
    // SAFETY: all zeroes is a valid value of these C structures.
    let (mut headers, mut iovs, mut controls): (
        [libc::mmsghdr; SEND_BATCH],
        [libc::iovec; SEND_BATCH],
        [Control; SEND_BATCH],
    ) = unsafe { mem::zeroed() };
    for (i, message) in messages.iter().enumerate().take(count) {
        iovs[i].iov_base = message.bytes.as_ptr().cast_mut().cast();
        iovs[i].iov_len = message.bytes.len();
        let header = &mut headers[i].msg_hdr;
        header.msg_name = message.to.as_ptr().cast_mut().cast();
        header.msg_namelen = message.to.len();
        header.msg_iov = &raw mut iovs[i];
        header.msg_iovlen = 1;
        if message.bytes.len() > usize::from(message.segment_len) {
            // SAFETY: the control buffer has room for one u16 message (CMSG_SPACE(2) is 24) and is aligned
            // for its header; CMSG_FIRSTHDR is not null because the stated length covers a header.
            unsafe {
                header.msg_control = (&raw mut controls[i]).cast();
                header.msg_controllen = libc::CMSG_SPACE(2) as _;
                let cmsg = libc::CMSG_FIRSTHDR(header);
                (*cmsg).cmsg_level = libc::SOL_UDP;
                (*cmsg).cmsg_type = libc::UDP_SEGMENT;
                (*cmsg).cmsg_len = libc::CMSG_LEN(2) as _;
                ptr::write_unaligned(libc::CMSG_DATA(cmsg).cast::<u16>(), message.segment_len);
            }
        }
    }
    // SAFETY: the first `count` headers point to memory that outlives the call; the kernel only reads it
    // (and writes `msg_len` into the headers).
    let n = unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            length(count),
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// A kept list of descriptors to wait for.
pub(super) struct Waiter(Vec<libc::pollfd>);

impl Waiter {
    /// Waits for input on `fds`. They must stay open while the waiter is used; a closed one reports ready
    /// at once and its read fails, nothing worse.
    pub(super) fn new(fds: impl IntoIterator<Item = RawFd>) -> Self {
        Self(fds.into_iter().map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect())
    }

    /// Waits until one is ready, a signal came, or `timeout` passed. Precise to microseconds where the
    /// kernel is.
    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(timeout.subsec_nanos().cast_signed()),
        };
        // SAFETY: the list is exclusively borrowed and its length is passed; the timeout outlives the call;
        // a null mask leaves the signal mask alone.
        let n =
            unsafe { libc::ppoll(self.0.as_mut_ptr(), self.0.len() as libc::nfds_t, &timeout, ptr::null()) };
        if n < 0 {
            for entry in &mut self.0 {
                entry.revents = 0;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether the descriptor at `index` had something at the last wait, be it an error.
    pub(super) fn is_ready(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|entry| entry.revents != 0)
    }
}

/// Waits until `fd` can send or `timeout` passed.
pub(super) fn wait_writable(fd: BorrowedFd<'_>, timeout: Duration) {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let millis = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: one live entry, exclusively borrowed. The result is not needed: the caller tries again and
    // looks at its own clock.
    unsafe { libc::poll(&raw mut entry, 1, millis) };
}

/// Sets an integer socket option that `socket2` does not know.
pub(super) fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: i32,
) -> io::Result<()> {
    // SAFETY: the option value is a live c_int and its size is passed.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            socklen(size_of::<libc::c_int>()),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn socklen(len: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(len).expect("sizes of C structures are small")
}

fn length(count: usize) -> libc::c_uint {
    libc::c_uint::try_from(count).expect("batches are small")
}
