//! The command line.
//!
//! `pgherd relay` takes walbouncer's options as they are: that is why `-h` is the host and
//! help is `-?` or `--help` there. Called as `walbouncer`, the binary is `pgherd relay`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::pace::Pace;
use crate::split_options::Split;

/// Keeps a herd of PostgreSQL servers in step: whole, in part, or row by row.
#[derive(Debug, Parser)]
#[command(name = "pgherd", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Forwards physical replication, without the databases and tablespaces that a standby
    /// should not hold.
    ///
    /// Standbys connect to the relay instead of the primary. Which of them gets what stands in
    /// the configuration; without one, everybody gets everything.
    #[command(disable_help_flag = true, args_conflicts_with_subcommands = true)]
    Relay(Relay),
    /// Makes a standby that holds what its configuration includes
    ///
    /// Takes the base backup through the relay, or as the relay would when it does not run, and
    /// writes the settings with which the standby follows it. Ends with a data directory that is
    /// whole, or with none.
    Clone(CloneOptions),
    /// Moves databases of a running server into a new, independent server
    ///
    /// Clones them through a relay of its own, follows the source, and in the end closes them
    /// there and opens them on the new server: some seconds without writes. Every step is written
    /// down; `pgherd split finish` continues after whatever happened, `pgherd split undo` goes back.
    Split(Box<Split>),
    /// Prints what a shell needs to complete pgherd's command lines
    ///
    /// Packages install it. By hand, for bash: `pgherd completions bash >
    /// ~/.local/share/bash-completion/completions/pgherd`.
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
struct Relay {
    #[command(flatten)]
    run: RelayOptions,
    #[command(subcommand)]
    command: Option<RelayCommand>,
}

/// Options of `pgherd relay`.
#[derive(Debug, Args)]
pub(crate) struct RelayOptions {
    /// Read the configuration from this file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Connect to the upstream server on this host [default: localhost]
    #[arg(short = 'h', long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Connect to the upstream server on this port [default: 5432]
    #[arg(short = 'P', long, value_name = "PORT")]
    pub(crate) masterport: Option<String>,
    /// Listen on this port [default: 5433]
    ///
    /// Replaces the port of every address in `listen`; without `listen` the relay then takes
    /// connections on all IPv4 addresses, as walbouncer does.
    #[arg(short, long, value_name = "PORT")]
    pub(crate) port: Option<String>,
    /// Log more; twice for everything
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How log lines are written [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// Check the configuration and exit: status 0 when it is good, 78 when it is not
    #[arg(long)]
    pub(crate) check: bool,
    /// Run in a session of its own, which no terminal ends
    #[arg(long, hide = true)]
    pub(crate) own_session: bool,
    /// Print help
    #[arg(short = '?', long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Subcommand)]
enum RelayCommand {
    /// Forget what was decided for a configuration; its standbys then need new base backups
    ///
    /// Needed after a filter was loosened. Stop the standbys of the configuration first. Also drops
    /// the replication slots that the relay made for it (`slot: auto`).
    #[command(disable_help_flag = true)]
    Forget(Forget),
    /// Show a running relay: its upstream, what went through, who is connected and how far
    #[command(disable_help_flag = true)]
    Status(Status),
    /// List the clients of a running relay, with their positions
    #[command(disable_help_flag = true)]
    Clients(Ask),
    /// List what was decided about each database and tablespace, since when, and why
    #[command(disable_help_flag = true)]
    Databases(Ask),
    /// Have a running relay read its configuration again: status 78 when the new one is bad
    ///
    /// The old one stays then. Streams that a change does not touch go on without a pause. SIGHUP
    /// does the same, and tells the log only.
    #[command(disable_help_flag = true)]
    Reload(Reload),
}

/// How a running relay is found.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// The relay's configuration file, which tells where it answers HTTP
    #[arg(short, long, value_name = "FILE", required_unless_present = "http")]
    pub(crate) config: Option<PathBuf>,
    /// Where it answers, instead of what the file says: ADDRESS:PORT or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<String>,
    /// Authorities whose certificate the relay has to show, instead of exactly that which
    /// `http_tls` of the file names
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Own certificate, which counts as much as the token; with `--key`
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of `--cert`
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Print help
    #[arg(short = '?', long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Options of `pgherd relay clients` and `databases`.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) at: Where,
    /// Print JSON, as the relay answers it
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `pgherd relay status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) ask: Ask,
    /// Show it again every two seconds, until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// Options of `pgherd relay reload`.
#[derive(Debug, Args)]
pub(crate) struct Reload {
    #[command(flatten)]
    pub(crate) at: Where,
    /// The file with the token, instead of `http_token_file`
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// A question to a running relay.
#[derive(Debug)]
pub(crate) enum Question {
    Status(Status),
    Clients(Ask),
    Databases(Ask),
    Reload(Reload),
}

/// Options of `pgherd relay forget`.
#[derive(Debug, Args)]
pub(crate) struct Forget {
    /// Name of the configuration
    #[arg(required_unless_present = "upstream")]
    pub(crate) name: Option<String>,
    /// Forget which cluster the upstream is and how far it has come: the next that `hosts` leads
    /// to is taken, whatever it is. Stop the relay first
    #[arg(long, conflicts_with = "name")]
    pub(crate) upstream: bool,
    /// The relay's configuration file, which tells where the state is
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print help
    #[arg(short = '?', long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Options of `pgherd clone`.
#[derive(Debug, Args)]
pub(crate) struct CloneOptions {
    /// Read the relay's configuration from this file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The standby's application_name, which chooses its configuration
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: String,
    /// Put the data directory here; absent or empty
    #[arg(short = 'D', long = "pgdata", value_name = "DIR")]
    pub(crate) target: PathBuf,
    /// Log in as this user [default: PGUSER, upstream.catalog.user, or your own name]
    #[arg(short = 'U', long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Find the password in this file, also when the standby logs in [default: PGPASSFILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) passfile: Option<PathBuf>,
    /// The relay that the standby will stream from; it has to run [default: the first of `listen`]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) relay: Option<String>,
    /// Make this replication slot for the standby [default: pgherd_NAME]
    #[arg(long, value_name = "SLOT", conflicts_with = "no_slot")]
    pub(crate) slot: Option<String>,
    /// Make no replication slot
    #[arg(long)]
    pub(crate) no_slot: bool,
    /// Put the tablespace at OLD into the folder NEW; may come several times
    #[arg(short = 'T', long, value_name = "OLD=NEW")]
    pub(crate) tablespace_mapping: Vec<String>,
    /// Take the programs of PostgreSQL from this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// As root: whose the files will be [default: whoever owns the folder around DIR]
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// Show what the standby would hold and how much that is, and exit
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Log what happens; twice for more
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Values of `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line of text an event
    Text,
    /// One JSON object an event
    Json,
}

/// What the command line asks for.
pub(crate) enum Parsed {
    Relay(RelayOptions),
    Forget(Forget),
    Ask(Question),
    Clone(CloneOptions),
    Split(Box<Split>),
    /// Help, version or completions, for standard output.
    Said(String),
    /// A complaint, for standard error.
    Wrong(String),
}

/// Reads the command line, program name first.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Parsed {
    let mut arguments: Vec<_> = arguments.into_iter().collect();
    let called = arguments.first().map(|program| Path::new(program).file_name());
    if called.flatten().is_some_and(|name| name == "walbouncer") {
        arguments.splice(..1, ["pgherd".into(), "relay".into()]);
    }
    // walbouncer without arguments runs with its defaults, and so does the relay.
    match Cli::try_parse_from(arguments) {
        Ok(Cli { command: Command::Relay(relay) }) => match relay.command {
            Some(RelayCommand::Forget(forget)) => Parsed::Forget(forget),
            Some(RelayCommand::Status(it)) => Parsed::Ask(Question::Status(it)),
            Some(RelayCommand::Clients(it)) => Parsed::Ask(Question::Clients(it)),
            Some(RelayCommand::Databases(it)) => Parsed::Ask(Question::Databases(it)),
            Some(RelayCommand::Reload(it)) => Parsed::Ask(Question::Reload(it)),
            None => Parsed::Relay(relay.run),
        },
        Ok(Cli { command: Command::Clone(options) }) => Parsed::Clone(options),
        Ok(Cli { command: Command::Split(split) }) => Parsed::Split(split),
        Ok(Cli { command: Command::Completions { shell } }) => Parsed::Said(completions(shell)),
        Err(error) if error.use_stderr() => Parsed::Wrong(error.render().to_string()),
        Err(error) => Parsed::Said(error.render().to_string()),
    }
}

fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pgherd", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(line: &str) -> RelayOptions {
        match parse(line.split(' ').map(OsString::from)) {
            Parsed::Relay(options) => options,
            Parsed::Wrong(text) | Parsed::Said(text) => panic!("{text}"),
            _ => panic!("another command"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn walbouncers_options_are_taken_as_they_are() {
        for line in [
            "pgherd relay -c f.yaml -h db -P 5432 -p 6000 -v",
            "/usr/bin/walbouncer --config=f.yaml --host=db --masterport=5432 --port=6000 -v",
            "walbouncer --config f.yaml -hdb -P5432 -p6000 --verbose",
        ] {
            let options = relay(line);
            assert_eq!(options.config.as_deref(), Some(Path::new("f.yaml")), "{line}");
            assert_eq!(options.host.as_deref(), Some("db"), "{line}");
            assert_eq!(options.masterport.as_deref(), Some("5432"), "{line}");
            assert_eq!(options.port.as_deref(), Some("6000"), "{line}");
            assert_eq!(options.verbose, 1, "{line}");
        }
        assert!(relay("walbouncer").config.is_none());
    }

    #[test]
    fn help_is_a_question_mark() {
        for line in ["walbouncer -?", "pgherd relay --help", "pgherd relay forget -?"] {
            let parsed = parse(line.split(' ').map(OsString::from));
            assert!(matches!(parsed, Parsed::Said(text) if text.contains("Usage")), "{line}");
        }
    }

    #[test]
    fn an_unknown_option_is_refused() {
        let parsed = parse(["pgherd", "relay", "--prot", "1"].map(OsString::from));
        assert!(matches!(parsed, Parsed::Wrong(text) if text.contains("--port")));
    }
}
