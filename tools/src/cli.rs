//! The command lines.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, ValueEnum};
use spread::blocking::Connection;
use spread::{Auth, Builder, ConnectError, GroupName, PrivateGroup, Reconnect, Service};

const EXIT: &str = "Exit status: 0 done, 1 failed, 2 wrong use.";

/// Which daemon, and as whom.
#[derive(Args, Clone, Debug)]
pub struct Daemon {
    /// Daemon: 4803 (local socket), 4803@host, a path, or tls://host:port
    #[arg(short = 's', long = "spread", value_name = "DAEMON", default_value = "4803")]
    pub daemon: String,
    /// Name of this session, at most 10 characters; without it the daemon invents one
    #[arg(short, long, value_name = "NAME")]
    pub user: Option<String>,
    /// Log in as this user (method PWORD); the password is in --password-file or in the variable SPREAD_PASSWORD
    #[arg(long, value_name = "USER")]
    pub login: Option<String>,
    /// File whose first line is the password of --login
    #[arg(long, value_name = "FILE", requires = "login")]
    pub password_file: Option<PathBuf>,
}

impl Daemon {
    /// How to log in. No password on the command line: all users of the host can read those.
    fn auth(&self) -> anyhow::Result<Option<Auth>> {
        let Some(user) = self.login.clone() else { return Ok(None) };
        let password = match &self.password_file {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                let text = text.with_context(|| format!("--password-file {}", file.display()))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            None => std::env::var("SPREAD_PASSWORD")
                .context("--login needs --password-file or the variable SPREAD_PASSWORD")?,
        };
        Ok(Some(Auth::Password { user, password }))
    }

    /// Connects.
    ///
    /// # Errors
    /// A wrong address or name, or the daemon's refusal.
    pub fn connect(&self, membership: bool, reconnect: bool) -> anyhow::Result<Connection> {
        let mut builder = Builder::new(&self.daemon)?.membership(membership);
        if let Some(name) = &self.user {
            builder = builder.private_name(name).with_context(|| format!("--user {name}"))?;
        }
        if reconnect {
            builder = builder.reconnect(Reconnect::default());
        }
        if let Some(auth) = self.auth()? {
            builder = builder.auth([auth]);
        }
        let result = builder.connect_blocking();
        let hint = match &result {
            // Without a host it is the local socket, which newcomers do not expect.
            Err(ConnectError::Connect { .. })
                if !self.daemon.contains('@') && !self.daemon.contains("://") =>
            {
                " (no daemon with this local socket here? another host: -s PORT@HOST)"
            }
            Err(ConnectError::AuthNotOffered { .. }) if self.login.is_none() => " (log in with --login)",
            _ => "",
        };
        result.with_context(|| format!("cannot use the daemon {}{hint}", self.daemon))
    }
}

/// How messages are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ServiceName {
    /// May be lost
    Unreliable,
    /// In any order
    Reliable,
    /// In the order of each sender
    Fifo,
    /// Cause before effect
    Causal,
    /// One order for all
    Agreed,
    /// One order for all, and all daemons have it
    Safe,
}

impl From<ServiceName> for Service {
    fn from(name: ServiceName) -> Self {
        match name {
            ServiceName::Unreliable => Self::UNRELIABLE,
            ServiceName::Reliable => Self::RELIABLE,
            ServiceName::Fifo => Self::FIFO,
            ServiceName::Causal => Self::CAUSAL,
            ServiceName::Agreed => Self::AGREED,
            ServiceName::Safe => Self::SAFE,
        }
    }
}

fn group(text: &str) -> Result<GroupName, String> {
    text.parse::<GroupName>().map_err(|error| error.to_string())
}

/// Reads what a message can be sent to: a group, or one session by its private group `#name#daemon`.
///
/// # Errors
/// If it is neither.
pub fn target(text: &str) -> Result<GroupName, String> {
    match text.parse::<PrivateGroup>() {
        Ok(session) => Ok(session.as_group()),
        Err(_) => group(text),
    }
}

