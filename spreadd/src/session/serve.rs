//! From an accepted connection to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use spread_groups::SessionId;
use spread_wire::handshake::RejectCode;
use spread_wire::{DaemonName, FrameDecoder, PrivateGroup};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::auth::Peer;
use super::brake::{Brake, Source};
use super::handshake::{self, Established, Failure, Rules, Times};
use super::inbox::{Command, Inbox};
use super::outbox::Outbox;
use super::policy::{Access, Client};
use super::quiet::Quiet;
use super::reader::{self, End};
use super::registry::{Registry, Seat};
use super::spill::{Spill, SpillError, SpillRules};
use super::stats::Counters;
use super::writer::{WriteEnd, Writer};

/// Refused clients that are waited for until they have taken their code. Further ones are closed at once.
const LINGERING_MAX: usize = 64;

/// How long a client whose connection broke while it was written to is read from.
const READ_AFTER_BREAK: Duration = Duration::from_secs(1);

/// Pause after the system refused to accept, usually for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) daemon: DaemonName,
    pub(crate) access: Arc<Access>,
    pub(crate) times: Times,
    pub(crate) registry: Arc<Registry>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) brake: Brake,
    /// If messages may wait on disk.
    pub(crate) spill: Option<Arc<SpillRules>>,
    pub(crate) lingering: AtomicUsize,
    /// Log lines about illegal messages.
    pub(crate) illegal: Quiet,
    /// Log lines about clients that cannot be accepted.
    pub(crate) refused_by_system: Quiet,
}

/// Accepts TCP clients for ever.
pub(crate) async fn accept_tcp(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => accepted(stream, peer_of(addr), &shared),
            Err(error) => accept_failed(&error, &shared).await,
        }
    }
}

/// Accepts clients of the Unix socket for ever.
pub(crate) async fn accept_local(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => accepted(stream, Peer::Local, &shared),
            Err(error) => accept_failed(&error, &shared).await,
        }
    }
}

pub(super) fn peer_of(addr: SocketAddr) -> Peer {
    Peer::Ip(addr.ip().to_canonical())
}

