//! Reading the configuration again while the daemon runs: after SIGHUP, or when a monitor asks for it.

use std::path::Path;

use spread_wire::DaemonName;
use spreadd::config::{self, LoadError, SystemHost};
use spreadd::event_log::EventLog;
use spreadd::{Daemon, Options, Reloaded, Unchangeable};
use tracing::{error, info, warn};

/// Reads `file` and goes on with it. Whatever is wrong is logged, with file and line, and nothing changes then.
/// `finish` adds what the command line says. Returns whether the configuration is good.
pub(crate) fn reload(
    daemon: &Daemon,
    file: Option<&Path>,
    log: &EventLog,
    finish: impl Fn(&mut Options) -> Result<(), String>,
) -> bool {
    let Some(file) = file else {
        warn!("There is nothing to reload: this daemon was started without a configuration file.");
        return false;
    };
    let options = read(file, daemon.name()).and_then(|mut options| {
        finish(&mut options)?;
        Ok(options)
    });
    let result = options.and_then(|options| {
        let reloaded = daemon.reload(&options).map_err(|error| match error {
            Unchangeable::Entry(errors) => errors.render(false),
            other => chain(&other),
        })?;
        Ok((options, reloaded))
    });
    match result {
        Ok((options, reloaded)) => {
            announce(file, &reloaded);
            let host = nix::unistd::gethostname().unwrap_or_default();
            if let Some(config) = &options.config
                && let Err(error) = log.apply(&config.options, &host.to_string_lossy())
            {
                warn!(error = chain(&error), "The log goes on as before.");
            }
            true
        }
        Err(why) => {
            error!(
                "The configuration is not reloaded; everything goes on as before. If other daemons of the ring \
                 have taken it, they wait for this one.\n{why}"
            );
            false
        }
    }
}

fn read(file: &Path, name: DaemonName) -> Result<Options, String> {
    let mut config = config::load(file, &SystemHost).map_err(|error| match error {
        LoadError::Errors(errors) => errors.render(false),
        other => chain(&other),
    })?;
    // Its name is what others know it by, so it stays.
    let me = config.identify(Some(name), &SystemHost).map_err(|errors| errors.render(false))?;
    for warning in &config.warnings {
        warn!("{warning}");
    }
    Options::from_config(&config, me).map_err(|error| chain(&error))
}

fn announce(file: &Path, reloaded: &Reloaded) {
    let Reloaded { changed, restart, joining, leaving, agreement, .. } = reloaded;
    let changed: Vec<String> = changed.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    info!(
        file = %file.display(),
        changed = changed.join(", "),
        joining = joining.join(" "),
        leaving = leaving.join(" "),
        "The configuration was read again."
    );
    if *agreement {
        info!("The daemons change over to it together, as soon as all of the ring have read it.");
    }
    if !restart.is_empty() {
        warn!(options = restart.join(", "), "These options are different in the file, but need a restart.");
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
