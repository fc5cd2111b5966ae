//! From a file and options to checked settings.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::environment::Environment;
use crate::problem::{Place, Problem, Problems};
use crate::{Ask, ConfigError, Overrides, Relay, check, tree};

/// Largest file, in bytes: ten thousand names take a third of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads and checks the configuration file at `path`.
///
/// # Errors
///
/// [`ConfigError`] holds every problem found. A file that cannot be read, or is not
/// YAML, is one problem at which reading stops.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Relay, ConfigError> {
    let name = path.display().to_string();
    from_text(&name, &read(path, &name)?, overrides)
}

/// The text of a file that is not too large.
fn read(path: &Path, name: &str) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let hint = match error.kind() {
            ErrorKind::NotFound => "check the path that --config gives",
            ErrorKind::PermissionDenied => "let the user that runs the relay read the file",
            ErrorKind::IsADirectory => "name a file in this folder",
            _ => "check the file and the disk that it is on",
        };
        let problem = Problem::at(Place::File, format!("cannot read the file: {error}"), hint);
        return Err(ConfigError::single(name, problem));
    }
    if too_large(bytes.len()) {
        return Err(size_error(name)); // before the text is looked at: it is cut off
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        let mut problems = Problems::new(name, &text);
        problems.add(&(at..at), "this is not UTF-8", "save the file in the encoding UTF-8");
        problems.into_error()
    })
}

/// Checks the text of a configuration; `name` stands for the file in messages.
///
/// # Errors
///
/// As [`load`].
pub fn from_text(name: &str, text: &str, overrides: &Overrides) -> Result<Relay, ConfigError> {
    in_environment(name, text, overrides, &Environment::of_process())
}

/// Reads only where the relay of this file answers HTTP, for commands that ask it: neither the key
/// of a certificate nor a token is read. Whatever else is wrong with the file is the relay's to tell.
///
/// # Errors
///
/// [`ConfigError`] when the file cannot be read, is not YAML, or its `http` is wrong.
pub fn load_ask(path: &Path) -> Result<Option<Ask>, ConfigError> {
    let name = path.display().to_string();
    let text = read(path, &name)?;
    let mut problems = Problems::new(&name, &text);
    let root = tree::parse(&text, &mut problems);
    let ask = root
        .and_then(|root| check::ask(root.as_deref(), &Environment::of_process(), &mut problems));
    problems.finish(ask)
}

fn in_environment(
    name: &str,
    text: &str,
    overrides: &Overrides,
    environment: &Environment,
) -> Result<Relay, ConfigError> {
    if too_large(text.len()) {
        return Err(size_error(name));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut problems = Problems::new(name, text);
    let relay = tree::parse(text, &mut problems)
        .and_then(|root| check::file(root.as_deref(), overrides, environment, &mut problems));
    problems.finish(relay)
}

fn too_large(bytes: usize) -> bool {
    u64::try_from(bytes).map_or(true, |bytes| bytes > FILE_BYTES_MAX)
}

fn size_error(name: &str) -> ConfigError {
    let message = format!("the file is larger than {FILE_BYTES_MAX} bytes");
    let hint = "check that this is the right file; use globs for many names";
    ConfigError::single(name, Problem::at(Place::File, message, hint))
}

/// The settings without a file: the defaults, and what the options say.
///
/// # Errors
///
/// [`ConfigError`] holds every option that is wrong.
pub fn defaults(overrides: &Overrides) -> Result<Relay, ConfigError> {
    let mut problems = Problems::new("", "");
    let relay = check::no_file(overrides, &Environment::of_process(), &mut problems);
    problems.finish(relay)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "upstream: {catalog: {passfile: ~/.pgpass}}\n";

    #[test]
    fn a_tilde_is_the_home() {
        let environment = Environment { home: Some("/home/x".into()), ..Environment::default() };
        let relay = in_environment("f", FILE, &Overrides::default(), &environment).unwrap();
        assert_eq!(relay.upstream.catalog.passfile, Some("/home/x/.pgpass".into()));
        assert_eq!(relay.state_dir, Path::new("/home/x/.local/state/pgherd"));
    }

    #[test]
    fn without_a_home_the_file_has_to_say_where() {
        let environment = Environment::default();
        let error = in_environment("f", FILE, &Overrides::default(), &environment).unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains("f:1:32: \"~/.pgpass\" is not an absolute path"), "{shown}");
        assert!(shown.contains("environment: no folder for state"), "{shown}");
    }
}
