//! The module: hooks, and the state they share.
// spec: mod_log_spread 7.3

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError, RwLock};

use httpd::errorlog::{Entry, ErrorLog};
use httpd::logwriter::{self, LogWriter, Portions};
use httpd::module::{config, say_at_start};
use httpd::shared::Shared;
use httpd::{Hooks, Level, Module, Order, Pool, Request, Server, Status, StatusForm, directive};
use log_stream::group::Target;

use crate::child::Child;
use crate::counters::Counters;
use crate::errors;
use crate::plan::Plan;
use crate::settings::{self, Settings};

/// The module `log_spread_module`.
pub(crate) struct LogSpread;

httpd::export!(
    log_spread_module,
    LogSpread,
    c"mod_log_spread.c",
    [
        &settings::DAEMON,
        &settings::WIRE,
        &settings::SERVICE,
        &settings::BUCKETS,
        &settings::HASH,
        &settings::QUEUE,
        &settings::MAX_WAIT,
        &settings::WHEN_FULL,
        &settings::MAX_LINE,
        &settings::BATCH,
        &settings::AUDIT,
        &settings::ACKS,
        &settings::RETRY,
        &settings::SPOOL,
        &settings::ERROR_LOG,
    ]
);

/// Logs of the configuration, built anew at each reading.
static PLAN: Mutex<Option<Plan>> = Mutex::new(None);
/// Counters of all children; made once in the life of the server.
static COUNTERS: Mutex<Option<Shared<Counters>>> = Mutex::new(None);
/// The state of this child, while it works.
static CHILD: RwLock<Option<Child>> = RwLock::new(None);

impl Module for LogSpread {
    type ServerConfig = Settings;

    fn raw() -> *mut httpd::ffi::module {
        &raw mut log_spread_module
    }

    fn create_server(_server: Server<'_>) -> Settings {
        Settings::default()
    }

    fn merge_server(base: &Settings, over: &Settings) -> Settings {
        Settings::merge(base, over)
    }

    fn register(hooks: &Hooks<'_, Self>) {
        hooks.pre_config(Order::Middle);
        // Before mod_log_config, which takes a name with a slash for a file in a missing directory.
        hooks.check_config(Order::First);
        // Before mod_log_config opens its logs, after BufferedLogs was read.
        hooks.open_logs(Order::First, &[c"mod_log_config.c"]);
        hooks.logs_opened(&[c"mod_log_config.c"]);
        hooks.post_config(Order::Middle);
        hooks.child_init(Order::Middle);
        hooks.status();
        hooks.error_log();
    }

    fn pre_config(_conf: Pool<'_>) -> Status {
        // Statics may or may not have survived the last reading (spec: httpd-ffi 6).
        *PLAN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        logwriter::reset();
        Status::Ok
    }

    fn check_config(temp: Pool<'_>, _main: Server<'_>) -> Status {
        if let Err(what) = httpd::module::check_module_stuff::<Self>() {
            say_at_start(temp, Level::Critical, &format!("built for another server: {what} differs"));
            return Status::Stop;
        }
        let mut status = Status::Ok;
        for node in directive::tree(temp) {
            let logs = ["CustomLog", "TransferLog", "GlobalLog"];
            let Some(name) = logs.iter().find(|n| node.name().eq_ignore_ascii_case(n.as_bytes())) else {
                continue;
            };
            let words = node.words();
            let Some(Err(error)) = words.first().and_then(|word| Target::parse(word)) else { continue };
            status = Status::Stop;
            let text = String::from_utf8_lossy(words.first().copied().unwrap_or_default()).into_owned();
            let file = String::from_utf8_lossy(node.file()).into_owned();
            let line = node.line();
            say_at_start(
                temp,
                Level::Error,
                &format!("Syntax error on line {line} of {file}: {name} \"{text}\": {error}"),
            );
        }
        status
    }

    fn open_logs(log: Pool<'_>, main: Server<'_>) -> Status {
        let global = config::<Self>(main).map(|s| s.global.clone()).unwrap_or_default();
        let mut plan = Plan { global, ..Plan::default() };
        for settings in main.list().filter_map(config::<Self>) {
            plan.add_errors(settings);
        }
        *PLAN.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
        if !logwriter::take::<Self>() {
            say_at_start(log, Level::Error, "mod_log_config is not loaded: no line can be logged");
        }
        Status::Ok
    }

    fn logs_opened(_main: Server<'_>) -> Status {
        logwriter::freeze();
        Status::Ok
    }