/// Uses a Spread daemon by hand: joins and leaves groups, sends and shows messages
#[derive(Parser, Debug)]
#[command(name = "spuser", version, max_term_width = 100, after_help = USER_HELP)]
pub struct UserArgs {
    /// Which daemon, and as whom
    #[command(flatten)]
    pub daemon: Daemon,
    /// Take any free name (so it is without --user)
    #[arg(short, long = "random", conflicts_with = "user")]
    pub random: bool,
    /// How messages are sent
    #[arg(long, value_enum, default_value = "safe")]
    pub service: ServiceName,
}

/// The commands that are typed.
pub const USER_COMMANDS: &str = "  j GROUP          join a group
  l GROUP          leave a group
  s GROUP [TEXT]   send a message; without TEXT the next line is it
  m GROUP          send a message of many lines; an empty line ends it
  b GROUP [BYTES]  send a burst of ten messages
  e                show messages as they come (so it begins)
  d                keep them waiting
  r                receive one message, however long it takes
  p                receive a message if one is there
  q                quit";

const USER_HELP: &str = "\
Commands, one a line:
  j GROUP          join a group
  l GROUP          leave a group
  s GROUP [TEXT]   send a message; without TEXT the next line is it
  m GROUP          send a message of many lines; an empty line ends it
  b GROUP [BYTES]  send a burst of ten messages
  e                show messages as they come (so it begins)
  d                keep them waiting
  r                receive one message, however long it takes
  p                receive a message if one is there
  q                quit

Examples:
  spuser -u ann
  spuser -s 4803@log.example.net
  printf 'j g\\ns g hello\\nr\\nr\\n' | spuser

Exit status: 0 done, 1 failed, 2 wrong use.";

/// Sends many messages and receives them, and says how fast that went
#[derive(Parser, Debug)]
#[command(name = "spflooder", version, max_term_width = 100, after_help = FLOODER_HELP)]
pub struct FlooderArgs {
    /// Which daemon, and as whom
    #[command(flatten)]
    pub daemon: Daemon,
    /// Number of messages
    #[arg(short, long, value_name = "NUMBER", default_value_t = 10_000)]
    pub messages: u64,
    /// Bytes of a message
    #[arg(short, long, value_name = "NUMBER", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(..=143_120))]
    pub bytes: u32,
    /// Receive only; also -ro
    #[arg(long, conflicts_with = "write_only")]
    pub read_only: bool,
    /// Send only; also -wo
    #[arg(long)]
    pub write_only: bool,
    /// Group the messages go through
    #[arg(short, long, value_name = "GROUP", default_value = "flooder", value_parser = group)]
    pub group: GroupName,
    /// How messages are sent
    #[arg(long, value_enum, default_value = "reliable")]
    pub service: ServiceName,
    /// Messages that are sent and not received yet, at most. A daemon cuts off a reader that is 1000 behind
    #[arg(long, value_name = "NUMBER", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub window: u64,
    /// Print the figures as one JSON object
    #[arg(long)]
    pub json: bool,
}

const FLOODER_HELP: &str = "\
Examples:
  spflooder -m 100000 -b 100
  spflooder -ro -m 50000 & spflooder -wo -m 50000 -s 4803@other
  spflooder --json | jq .messages_per_second

Exit status: 0 done, 1 failed, 2 wrong use.";

/// `-ro` and `-wo` as the original spells them.
pub fn flooder_words(args: impl IntoIterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    args.into_iter()
        .map(|word| match word.to_str() {
            Some("-ro") => "--read-only".into(),
            Some("-wo") => "--write-only".into(),
            _ => word,
        })
        .collect()
}

/// Sends lines of standard input (or its arguments) to groups, each as one message
#[derive(Parser, Debug)]
#[command(name = "spsend", version, max_term_width = 100, after_help = SEND_HELP)]
pub struct SendArgs {
    /// Which daemon, and as whom
    #[command(flatten)]
    pub daemon: Daemon,
    /// Group to send to, or a session (#name#daemon); may be repeated: one message for all
    #[arg(short, long = "group", value_name = "GROUP", value_parser = target, required_unless_present = "json")]
    pub groups: Vec<GroupName>,
    /// How messages are sent
    #[arg(long, value_enum, default_value = "agreed")]
    pub service: ServiceName,
    /// Number that goes with each message
    #[arg(
        short = 't',
        long = "type",
        value_name = "NUMBER",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub message_type: i16,
    /// All of standard input is one message
    #[arg(long, conflicts_with_all = ["zero", "json"])]
    pub whole: bool,
    /// Messages end with a zero byte instead of a line feed
    #[arg(short = '0', long, conflicts_with = "json")]
    pub zero: bool,
    /// Each line is a JSON object as sprecv --json writes it; what it lacks is taken from the options
    #[arg(long)]
    pub json: bool,
    /// Connect again when the daemon is lost
    #[arg(long)]
    pub reconnect: bool,
    /// Messages; without any, standard input is read
    #[arg(value_name = "MESSAGE", conflicts_with_all = ["whole", "zero", "json"])]
    pub messages: Vec<String>,
}

