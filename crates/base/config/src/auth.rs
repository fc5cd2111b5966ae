//! `auth` of a configuration: how its clients prove who they are.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use scram::{Mock, Verifier};

use crate::check::path;
use crate::environment::Environment;
use crate::problem::Problems;
use crate::scalar::{boolean, shown, text, wrong_type};
use crate::section::{Entry, key_text};
use crate::tree::{Node, Value};

/// Most users of a file, and most entries of a map.
const USERS_MAX: usize = 10_000;
/// Longest query for a verifier, in bytes.
const QUERY_BYTES_MAX: usize = 10_000;
const QUERY_HINT: &str = "write $1 for it, as in \
                          `select rolpassword from pg_authid where rolname = $1`";
/// Largest file of users, in bytes.
const USERS_BYTES_MAX: u64 = 4 << 20;

/// How clients prove who they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// The server asks them; the relay passes the exchange on.
    #[default]
    Passthrough,
    /// The relay asks for a password, with SCRAM-SHA-256.
    Scram(Verifiers),
    /// A certificate names them.
    Cert(UserMap),
    /// Nobody asks.
    Trust {
        /// From anywhere, not only from this host.
        is_open: bool,
    },
    /// Nobody comes in.
    Reject,
}

/// Where the verifiers of users come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verifiers {
    /// A file, which has been read.
    File(Users),
    /// A query upstream, with the user's name as `$1`.
    Query(String),
}

/// Users and their verifiers.
#[derive(Clone, PartialEq, Eq)]
pub struct Users {
    known: HashMap<String, Verifier>,
    mock: Mock,
}

impl Users {
    /// The verifier of a user, and whether there is such a user: for others one is made up.
    #[must_use]
    pub fn verifier(&self, user: &[u8]) -> (Verifier, bool) {
        // Both are made and looked for each time: neither takes longer.
        let mock = self.mock.verifier(user);
        let known = std::str::from_utf8(user).ok().and_then(|user| self.known.get(user));
        (known.cloned().unwrap_or(mock), known.is_some())
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("count", &self.known.len()).finish_non_exhaustive()
    }
}

/// Which users a certificate may log in as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMap(Option<HashMap<String, Vec<String>>>);

impl UserMap {
    /// Whether the holder of a certificate with this common name may be this user. Without a map
    /// the two have to be the same.
    #[must_use]
    pub fn allows(&self, common_name: &str, user: &[u8]) -> bool {
        let is_user = |name: &str| !name.is_empty() && name.as_bytes() == user;
        match &self.0 {
            None => is_user(common_name),
            Some(map) => {
                let users = map.get(common_name).filter(|_| !common_name.is_empty());
                users.is_some_and(|users| users.iter().any(|name| is_user(name)))
            }
        }
    }
}

/// What the rest of the file offers, as far as methods need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) tls: bool,
    pub(crate) client_ca: bool,
    /// The relay has a name of its own for reading upstream.
    pub(crate) own_user: bool,
}

impl Offered {
    /// By what the sections `tls` and `upstream` say.
    pub(crate) fn of(tls: Option<Entry<'_>>, upstream: Option<Entry<'_>>) -> Self {
        let upstream = upstream.map(|entry| entry.value);
        let catalog = upstream.and_then(|upstream| value_of(upstream, "catalog"));
        let names_user =
            |section: Option<&Node>| section.is_some_and(|it| value_of(it, "user").is_some());
        Self {
            tls: tls.is_some(),
            client_ca: tls.is_some_and(|tls| value_of(tls.value, "client_ca").is_some()),
            own_user: names_user(upstream) || names_user(catalog),
        }
    }
}

/// What stands behind a key, unchecked.
fn value_of<'n>(section: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Map(pairs) = &section.value else { return None };
    let is_it = |name: &Node| matches!(&name.value, Value::Text { text, .. } if text == key);
    pairs.iter().find(|(name, _)| is_it(name)).map(|(_, value)| &**value)
}