pub(super) async fn accept_failed(error: &io::Error, shared: &Shared) {
    // A client that is gone before it is accepted is no trouble.
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        if let Some(suppressed) = shared.refused_by_system.admit() {
            warn!(%error, suppressed, "Cannot accept a client; trying again.");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

fn accepted<S: Transport>(stream: S, peer: Peer, shared: &Arc<Shared>) {
    shared.counters.connections_total.add(1);
    if let Err(error) = stream.prepare() {
        debug!(%peer, %error, "Cannot set the options of a client's socket.");
    }
    let shared = Arc::clone(shared);
    let seat = shared.registry.admit();
    tokio::spawn(async move {
        match seat {
            Some(mut seat) => {
                seat.peer = Some(peer);
                greet(stream, peer, None, seat, shared).await;
            }
            None => refuse(stream, peer, RejectCode::QUOTA, &shared).await,
        }
    });
}

/// A connected stream that can be split.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    type Read: AsyncRead + Unpin + Send + 'static;
    type Write: AsyncWrite + Unpin + Send + 'static;
    /// Whether the other end is told before the connection is closed.
    const FAREWELL: bool = false;
    fn prepare(&self) -> io::Result<()>;
    /// The user at the other end, for a local stream.
    fn uid(&self) -> u32 {
        u32::MAX
    }
    fn split(self) -> (Self::Read, Self::Write);
}

impl Transport for TcpStream {
    type Read = tcp::OwnedReadHalf;
    type Write = tcp::OwnedWriteHalf;

    /// Buffer sizes are left to the system: it grows them for fast clients beyond what one may ask for.
    fn prepare(&self) -> io::Result<()> {
        self.set_nodelay(true)?;
        socket2::SockRef::from(self).set_keepalive(true)
    }

    fn split(self) -> (Self::Read, Self::Write) {
        self.into_split()
    }
}

impl Transport for UnixStream {
    type Read = unix::OwnedReadHalf;
    type Write = unix::OwnedWriteHalf;

    fn prepare(&self) -> io::Result<()> {
        // The system does not grow the buffers of local sockets by itself.
        socket2::SockRef::from(self).set_send_buffer_size(spread_wire::limits::SOCKET_BUFFER)
    }

    fn uid(&self) -> u32 {
        self.peer_cred().map_or(u32::MAX, |cred| cred.uid())
    }

    fn split(self) -> (Self::Read, Self::Write) {
        self.into_split()
    }
}

/// Handshake, then the session. `certified` is the name of a certificate that the client has proved to be its own.
pub(super) async fn greet<S: Transport>(
    mut stream: S,
    peer: Peer,
    certified: Option<Arc<str>>,
    mut seat: Seat,
    shared: Arc<Shared>,
) {
    let rules = Rules {
        daemon: shared.daemon,
        access: &shared.access,
        times: shared.times,
        brake: &shared.brake,
        source: Source::new(peer, stream.uid()),
    };
    match handshake::run(&mut stream, peer, certified, &mut seat, &rules).await {
        Ok(session) => {
            shared.counters.sessions_total.add(1);
            let Client { private, user, .. } = &session.client;
            debug!(client = %private, %peer, ?user, membership = session.membership, "Session established.");
            converse(stream, session, seat, &shared).await;
        }
        Err(Failure::Gone) => {
            shared.counters.handshakes_broken_total.add(1);
            debug!(%peer, "Client went away, or was silent, before its hello was complete.");
        }
        Err(Failure::Refused(code)) => {
            drop(seat);
            refuse(stream, peer, code, &shared).await;
        }
    }
}

/// An established session, up to the close of its socket.
async fn converse<S: Transport>(stream: S, session: Established, seat: Seat, shared: &Shared) {
    let Established { client, membership, gaps, accept, ahead } = session;
    let (id, private) = (seat.id, client.private);
    let outbox = Arc::new(Outbox::new(gaps.then(|| private.as_group())));
    let spill = shared.spill.as_ref();
    let spill = spill.map(|rules| Spill::new(Arc::clone(rules), Arc::clone(&shared.counters), private));
    // Known to the ring thread before the client knows: what others send to it now, it gets.
    shared.inbox.push(Command::Connect { seat, client, membership, outbox: Arc::clone(&outbox) });
    let (mut read, mut write) = stream.split();
    let (broken, write_broke) = oneshot::channel::<WriteEnd>();
    let writing = {
        let (outbox, inbox) = (Arc::clone(&outbox), Arc::clone(&shared.inbox));
        tokio::spawn(async move {
            let relieved = || inbox.wake();
            let writer = Writer { socket: &mut write, outbox: &outbox, spill, relieved };
            tokio::select! {
                // Nothing is written any more once the session is dying.
                biased;
                () = outbox.dying() => {}
                end = writer.run(&accept) => {
                    if let WriteEnd::Socket(error) = &end {
                        debug!(client = %private, %error, "Cannot write to a client any more.");
                    }
                    // The reader may have ended first.
                    let _ = broken.send(end);
                }
            }
            // Kept until the session is closed: dropping it would end the stream early.
            outbox.closed().await;
            write
        })
    };
    let end = {
        let (inbox, counters) = (&shared.inbox, &shared.counters);
        let decoder = FrameDecoder::daemon(private);
        let reading = reader::read_all(&mut read, ahead, decoder, id, inbox, counters);
        let mut reading = std::pin::pin!(reading);
        tokio::select! {
            biased;
            () = outbox.dying() => None,
            end = &mut reading => Some(end),
            end = write_broke => match end {
                Ok(WriteEnd::Spill(error)) => Some(End::Slow(error)),
                // What the client sent before it went away still counts, so it is read to its end, but a
                // client that closed its receiving side only cannot go on for ever.
                _ => {
                    let end = timeout(READ_AFTER_BREAK, reading).await;
                    Some(end.unwrap_or_else(|_| End::Closed(Err(io::ErrorKind::BrokenPipe.into()))))
                }
            }
        }
    };
    if let Some(end) = end {
        ended(&end, &private, id, shared);
        outbox.discard();
    }
    outbox.closed().await;
    // The halves of the stream close it.
    let mut write = writing.await;
    if S::FAREWELL
        && let Ok(write) = &mut write
    {
        // As long as the client takes it; it is gone or slow otherwise.
        let _ = timeout(shared.times.linger, write.shutdown()).await;
    }
    drop(write);
    drop(read);
    debug!(client = %private, "Session closed.");
}

/// Counts and logs why a session ends from the client's side, and orders its removal.
fn ended(end: &End, client: &PrivateGroup, id: SessionId, shared: &Shared) {
    let counters = &shared.counters;
    match end {
        End::Kill => {
            counters.ended_by_request_total.add(1);
            debug!(%client, "Session ends: disconnect request.");
        }
        End::Closed(Ok(())) => {
            counters.ended_by_close_total.add(1);
            debug!(%client, "Session ends: the client closed its connection.");
        }
        End::Closed(Err(error)) => {
            counters.ended_by_close_total.add(1);
            debug!(%client, %error, "Session ends: the connection broke.");
        }
        End::Slow(error) => {
            counters.dropped_slow_total.add(1);
            if let Some(suppressed) = shared.spill.as_ref().and_then(|rules| rules.quiet.admit()) {
                match error {
                    SpillError::Full(bytes) => warn!(
                        %client, bytes, suppressed,
                        "Session dropped: the client does not read, and no more may wait for it on disk."
                    ),
                    SpillError::Io(error) => warn!(
                        %client, %error, suppressed,
                        "Session dropped: the client does not read, and its messages cannot be written to disk."
                    ),
                }
            }
        }
        End::Illegal(error) => {
            counters.dropped_illegal_total.add(1);
            if let Some(suppressed) = shared.illegal.admit() {
                warn!(%client, %error, suppressed, "Session dropped: illegal message.");
            }
        }
    }
    shared.inbox.push(Command::Disconnect { id, kill: matches!(end, End::Kill) });
}

async fn refuse<S: Transport>(stream: S, peer: Peer, code: RejectCode, shared: &Shared) {
    let counters = &shared.counters;
    let counter = match code {
        RejectCode::QUOTA => &counters.refused_quota_total,
        RejectCode::NOT_UNIQUE => &counters.refused_not_unique_total,
        RejectCode::VERSION => &counters.refused_version_total,
        RejectCode::AUTH => &counters.refused_auth_total,
        _ => &counters.refused_name_total,
    };
    counter.add(1);
    debug!(%peer, %code, "Client refused.");
    let times = if shared.lingering.fetch_add(1, Ordering::Relaxed) < LINGERING_MAX {
        shared.times
    } else {
        Times { linger: Duration::ZERO, ..shared.times }
    };
    handshake::refuse(stream, code, times).await;
    shared.lingering.fetch_sub(1, Ordering::Relaxed);
}