    fn post_config(_conf: Pool<'_>, main: Server<'_>) -> Status {
        match Shared::retained(c"mod_log_spread-counters-3") {
            Ok(counters) => *COUNTERS.lock().unwrap_or_else(PoisonError::into_inner) = Some(counters),
            Err(error) => main
                .log()
                .write(Level::Error, &format!("no shared memory, each child counts for itself: {error}")),
        }
        let plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(plan) = plan.as_ref().filter(|p| !p.logs.is_empty()) else { return Status::Ok };
        if httpd::MainState::now() == httpd::MainState::FirstPass {
            return Status::Ok;
        }
        if plan.default_daemon {
            main.log().write(Level::Notice, "no SpreadDaemon is configured: 4803, the local daemon, is used");
        }
        warn_about_memory(plan, main);
        if let Some(spool) = &plan.global.spool {
            let counters = *COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = make_spool(&spool.root, counters) {
                // A server that runs must not end here: its children go on in memory, and say so.
                let text = format!("spool {}: {error}; lines are in memory only", spool.root.display());
                main.log().write(Level::Critical, &text);
            }
        }
        Status::Ok
    }

    fn child_init(child: Pool<'_>, main: Server<'_>) {
        let plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(plan) = plan.filter(|p| !p.logs.is_empty()) else { return };
        let shared = *COUNTERS.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = shared.map_or_else(|| Box::leak(Box::default()), Shared::get);
        let host = String::from_utf8_lossy(main.hostname().unwrap_or(b"-")).into_owned();
        let generation = httpd::server::generation().unwrap_or(0);
        let version = env!("CARGO_PKG_VERSION");
        let about =
            format!("host={host}\npid={}\ngeneration={generation}\nversion={version}\n", std::process::id());
        let started = Child::start(plan, counters, main.log(), &about);
        *CHILD.write().unwrap_or_else(PoisonError::into_inner) = Some(started);
        // Worker threads have ended when the pool ends; nobody writes lines then.
        child.on_end(|| {
            let child = CHILD.write().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(child) = child {
                child.end();
            }
            // Threads that are late go on until the process ends, and the server's records end before it.
            httpd::log::close();
        });
    }

    fn status(request: Request<'_>, form: StatusForm) {
        if let Some(counters) = *COUNTERS.lock().unwrap_or_else(PoisonError::into_inner) {
            request.write(counters.page(form).as_bytes());
        }
    }
}

impl ErrorLog for LogSpread {
    fn entry(entry: &Entry<'_>) {
        // Never waits: a thread that starts or ends the child may hold the lock and log.
        let Ok(child) = CHILD.try_read() else { return };
        if let Some(child) = &*child {
            errors::take(entry, child);
        }
    }
}

impl LogWriter for LogSpread {
    fn open(server: Server<'_>, name: &[u8]) -> Option<u32> {
        let mut plan = PLAN.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = config::<Self>(server)?;
        plan.as_mut()?.add(settings, name)
    }

    fn write(request: Request<'_>, log: u32, portions: Portions<'_>) {
        if let Some(child) = &*CHILD.read().unwrap_or_else(PoisonError::into_inner) {
            child.write(request, log, portions);
        }
    }
}

/// Makes the folder of the spool, for the user of the children alone. At the start of the server, counts what an earlier
/// one left there.
fn make_spool(root: &Path, counters: Option<Shared<Counters>>) -> io::Result<()> {
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let (user, group) = httpd::server::run_user();
    let found = fs::symlink_metadata(root)?;
    if !found.is_dir() {
        return Err(io::Error::other("this is no folder"));
    }
    // SAFETY: a plain query.
    let own = unsafe { libc::geteuid() };
    if own == 0 && found.uid() != user {
        // A folder of somebody else is not taken from him.
        if found.uid() != 0 {
            return Err(io::Error::other(format!("it belongs to user {}, not to {user}", found.uid())));
        }
        std::os::unix::fs::lchown(root, Some(user), Some(group))?;
    }
    if own == 0 || found.uid() == own {
        fs::set_permissions(root, fs::Permissions::from_mode(0o700))?;
    }
    if let Some(counters) = counters
        && counters.instance.load(Relaxed) == 0
    {
        counters.instance.store(random_instance()?, Relaxed);
        counters.spool_bytes.store(log_spool::bytes_in(root), Relaxed);
    }
    Ok(())
}

/// A number that tells this server from others; not 0.
fn random_instance() -> io::Result<u64> {
    Ok(u64::from_le_bytes(crate::session::random()?) | 1)
}

/// Says so when the queues of all children could take more than a quarter of the memory.
// spec: mod_log_spread M-16
fn warn_about_memory(plan: &Plan, main: Server<'_>) {
    let children = u64::from(httpd::server::children_max().unwrap_or(1));
    let queues = plan.links.len() as u64 * plan.global.queue_bytes as u64;
    // SAFETY: plain queries.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let memory = u64::try_from(pages).unwrap_or(0).saturating_mul(u64::try_from(page).unwrap_or(0));
    let most = children.saturating_mul(queues);
    if memory > 0 && most > memory / 4 {
        main.log().write(
            Level::Warning,
            &format!(
                "the queues of {children} children could take {} MiB, more than a quarter of the memory ({} MiB); \
                 see SpreadLogQueue",
                most >> 20,
                memory >> 20
            ),
        );
    }
}
