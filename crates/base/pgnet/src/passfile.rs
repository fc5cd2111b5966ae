//! Passwords as libpq finds them: `PGPASSWORD`, or a password file.
//!
//! The format follows the chapter "The Password File" of PostgreSQL's documentation.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A password; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

/// Why a password file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum PassfileError {
    /// It was named in the configuration, and cannot be read.
    #[error("cannot read the password file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others can read it; libpq refuses such a file too.
    #[error("the password file {} can be read by others; set its mode to 0600", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
    },
    /// Nobody but its owner may read it, and that is somebody else.
    #[error("the password file {} is not of the user with the number {uid}, who has to read it", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Who has to read it.
        uid: u32,
    },
}

/// Whose password is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Host, or `localhost` for a Unix socket.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: &'a str,
    /// User.
    pub user: &'a str,
}

/// Finds the password: in `passfile` when one is configured, else in `PGPASSWORD`, else in
/// `PGPASSFILE` or `~/.pgpass`. `None` when nothing fits; the server may not ask for one.
///
/// # Errors
///
/// [`PassfileError`] when the file that should be read cannot be, or is open to others.
pub fn find(passfile: Option<&Path>, login: Login<'_>) -> Result<Option<Password>, PassfileError> {
    if let Some(path) = passfile {
        return read(path, login, true);
    }
    if let Ok(password) = std::env::var("PGPASSWORD") {
        return Ok(Some(Password(password)));
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
    match std::env::var_os("PGPASSFILE").map(PathBuf::from).or_else(home) {
        Some(path) => read(&path, login, false),
        None => Ok(None),
    }
}

/// Whether the libpq of the user `uid` will take passwords from `path`: one that does not like the
/// file goes on without it, and fails for the lack of a password.
///
/// # Errors
///
/// [`PassfileError`], as [`find`]; also when the file is somebody else's.
pub fn check(path: &Path, uid: u32) -> Result<(), PassfileError> {
    let io = |source| PassfileError::Io { path: path.to_owned(), source };
    let about = fs::metadata(path).map_err(io)?;
    if !about.is_file() {
        return Err(io(std::io::Error::other("it is no file")));
    }
    ensure_private(path, &about)?;
    if about.uid() != uid {
        return Err(PassfileError::Owner { path: path.to_owned(), uid });
    }
    Ok(())
}

/// As libpq's `passwordFromFile` (fe-connect.c) does.
fn ensure_private(path: &Path, about: &fs::Metadata) -> Result<(), PassfileError> {
    if about.permissions().mode() & 0o077 != 0 {
        return Err(PassfileError::Permissions { path: path.to_owned() });
    }
    Ok(())
}

fn read(
    path: &Path,
    login: Login<'_>,
    must_exist: bool,
) -> Result<Option<Password>, PassfileError> {
    let io = |source| PassfileError::Io { path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    ensure_private(path, &fs::metadata(path).map_err(io)?)?;
    Ok(text.lines().find_map(|line| matching(line, login)).map(Password))
}

/// The password of a line that fits; the first line that fits counts.
fn matching(line: &str, login: Login<'_>) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let (fields, password) = fields(line)?;
    let wanted = [login.host, &login.port.to_string(), login.database, login.user];
    let fits = |(field, wanted): (&Field, &str)| {
        (field.text == "*" && !field.escaped) || field.text == wanted
    };
    fields.iter().zip(wanted).all(fits).then_some(password)
}

#[derive(Default)]
struct Field {
    text: String,
    escaped: bool,
}

/// The four fields of a line, and its password; backslashes escape colons and themselves.
fn fields(line: &str) -> Option<([Field; 4], String)> {
    let mut fields: [Field; 4] = Default::default();
    let mut chars = line.chars();
    for field in &mut fields {
        loop {
            match chars.next()? {
                ':' => break,
                '\\' => {
                    field.escaped = true;
                    field.text.push(chars.next()?);
                }
                char => field.text.push(char),
            }
        }
    }
    let mut password = String::new();
    while let Some(char) = chars.next() {
        match char {
            ':' => break,
            '\\' => password.extend(chars.next()),
            char => password.push(char),
        }
    }
    Some((fields, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: Login<'_> = Login { host: "db:1", port: 5432, database: "postgres", user: "repl" };

    #[test]
    fn reads_what_libpq_reads() {
        for (line, password) in [
            (r"db\:1:5432:postgres:repl:se:cret", Some("se")),
            (r"*:*:*:repl:a\:b\\c", Some(r"a:b\c")),
            ("*:*:*:*:", Some("")),
            ("*:*:*:other:x", None),
            (r"\*:*:*:repl:x", None),
            ("# *:*:*:*:x", None),
            ("too:short", None),
            ("", None),
        ] {
            assert_eq!(matching(line, LOGIN).as_deref(), password, "{line}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        fs::write(&path, "*:*:*:*:word\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refused = find(Some(&path), LOGIN).unwrap_err();
        assert!(matches!(refused, PassfileError::Permissions { .. }));
        let uid = fs::metadata(&path).unwrap().uid();
        assert!(matches!(check(&path, uid), Err(PassfileError::Permissions { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(find(Some(&path), LOGIN).unwrap(), Some(Password("word".into())));
        assert!(find(Some(&folder.path().join("none")), LOGIN).is_err());
        check(&path, uid).unwrap();
        assert!(matches!(check(&path, uid + 1), Err(PassfileError::Owner { .. })));
        assert!(check(&folder.path().join("none"), uid).is_err());
        assert!(check(folder.path(), uid).is_err());
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(format!("{:?}", Password("word".into())), "Password(***)");
    }
}
