//! The command line of `pgherd split`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::pace::Pace;

/// `pgherd split` and its subcommands.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Split {
    #[command(flatten)]
    pub(crate) begin: SplitOptions,
    #[command(subcommand)]
    pub(crate) command: Option<SplitCommand>,
}

/// Options of `pgherd split` itself.
#[derive(Debug, Args)]
pub(crate) struct SplitOptions {
    /// Connect to the server that is split like this, as a superuser: "host=old user=postgres"
    ///
    /// The password is found as psql finds it: PGPASSWORD, PGPASSFILE, ~/.pgpass.
    #[arg(long, value_name = "CONNINFO", required = true)]
    pub(crate) source: Option<String>,
    /// Move these databases: names or globs, parted by commas; may come several times
    ///
    /// `*` is any run of characters, `?` is one, and a backslash makes the next character plain.
    #[arg(long, value_name = "LIST", required = true)]
    pub(crate) databases: Vec<String>,
    /// Put the new data directory here; absent or empty
    #[arg(short = 'D', long = "pgdata", value_name = "DIR", required = true)]
    pub(crate) target: Option<PathBuf>,
    /// The new server listens on this port
    #[arg(long, value_name = "PORT", required = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Take the programs of PostgreSQL, of the source's major, from this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Put the tablespace at OLD into the folder NEW; may come several times
    #[arg(short = 'T', long, value_name = "OLD=NEW")]
    pub(crate) tablespace_mapping: Vec<String>,
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// As root: whose the files will be [default: whoever owns the folder around DIR, or postgres]
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// Look at both sides, show what was found, and exit: status 1 when something would fail
    #[arg(long, conflicts_with = "yes")]
    pub(crate) plan: bool,
    /// Stop when the new server has caught up; `pgherd split finish` goes on
    #[arg(long)]
    pub(crate) until_ready: bool,
    #[command(flatten)]
    pub(crate) end: EndOptions,
}

/// How a split ends.
#[derive(Debug, Args)]
pub(crate) struct EndOptions {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Drop the moved databases on the source when all is done
    #[arg(long)]
    pub(crate) drop_source: bool,
    /// Leave out the last look at the moved databases: indexes, catalogs, rows
    #[arg(long)]
    pub(crate) skip_checks: bool,
    /// Open the databases on the source again when the cut has taken so many seconds
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) cut_timeout: u64,
    #[command(flatten)]
    pub(crate) which: Which,
}

/// Which split.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Name of the split [default: the last part of DIR; later the only one that there is]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Keep the journal below this folder [default: ~/.local/state/pgherd]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// What is done with a split that was begun.
#[derive(Debug, Subcommand)]
pub(crate) enum SplitCommand {
    /// Goes on where a split stands: after --until-ready, Ctrl-C, a failure or a kill
    Finish(EndOptions),
    /// Gives the databases back to the source
    ///
    /// Before the promotion the new server is removed and nothing is lost. After it, what was
    /// written on the new server stays there: its databases are closed, it is stopped, and its
    /// data directory is kept.
    Undo(UndoOptions),
    /// Shows how far the splits are
    Status(Which),
}

/// Options of `pgherd split undo`.
#[derive(Debug, Args)]
pub(crate) struct UndoOptions {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) which: Which,
}