const SEND_HELP: &str = r#"Examples:
  spsend -g site4 "maintenance at ten"
  tail -F access.log | spsend -g site4
  sprecv --json -g a | spsend --json -g b     copy group a to group b, types included

A JSON object has "data" (text) or "data_base64", and may have "groups" (a list), "type" and
"service"; with --group the groups of the object do not count.

Exit status: 0 done, 1 failed, 2 wrong use."#;

/// Writes the messages of groups to standard output, each as one line
#[derive(Parser, Debug)]
#[command(name = "sprecv", version, max_term_width = 100, after_help = RECV_HELP)]
pub struct RecvArgs {
    /// Which daemon, and as whom
    #[command(flatten)]
    pub daemon: Daemon,
    /// Group to receive; may be repeated
    #[arg(short, long = "group", value_name = "GROUP", value_parser = group, required = true)]
    pub groups: Vec<GroupName>,
    /// End after so many messages
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub count: Option<u64>,
    /// End when so many seconds pass without a message
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,
    /// One JSON object a line
    #[arg(long, conflicts_with = "zero")]
    pub json: bool,
    /// Membership messages too (they count)
    #[arg(long, requires = "json")]
    pub membership: bool,
    /// End messages with a zero byte instead of a line feed
    #[arg(short = '0', long)]
    pub zero: bool,
    /// Connect again when the daemon is lost; the gap is told
    #[arg(long)]
    pub reconnect: bool,
}

const RECV_HELP: &str = r#"Examples:
  sprecv -g site4
  sprecv -g site4 --json | jq -r 'select(.type == 1) | .sender + " " + .data'
  sprecv -g members --json --membership | jq -c 'select(.kind == "membership") | .members'

A JSON object has "kind": "data" (with "sender", "groups", "service", "type", and "data" or, if that
is no text, "data_base64"), "membership" (with "group", "cause", "member", "members"), "transition",
"left", "rejected" or "reconnected" (with "downtime_ms", "rejoined"). A gap is told on standard error
without --json.

Exit status: 0 done (also when the time is over), 1 failed, 2 wrong use."#;

/// The command lines of all programs, for man pages and completions.
pub fn commands() -> [clap::Command; 4] {
    debug_assert!(USER_HELP.contains(USER_COMMANDS) && USER_HELP.ends_with(EXIT));
    [UserArgs::command(), FlooderArgs::command(), SendArgs::command(), RecvArgs::command()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        for command in commands() {
            command.debug_assert();
        }
    }

    #[test]
    fn the_flags_of_the_original_are_understood() {
        let words = ["spflooder", "-m", "7", "-b", "9", "-s", "4804@h", "-u", "me", "-wo"].map(Into::into);
        let args = FlooderArgs::try_parse_from(flooder_words(words)).unwrap();
        assert!(args.write_only && !args.read_only);
        assert_eq!((args.messages, args.bytes, args.daemon.daemon.as_str()), (7, 9, "4804@h"));
        let args = UserArgs::try_parse_from(["spuser", "-s", "4804", "-r"]).unwrap();
        assert!(args.random && args.daemon.user.is_none());
    }

    #[test]
    fn wrong_use_is_refused() {
        assert!(SendArgs::try_parse_from(["spsend"]).is_err());
        assert!(SendArgs::try_parse_from(["spsend", "-g", "#a#b"]).is_ok());
        assert!(RecvArgs::try_parse_from(["sprecv", "-g", "#a#b"]).is_err());
        assert!(RecvArgs::try_parse_from(["sprecv", "-g", "g", "--membership"]).is_err());
        assert!(FlooderArgs::try_parse_from(["spflooder", "-b", "143121"]).is_err());
    }
}
