//! The module: hooks, and the state they share.
// spec: mod_backhand-httpd24 2, 4

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use backhand::hop::Origin;
use backhand::{Micros, Name, Random};
use httpd::module::{config, say_at_start};
use httpd::proxy::{self, Connections, Workers};
use httpd::requests::{first_port, runtime_path};
use httpd::{
    Hooks, Level, MainState, Merged, Module, Order, Outcome, Pool, Request, RequestModule, Server, Status,
    manager,
};

use crate::manager::{BackhandManager, source_towards};
use crate::settings::{self, Dir, Global, Plan};
use crate::{decide, external, page, receive, shared};

/// The module `backhand_module`.
pub(crate) struct Backhand;

httpd::export!(
    dir backhand_module,
    Backhand,
    c"mod_backhand.c",
    [
        &settings::MULTICAST_STATS,
        &settings::ACCEPT_STATS,
        &settings::UNIX_SOCKET_DIR,
        &settings::PID_FILE,
        &settings::POOLS,
        &settings::LOG_LEVEL,
        &settings::INTERVAL,
        &settings::MAX_SERVERS,
        &settings::SERVER_TIMEOUT,
        &settings::CONTACT,
        &settings::HOSTNAME,
        &settings::STATS_GROUP,
        &settings::SPREAD_DAEMON,
        &settings::STATS_KEY,
        &settings::REQUIRE_AUTH,
        &settings::ARRIBA,
        &settings::CONNECT_TIMEOUT,
        &settings::DOWN_TIME,
        &settings::PEER_KEEPALIVE,
        &settings::BACKHAND,
        &settings::BACKHAND_FROM_SO,
        &settings::SELF_REDIRECT,
        &settings::MAX_ATTEMPTS,
        &settings::FALLBACK,
        &settings::REDIRECT_METHODS,
        &settings::DRY_RUN,
        &settings::EXPLAIN,
    ]
);

/// Idle connections to other servers are kept so long: less than the usual `KeepAliveTimeout` of 5 s.
// spec: mod_backhand 9.5
const IDLE: Duration = Duration::from_secs(4);

/// Made anew at each reading of the configuration.
static PLAN: Mutex<Option<Plan>> = Mutex::new(None);
/// Whether mod_proxy is there.
static HAS_PROXY: AtomicBool = AtomicBool::new(false);
/// What a child holds. Set once in each child; the parent and the manager have none.
static CHILD: OnceLock<Child> = OnceLock::new();

/// What a child holds.
pub(crate) struct Child {
    pub(crate) plan: Plan,
    /// Without mod_proxy there are none.
    pub(crate) workers: Option<Workers>,
    /// This server, in the headers of requests that are sent on.
    pub(crate) origin: Origin,
    /// Of the random numbers.
    seed: u64,
}

impl Child {
    /// Random numbers for a request. The place of the request and the time tell it from all others of this child; state
    /// of the thread would cost a request more than all else that is done here, as its memory is rarely in a cache.
    pub(crate) fn random(&self, request: Request<'_>, time: Micros) -> Random {
        let place = request.as_ptr().addr() as u64;
        Random::new(self.seed.wrapping_add(time.0 << 32 ^ time.0 ^ place.rotate_left(24)))
    }
}

/// The state of this child.
pub(crate) fn child() -> Option<&'static Child> {
    CHILD.get()
}

