//! Servers behind the fronts, and what they tell of themselves.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use backhand::Random;
use socket2::SockRef;
use tests::backhand::{Pretender, Webs};

use crate::Client;
use crate::traffic::exponential;

/// Workers that a back end says it has, for mod_heartmonitor.
const SLOTS: u32 = 16;

/// A server whose capacity is its one worker, not the CPU: requests wait their turn and then take their time.
pub(crate) struct BackEnd {
    pub(crate) name: String,
    pub(crate) addr: SocketAddrV4,
    /// How much longer everything takes than on a fast server.
    pub(crate) factor: f64,
    /// Requests here, waiting ones included.
    pub(crate) present: AtomicU32,
    /// Requests that came in the running second.
    pub(crate) came: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Without it the server is dead.
    listener: Option<TcpListener>,
    connections: Vec<TcpStream>,
    /// When the worker is done with all that is here.
    free_at: Option<Instant>,
}

impl BackEnd {
    pub(crate) fn start(name: String, addr: Ipv4Addr, factor: f64) -> Result<Arc<Self>> {
        let port = TcpListener::bind((addr, 0))?.local_addr()?.port();
        let (present, came, state) = (AtomicU32::new(0), AtomicU32::new(0), Mutex::default());
        let addr = SocketAddrV4::new(addr, port);
        let this = Arc::new(Self { name, addr, factor, present, came, state });
        this.revive()?;
        Ok(this)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.state().listener.is_some()
    }

    /// Serves again, with nothing to do.
    pub(crate) fn revive(self: &Arc<Self>) -> Result<()> {
        let listener = TcpListener::bind(self.addr).with_context(|| format!("{}", self.addr))?;
        let mine = listener.try_clone()?;
        *self.state() = State { listener: Some(listener), ..State::default() };
        let this = Arc::clone(self);
        thread::spawn(move || {
            // Ends with an error when the server dies.
            for stream in mine.incoming() {
                let Ok(stream) = stream else { return };
                let Ok(copy) = stream.try_clone() else { continue };
                this.state().connections.push(copy);
                let this = Arc::clone(&this);
                // Ends with its connection.
                thread::spawn(move || this.serve(BufReader::new(stream)));
            }
        });
        Ok(())
    }

    /// As if the process was killed: connections break, new ones are refused.
    pub(crate) fn die(&self) {
        let dead = std::mem::take(&mut *self.state());
        if let Some(listener) = &dead.listener {
            // Its other copy waits for connections, and is told so.
            let _ = SockRef::from(listener).shutdown(Shutdown::Both);
        }
        for connection in dead.connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn serve(&self, mut stream: BufReader<TcpStream>) -> std::io::Result<()> {
        let (mut first, mut line) = (String::new(), String::new());
        loop {
            first.clear();
            if stream.read_line(&mut first)? == 0 {
                return Ok(());
            }
            line.clear();
            while line != "\r\n" {
                line.clear();
                if stream.read_line(&mut line)? == 0 {
                    return Ok(());
                }
            }
            let micros = first.split(['?', ' ']).nth(2).and_then(|m| m.parse().ok()).unwrap_or(0.0);
            self.came.fetch_add(1, Ordering::Relaxed);
            self.present.fetch_add(1, Ordering::Relaxed);
            thread::sleep(self.take_turn(Duration::from_secs_f64(micros * self.factor / 1e6)));
            self.present.fetch_sub(1, Ordering::Relaxed);
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")?;
        }
    }

    /// Queues a piece of work; the time until it is done.
    fn take_turn(&self, work: Duration) -> Duration {
        let (now, mut state) = (Instant::now(), self.state());
        let end = state.free_at.map_or(now, |at| at.max(now)) + work;
        state.free_at = Some(end);
        end - now
    }
}

/// Threads that end with their owner.
pub(crate) struct Background {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Background {
    fn new() -> Self {
        Self { stop: Arc::default(), threads: Vec::new() }
    }

    fn add(&mut self, mut step: impl FnMut() + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                step();
            }
        }));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
    }
}