/// The keys of a configuration that are about authentication.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'n> {
    pub(crate) auth: Option<Entry<'n>>,
    pub(crate) users_file: Option<Entry<'n>>,
    pub(crate) users_query: Option<Entry<'n>>,
    pub(crate) user_map: Option<Entry<'n>>,
    pub(crate) open: Option<Entry<'n>>,
}

/// The method; `None` when something is wrong with it.
pub(crate) fn read(
    keys: Keys<'_>,
    offered: Offered,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Auth> {
    const HINT: &str = "write passthrough, scram, cert, trust or reject";
    let method = match keys.auth {
        Some(entry) => text(entry.value, "auth", problems)?,
        None => "passthrough",
    };
    // A key of another method would be taken for one that counts.
    for (name, entry, of) in [
        ("users_file", keys.users_file, "scram"),
        ("users_query", keys.users_query, "scram"),
        ("user_map", keys.user_map, "cert"),
        ("i_know_that_this_is_open", keys.open, "trust"),
    ] {
        if let Some(entry) = entry.filter(|_| method != of) {
            let message = format!("`{name}` is for `auth: {of}` only");
            problems.add(&entry.key.span, message, "remove it, or change `auth`");
        }
    }
    match (method, keys.auth) {
        ("passthrough", _) => Some(Auth::Passthrough),
        ("reject", _) => Some(Auth::Reject),
        ("trust", _) => {
            let is_open = keys.open.map_or(Some(false), |it| boolean(it.value, problems))?;
            Some(Auth::Trust { is_open })
        }
        ("scram", Some(auth)) => {
            verifiers(keys, auth, offered, environment, problems).map(Auth::Scram)
        }
        ("cert", Some(auth)) => {
            if !offered.client_ca {
                let hint = "add `client_ca` to `tls`: the authorities whose certificates count";
                problems.add(&auth.value.span, "`auth: cert` needs `tls.client_ca`", hint);
                return None;
            }
            let map = keys.user_map.map(|entry| user_map(entry.value, problems));
            Some(Auth::Cert(UserMap(map.map_or(Some(None), |map| map.map(Some))?)))
        }
        (other, auth) => {
            if let Some(auth) = auth {
                let message = format!("there is no method {}", shown(other));
                problems.add(&auth.value.span, message, HINT);
            }
            None
        }
    }
}

/// From the one place that is named.
fn verifiers(
    keys: Keys<'_>,
    auth: Entry<'_>,
    offered: Offered,
    environment: &Environment,
    problems: &mut Problems<'_>,
) -> Option<Verifiers> {
    match (keys.users_file, keys.users_query) {
        (None, None) => {
            let hint = "name a file with lines USER:VERIFIER, as in pg_authid; or a query";
            let message = "`auth: scram` needs `users_file` or `users_query`";
            problems.add(&auth.value.span, message, hint);
            None
        }
        (Some(_), Some(query)) => {
            let message = "`users_file` and `users_query` exclude each other";
            problems.add(&query.key.span, message, "remove one of them");
            None
        }
        (Some(entry), None) => {
            let file = path(entry.value, "users_file", environment, problems)?;
            match users(&file) {
                Ok(users) => Some(Verifiers::File(users)),
                Err((message, hint)) => {
                    let message = format!("{}: {message}", file.display());
                    problems.add(&entry.value.span, message, hint);
                    None
                }
            }
        }
        (None, Some(entry)) => {
            let query = text(entry.value, "the query", problems)?;
            if query.len() > QUERY_BYTES_MAX || !query.contains("$1") {
                let message = "`users_query` has no place for the user's name, or is too long";
                problems.add(&entry.value.span, message, QUERY_HINT);
                return None;
            }
            if !offered.own_user {
                let message = "`users_query` needs a user who may ask it";
                let hint = "add `user` to `upstream`, or to its `catalog`";
                problems.add(&entry.key.span, message, hint);
                return None;
            }
            Some(Verifiers::Query(query.to_owned()))
        }
    }
}

/// What is wrong with a file, and what to do.
type Wrong = (String, &'static str);

/// Reads lines of `USER:VERIFIER`. Nothing of a line is repeated in a message.
fn users(file: &Path) -> Result<Users, Wrong> {
    const FORM: &str = "write USER:SCRAM-SHA-256$..., as in pg_authid.rolpassword; a backslash \
                        makes a colon in a name plain";
    let io = |error: std::io::Error| (error.to_string(), "check the path and who may read it");
    let about = fs::metadata(file).map_err(io)?;
    if about.mode() & if about.uid() == 0 { 0o037 } else { 0o077 } != 0 {
        return Err(("it can be read by others".to_owned(), "chmod 0600"));
    }
    if about.len() > USERS_BYTES_MAX {
        return Err(("it is larger than 4 MiB".to_owned(), "check that this is the file"));
    }
    let text = fs::read_to_string(file).map_err(io)?;
    let mut known = HashMap::new();
    let mut mock = None;
    for (line, number) in text.lines().zip(1_usize..) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let read = user_of(line)
            .and_then(|(user, verifier)| Some((user, Verifier::parse(verifier.trim()).ok()?)));
        let (user, verifier) =
            read.ok_or_else(|| (format!("line {number} has no user and verifier"), FORM))?;
        mock.get_or_insert_with(|| Mock::like(&verifier));
        if known.insert(user, verifier).is_some() {
            return Err((format!("line {number} is of a user who is there already"), "remove it"));
        }
        if known.len() > USERS_MAX {
            return Err((format!("there are more than {USERS_MAX} users"), "keep fewer"));
        }
    }
    let mock = mock.ok_or_else(|| ("there is no user in it".to_owned(), FORM))?;
    Ok(Users { known, mock })
}

/// The user in front of the first plain colon, and what follows it.
fn user_of(line: &str) -> Option<(String, &str)> {
    let mut user = String::new();
    let mut chars = line.char_indices();
    loop {
        match chars.next()? {
            (at, ':') if !user.is_empty() => return Some((user, line.get(at + 1..)?)),
            (_, ':') => return None,
            (_, '\\') => user.push(chars.next()?.1),
            (_, char) => user.push(char),
        }
    }
}

/// `CN: user` or `CN: [user, user]`.
fn user_map(node: &Node, problems: &mut Problems<'_>) -> Option<HashMap<String, Vec<String>>> {
    let hint = "write `user_map: {COMMON NAME: user}`, or a list of users";
    let Value::Map(pairs) = &node.value else {
        wrong_type(node, "a mapping", hint, problems);
        return None;
    };
    if pairs.len() > USERS_MAX {
        problems.add(&node.span, format!("more than {USERS_MAX} entries"), "keep fewer");
        return None;
    }
    let mut map = HashMap::new();
    for (key, value) in pairs {
        let (name, _) = key_text(key, problems)?;
        let users = match &value.value {
            Value::List(items) => {
                let users = items.iter().map(|item| text(item, "the user", problems));
                users.map(|user| user.map(str::to_owned)).collect::<Option<Vec<_>>>()?
            }
            _ => vec![text(value, "the user", problems)?.to_owned()],
        };
        if map.insert(name.to_owned(), users).is_some() {
            problems.add(&key.span, format!("{} is given twice", shown(name)), "keep one of them");
        }
    }
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_line_ends_its_name_at_the_first_plain_colon() {
        assert_eq!(user_of("a:b:c"), Some(("a".into(), "b:c")));
        assert_eq!(user_of(r"a\:b\\:c"), Some((r"a:b\".into(), "c")));
        for bad in ["", "a", ":b", r"a\:b", "\\"] {
            assert_eq!(user_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_certificate_names_its_users() {
        let same = UserMap::default();
        assert!(same.allows("repl", b"repl"));
        assert!(!same.allows("repl", b"postgres") && !same.allows("", b""));
        let users = vec!["repl".to_owned()];
        let map = UserMap(Some(HashMap::from([("berlin".to_owned(), users)])));
        assert!(map.allows("berlin", b"repl"));
        assert!(!map.allows("berlin", b"berlin") && !map.allows("repl", b"repl"));
    }
}