/// The plan of the configuration.
pub(crate) fn plan() -> Option<Plan> {
    PLAN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Module for Backhand {
    type ServerConfig = Global;

    fn raw() -> *mut httpd::ffi::module {
        &raw mut backhand_module
    }

    fn create_server(_server: Server<'_>) -> Global {
        Global::default()
    }

    fn merge_server(base: &Global, _over: &Global) -> Global {
        base.clone()
    }

    fn register(hooks: &Hooks<'_, Self>) {
        hooks.pre_config(Order::Middle);
        hooks.check_config(Order::Middle);
        hooks.post_config(Order::Last);
        hooks.child_init(Order::Middle);
        hooks.requests();
    }

    fn pre_config(_conf: Pool<'_>) -> Status {
        settings::reset();
        external::reset();
        *PLAN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        HAS_PROXY.store(proxy::find::<Self>(), Relaxed);
        Status::Ok
    }

    fn check_config(temp: Pool<'_>, _main: Server<'_>) -> Status {
        if !HAS_PROXY.load(Relaxed) && settings::needs_proxy() {
            let text = "Backhand: requests cannot be given to other servers without mod_proxy and mod_proxy_http; \
                        load them, or use HTTPRedirectToName or HTTPRedirectToIP in the chain";
            say_at_start(temp, Level::Error, text);
            return Status::Stop;
        }
        Status::Ok
    }

    fn post_config(conf: Pool<'_>, main: Server<'_>) -> Status {
        if MainState::now() == MainState::FirstPass {
            return Status::Ok;
        }
        let Some(global) = config::<Self>(main) else { return Status::Ok };
        for warning in &global.warnings {
            main.log().write(Level::Warning, warning);
        }
        if !global.is_active() {
            return Status::Ok;
        }
        let plan = match make_plan(conf, main, global) {
            Ok(plan) => plan,
            Err(why) => {
                say_at_start(conf, Level::Error, &why);
                main.log().write(Level::Error, &why);
                return Status::Stop;
            }
        };
        if let Err(error) = shared::open() {
            say_at_start(conf, Level::Error, &format!("no shared memory for the matrix: {error}"));
            return Status::Stop;
        }
        *PLAN.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
        let Some(table) = shared::table() else { return Status::Stop };
        manager::prepare::<BackhandManager>(conf, main);
        // At the first start there is no scoreboard yet: the manager starts in `pre_mpm`.
        if table.manager.load(Relaxed) != 0 {
            manager::start();
        }
        Status::Ok
    }

    fn child_init(child: Pool<'_>, main: Server<'_>) {
        let Some(plan) = plan() else { return };
        let Global { connect_timeout, pools, .. } = plan.global;
        let settings = Connections { connect: connect_timeout, idle: IDLE, reuse: pools };
        let workers = HAS_PROXY.load(Relaxed).then(|| Workers::new(child, main, settings)).flatten();
        let Some(origin) = plan.contacts.first().map(|contact| Origin::new(*contact)) else { return };
        let mut seed = [0u8; 8];
        // SAFETY: eight writable bytes. Fewer than asked for leave zeros, which are a worse seed only.
        unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
        // Once per process: nothing can be there.
        let _ = CHILD.set(Child { plan, workers, origin, seed: u64::from_ne_bytes(seed) });
    }
}

impl RequestModule for Backhand {
    type DirConfig = Dir;

    fn create_dir() -> Dir {
        Dir::default()
    }

    fn merge_dir(base: &Dir, over: &Dir) -> Merged<Dir> {
        Dir::merge(base, over)
    }

    fn pre_mpm() {
        let started = shared::table().is_none_or(|table| table.manager.load(Relaxed) != 0);
        if !started && plan().is_some() {
            manager::start();
        }
    }

    fn post_read(request: Request<'_>) {
        receive::post_read(request);
    }

    fn handler(request: Request<'_>) -> Outcome {
        if request.has_handler(c"backhand-handler") { page::show(request) } else { decide::handler(request) }
    }
}

/// Everything that depends on more than one directive.
fn make_plan(conf: Pool<'_>, main: Server<'_>, global: &Global) -> Result<Plan, String> {
    let arriba_file = arriba_file(conf, global)?;
    let port = global.contact.and_then(|c| c.1).or_else(first_port).unwrap_or(80);
    let contact = |d: &backhand::Destination| {
        let announced = global.contact.map(|c| c.0).or(d.interface).or_else(|| source_towards(d.dest));
        let addr = announced.filter(|addr| !addr.is_unspecified());
        let localhost: IpAddr =
            if d.dest.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let addr = addr.unwrap_or(localhost);
        SocketAddr::new(addr, d.contact_port.unwrap_or(port))
    };
    let mut contacts: Vec<SocketAddr> = global.destinations.iter().map(contact).collect();
    if contacts.is_empty() {
        let (addr, _) =
            global.contact.ok_or("BackhandStatsGroup without MulticastStats needs BackhandContact")?;
        contacts.push(SocketAddr::new(addr, port));
    }
    let configured = main.hostname().and_then(|name| std::str::from_utf8(name).ok()).and_then(Name::new);
    let hostname = global
        .hostname
        .or(configured)
        .or_else(node_name)
        .ok_or("this server has no name: set ServerName or BackhandHostname")?;
    Ok(Plan { global: global.clone(), contacts, hostname, arriba_file, log: main.log() })
}

fn node_name() -> Option<Name> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Name::new(name.trim())
}

/// Where the speed of this machine is kept. The usual folder may be away, a configured one must be good.
// spec: mod_backhand 2.1
fn arriba_file(conf: Pool<'_>, global: &Global) -> Result<Option<std::path::PathBuf>, String> {
    let dir = match &global.socket_dir {
        Some(dir) => {
            let meta = fs::metadata(dir).map_err(|e| format!("UnixSocketDir {}: {e}", dir.display()))?;
            if !meta.is_dir() {
                return Err(format!("UnixSocketDir {} is not a directory", dir.display()));
            }
            if meta.permissions().mode() & 0o002 != 0 {
                return Err(format!("UnixSocketDir {} can be written by everybody", dir.display()));
            }
            Some(dir.clone())
        }
        None => runtime_path(conf, c"backhand").filter(|dir| dir.is_dir()),
    };
    Ok(dir.map(|dir| dir.join("mod_backhand-Arriba")))
}