/// Back ends that announce themselves to our fronts, each by its number of requests. Some announcements are lost.
pub(crate) fn announce(
    webs: &Webs,
    back_ends: &[(Arc<BackEnd>, f64)],
    interval: Duration,
) -> Result<Background> {
    let mut background = Background::new();
    let mut pretenders = Vec::new();
    for (back_end, lost) in back_ends {
        let mut pretender = Pretender::new(webs, *back_end.addr.ip(), back_end.addr.port(), &back_end.name)?;
        // What the speed of a machine says.
        pretender.stat.arriba = (100.0 / back_end.factor) as u32;
        pretender.stat.tmem = 8 << 30;
        pretender.stat.amem = 8 << 30;
        pretenders.push((pretender, Arc::clone(back_end), *lost));
    }
    // Not all at the same moment.
    let gap = interval / u32::try_from(pretenders.len().max(1))?;
    let mut random = Random::new(5);
    background.add(move || {
        for (pretender, back_end, lost) in &mut pretenders {
            thread::sleep(gap);
            if !back_end.is_alive() || (random.below(1000) as f64) < *lost * 1000.0 {
                continue;
            }
            let present = back_end.present.load(Ordering::Relaxed);
            pretender.stat.load = present * 1000;
            pretender.stat.load_hwm = backhand::stat::high_water(present * 1000);
            pretender.stat.nservers = 1000;
            pretender.stat.aservers = 1000 - present.min(1000);
            // The next one follows at once if this is lost.
            let _ = pretender.announce(None);
        }
    });
    Ok(background)
}

/// Back ends that tell mod_heartmonitor of each front how many workers are free, over HTTP and as often as ours
/// announce themselves: its multicast is read every five seconds only.
pub(crate) fn beat(fronts: &[SocketAddr], back_ends: &[Arc<BackEnd>], interval: Duration) -> Background {
    let mut background = Background::new();
    let back_ends = back_ends.to_vec();
    let places: Vec<_> =
        fronts.iter().flat_map(|front| back_ends.iter().map(|b| (*front, Arc::clone(b)))).collect();
    let mut clients: Vec<Option<Client>> = places.iter().map(|_| None).collect();
    let gap = interval / u32::try_from(places.len().max(1)).unwrap_or(1);
    let mut round = move |gap: Duration| {
        for ((front, back_end), client) in places.iter().zip(&mut clients) {
            thread::sleep(gap);
            if !back_end.is_alive() {
                continue;
            }
            let busy = back_end.present.load(Ordering::Relaxed);
            let port = back_end.addr.port();
            let body = format!("v=1&ready={}&busy={busy}&port={port}", SLOTS.saturating_sub(busy));
            let length = body.len();
            let request = format!("POST /beat HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
            let connected = client.take().map_or_else(|| Client::from(Some(*back_end.addr.ip()), *front), Ok);
            // The next one follows if this is lost.
            *client = connected.and_then(|mut c| c.ask(&request).map(|()| c)).ok();
        }
    };
    // All are known before the first request.
    round(Duration::ZERO);
    background.add(move || round(gap));
    background
}

/// Occupies two servers of each set for random times, which only their statistics tell.
pub(crate) fn disturb<'a>(sets: impl Iterator<Item = &'a [Arc<BackEnd>]>) -> Background {
    let mut background = Background::new();
    for set in sets {
        // The same times for each set.
        for (seed, back_end) in (41..).zip(set.iter().filter(|b| b.factor <= 1.0).take(2).cloned()) {
            let mut random = Random::new(seed);
            background.add(move || {
                // A second of work, a second and a half without.
                back_end.present.fetch_add(1, Ordering::Relaxed);
                let work = Duration::from_secs_f64(exponential(&mut random, 1.0).min(3.0));
                thread::sleep(back_end.take_turn(work).min(Duration::from_secs(5)));
                back_end.present.fetch_sub(1, Ordering::Relaxed);
                thread::sleep(Duration::from_secs_f64(exponential(&mut random, 1.5).min(3.0)));
            });
        }
    }
    background
}

/// Servers die and come back while `secs` pass: at a fifth and three fifths of the time, for a quarter of it.
pub(crate) fn kill_some(begun: Instant, secs: f64, sets: Vec<Vec<Arc<BackEnd>>>) -> thread::JoinHandle<()> {
    let at = move |share: f64| {
        (begun + Duration::from_secs_f64(secs * share)).saturating_duration_since(Instant::now())
    };
    thread::spawn(move || {
        for (number, from) in [(0, 0.2), (3, 0.6)] {
            thread::sleep(at(from));
            let victims: Vec<_> = sets.iter().filter_map(|set| set.get(number)).collect();
            victims.iter().for_each(|victim| victim.die());
            thread::sleep(at(from + 0.25));
            for victim in victims {
                if let Err(error) = victim.revive() {
                    eprintln!("{} does not come back: {error:#}", victim.name);
                }
            }
        }
    })
}
