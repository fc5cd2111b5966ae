//! The manual pages in `docs/man`, written from the command line's own definition.
//!
//! Only in tests: the binary does not carry what writes them. With `UPDATE_MAN=1` in the
//! environment the test writes them anew instead of comparing.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Cli;

/// A section: its title, and entries with what they are about.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

/// Sections behind the options of `pgherd relay`.
const SECTIONS: [Section; 4] = [
    (
        "SIGNALS",
        &[(
            "SIGTERM, SIGINT",
            "Stop: each client is told, and the status is 0. Standbys reconnect by themselves once \
             the relay is back.",
        )],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "Stopped by a signal, or the configuration is good (--check)."),
            ("1", "It could not run; the log says why."),
            ("64", "The command line is wrong."),
            ("78", "The configuration is wrong; each problem is on standard error with its line."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "PGPASSWORD, PGPASSFILE",
                "The password with which the relay reads names, when upstream.catalog.passfile is \
                 not set.",
            ),
            ("PGHERD_LOG", "What is logged, as in relay=debug,info."),
            ("XDG_STATE_HOME", "Where state is kept, when state_dir is not set."),
        ],
    ),
    (
        "FILES",
        &[
            ("~/.pgpass", "Passwords, as for every client of PostgreSQL."),
            ("~/.local/state/pgherd", "State, when neither state_dir nor XDG_STATE_HOME is set."),
        ],
    ),
];

/// Sections behind the options of `pgherd split`.
const SPLIT_SECTIONS: [Section; 4] = [
    (
        "COMMANDS",
        &[
            (
                "pgherd split finish [-y] [--drop-source] [--skip-checks] [--name NAME]",
                "Goes on where a split stands: after --until-ready, Ctrl-C, a failure or a kill. With \
                 --drop-source on a finished split, drops the databases on the source.",
            ),
            (
                "pgherd split undo [-y] [--name NAME]",
                "Gives the databases back to the source. Before the promotion the new server is removed \
                 and nothing is lost. After it, what was written on the new server stays there: its \
                 databases are closed, it is stopped, and its data directory is kept.",
            ),
            ("pgherd split status [--name NAME]", "Shows how far the splits are."),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "Done, or the plan has nothing that stops it (--plan)."),
            (
                "1",
                "It failed, was stopped, or something would fail. The source is open unless said.",
            ),
            ("64", "The command line is wrong."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            ("PGPASSWORD, PGPASSFILE", "The password for both servers."),
            ("XDG_STATE_HOME", "Where the journal is kept, when --state-dir is not given."),
        ],
    ),
    (
        "FILES",
        &[(
            "~/.local/state/pgherd/split/NAME",
            "The journal of a split, and the configuration, log and state of its relay.",
        )],
    ),
];

/// The pages: name of the file, and text.
fn pages() -> Vec<(String, String)> {
    let mut pgherd = Cli::command();
    pgherd.build();
    let relay = pgherd.find_subcommand("relay").expect("the command is there");
    let clone = pgherd.find_subcommand("clone").expect("the command is there");
    let split = pgherd.find_subcommand("split").expect("the command is there");
    let completions = pgherd.find_subcommand("completions").expect("the command is there");
    let forget = relay.find_subcommand("forget").expect("the command is there");
    let others = "pgherd-relay(1), pgherd-clone(1), pgherd-split(1), pgherd-completions(1)";
    vec![
        page(pgherd.clone(), "pgherd", &[], others),
        page(relay.clone(), "pgherd-relay", &SECTIONS, "pgherd-relay-forget(1)"),
        page(forget.clone(), "pgherd-relay-forget", &[], "pgherd-relay(1)"),
        page(clone.clone(), "pgherd-clone", &[], "pgherd-relay(1), pg_basebackup(1)"),
        page(split.clone(), "pgherd-split", &SPLIT_SECTIONS, "pgherd-relay(1), pg_basebackup(1)"),
        page(completions.clone(), "pgherd-completions", &[], "pgherd-relay(1)"),
    ]
}

fn page(
    command: Command,
    name: &'static str,
    sections: &[Section],
    see_also: &str,
) -> (String, String) {
    let man = Man::new(command.display_name(name)).title(name).source("pgherd").date("");
    let mut text = Vec::new();
    for render in [
        Man::render_title,
        Man::render_name_section,
        Man::render_synopsis_section,
        Man::render_description_section,
        Man::render_options_section,
    ] {
        render(&man, &mut text).expect("writing to memory");
    }
    let mut roff = Roff::new();
    for (title, entries) in sections {
        roff.control("SH", [*title]);
        for (head, meaning) in *entries {
            roff.control("TP", []).text([bold(*head)]).text([roman(*meaning)]);
        }
    }
    roff.control("SH", ["SEE ALSO"]).text([roman(see_also)]);
    roff.to_writer(&mut text).expect("writing to memory");
    (format!("{name}.1"), String::from_utf8(text).expect("pages are text"))
}

#[test]
fn the_manual_pages_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/man");
    for (name, text) in pages() {
        let path = folder.join(name);
        if std::env::var_os("UPDATE_MAN").is_some() {
            fs::write(&path, text).unwrap();
            continue;
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, text, "{}: run UPDATE_MAN=1 cargo test -p pgherd man", path.display());
    }
}
