//! TLS to the source: libpq's parameters of that name in a connection string.
//!
//! The names, their defaults and the variables `PGSSL…` are those of the chapter "Database
//! Connection Control Functions" of PostgreSQL's documentation. What libpq knows beyond them
//! (`sslcrl`, `sslrootcert=system`, passwords of keys) is refused, and not passed over.

use std::env;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tls::{Client, ClientFiles, SslMode};

use crate::sql::conninfo;
use crate::{BadOptions, Error};

/// The parameters, and the variables that stand for them.
const NAMES: [(&str, &str); 4] = [
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
];

/// How the source is met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ssl {
    #[serde(serialize_with = "write_mode", deserialize_with = "read_mode")]
    pub(crate) mode: SslMode,
    pub(crate) root_cert: Option<PathBuf>,
    /// Certificate and key.
    pub(crate) own: Option<(PathBuf, PathBuf)>,
}

impl Ssl {
    /// Takes the parameters out of a connection string; gives what is left of it.
    ///
    /// # Errors
    ///
    /// [`BadOptions::Source`], also when a file is of no use.
    pub(crate) fn take(text: &str) -> Result<(Self, String), BadOptions> {
        let (words, rest) = split(text).unwrap_or_else(|| (Words::default(), text.to_owned()));
        let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".postgresql"));
        let ssl = Self::of(words, |name| env::var(name).ok(), home.as_deref())?;
        ssl.client().map_err(|problem| BadOptions::Source(problem.to_string()))?;
        Ok((ssl, rest))
    }

    fn of(
        words: Words,
        variable: impl Fn(&str) -> Option<String>,
        home: Option<&Path>,
    ) -> Result<Self, BadOptions> {
        let bad = |reason: String| BadOptions::Source(reason);
        let mut values = words.0;
        for (value, (_, name)) in values.iter_mut().zip(NAMES) {
            *value = value.take().or_else(|| variable(name)).filter(|it| !it.is_empty());
        }
        let [mode, root_cert, cert, key] = values;
        let mode = match mode {
            Some(word) => SslMode::of_word(&word).ok_or_else(|| {
                bad(format!("there is no sslmode {word:?}: use one of {}", SslMode::words()))
            })?,
            None => SslMode::Prefer,
        };
        if mode == SslMode::Disable {
            return Ok(Self::default());
        }
        if root_cert.as_deref() == Some("system") {
            return Err(bad("sslrootcert=system is not known here: name a file".into()));
        }
        let usual = |name| home.map(|home| home.join(name)).filter(|path| path.exists());
        let place = |path: String| {
            std::path::absolute(&path).map_err(|error| bad(format!("{path:?}: {error}")))
        };
        let root_cert = root_cert.map(place).transpose()?.or_else(|| usual("root.crt"));
        let cert = cert.map(place).transpose()?.or_else(|| usual("postgresql.crt"));
        let key = key.map(place).transpose()?.or_else(|| usual("postgresql.key"));
        let own = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(bad("sslcert without sslkey".into())),
            (None, Some(_)) => return Err(bad("sslkey without sslcert".into())),
        };
        Ok(Self { mode, root_cert, own })
    }

    /// Reads the files; nothing without TLS.
    pub(crate) fn client(&self) -> Result<Option<Client>, Error> {
        if self.mode == SslMode::Disable {
            return Ok(None);
        }
        let (root_cert, own) = (self.root_cert.clone(), self.own.clone());
        let client = Client::load(&ClientFiles { mode: self.mode, root_cert, own });
        client.map(Some).map_err(|problem| {
            Error::unfit(format!("{}: {}; {}", problem.setting, problem.message, problem.hint))
        })
    }

    /// Whether somebody else cannot pretend to be the server.
    pub(crate) const fn checks_the_server(&self) -> bool {
        matches!(self.mode, SslMode::VerifyCa | SslMode::VerifyFull)
    }

    /// For a server that is here, and only cannot be reached without TLS by its own rules.
    pub(crate) fn at_home(&self) -> Self {
        let mode = self.mode.min(SslMode::Prefer);
        Self { mode, root_cert: None, own: self.own.clone() }
    }

    /// The settings of a relay, with what stands for each value.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut settings = vec![("sslmode", self.mode.word().to_owned())];
        if self.mode == SslMode::Disable {
            return settings;
        }
        settings.extend(self.root_cert.iter().map(|path| ("sslrootcert", text(path))));
        if let Some((cert, key)) = &self.own {
            settings.push(("sslcert", text(cert)));
            settings.push(("sslkey", text(key)));
        }
        settings
    }
}

/// The values of [`NAMES`], as they were given.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words([Option<String>; 4]);

impl Words {
    /// Keeps the value when the parameter is one of ours.
    fn keep(&mut self, name: &str, value: &str) -> bool {
        let place = NAMES.iter().position(|(known, _)| *known == name);
        let place = place.and_then(|place| self.0.get_mut(place));
        place.map(|place| *place = Some(value.to_owned())).is_some()
    }
}

/// Our words and the rest of a connection string; nothing when it is not one.
fn split(text: &str) -> Option<(Words, String)> {
    let mut words = Words::default();
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        let Some((head, query)) = text.split_once('?') else {
            return Some((words, text.to_owned()));
        };
        let mut rest = Vec::new();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=')?;
            if !words.keep(name, &decoded(value)?) {
                rest.push(pair);
            }
        }
        return Some((words, format!("{head}?{}", rest.join("&"))));
    }
    let mut rest = Vec::new();
    for (name, value) in pairs(text)? {
        if !words.keep(&name, &value) {
            rest.push((name, value));
        }
    }
    let rest: Vec<_> = rest.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Some((words, conninfo(&rest)))
}

/// `key = value` and `key = 'va\'lue'`, parted by spaces.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let quoted = after.trim_start().strip_prefix('\'');
        let mut chars = quoted.unwrap_or_else(|| after.trim_start()).chars();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.push(chars.next()?),
                Some('\'') if quoted.is_some() => break,
                Some(char) if quoted.is_none() && char.is_ascii_whitespace() => break,
                Some(char) => value.push(char),
                None if quoted.is_some() => return None,
                None => break,
            }
        }
        pairs.push((name.trim().to_owned(), value));
        rest = chars.as_str().trim_start();
    }
    Some(pairs)
}

/// Percent-encoding (RFC 3986) taken away.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (code, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

fn write_mode<S: Serializer>(mode: &SslMode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(mode.word())
}

fn read_mode<'de, D: Deserializer<'de>>(from: D) -> Result<SslMode, D::Error> {
    let word = String::deserialize(from)?;
    SslMode::of_word(&word).ok_or_else(|| serde::de::Error::custom(format!("no sslmode {word:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn words_are_taken_out_of_either_form() {
        let words = |text: &str| {
            let (words, rest) = split(text).unwrap();
            (words.0.map(Option::unwrap_or_default).join("|"), rest)
        };
        assert_eq!(
            words(r"host=h sslmode = verify-full sslrootcert='/a b\'c' user='x y'"),
            ("verify-full|/a b'c||".into(), "host='h' user='x y'".into())
        );
        assert_eq!(
            words("postgres://u@h:1/d?sslmode=require&application_name=x&sslkey=%2Fk%20y"),
            ("require|||/k y".into(), "postgres://u@h:1/d?application_name=x".into())
        );
        assert_eq!(words("postgresql://h"), ("|||".into(), "postgresql://h".into()));
        assert_eq!(words(" "), ("|||".into(), String::new()));
        for bad in ["host", "a='b", r"a=b\", "postgres://h?sslmode", "postgres://h?sslkey=%2"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_given_is_as_with_libpq() {
        let home = tempfile::tempdir().unwrap();
        let of = |text: &str, variable: &dyn Fn(&str) -> Option<String>| {
            Ssl::of(split(text).unwrap().0, variable, Some(home.path()))
        };
        assert_eq!(of("", &none).unwrap(), Ssl { mode: SslMode::Prefer, ..Ssl::default() });
        for name in ["root.crt", "postgresql.crt", "postgresql.key"] {
            std::fs::write(home.path().join(name), "").unwrap();
        }
        let usual = of("sslmode=verify-ca", &none).unwrap();
        assert_eq!(usual.root_cert, Some(home.path().join("root.crt")));
        assert!(usual.own.is_some_and(|(_, key)| key == home.path().join("postgresql.key")));
        let variable = |name: &str| match name {
            "PGSSLMODE" => Some("require".to_owned()),
            "PGSSLROOTCERT" => Some("/root.crt".to_owned()),
            _ => None,
        };
        let told = of("sslcert=/c sslkey=/k", &variable).unwrap();
        assert_eq!(told.mode, SslMode::Require);
        assert_eq!(told.root_cert, Some("/root.crt".into()));
        assert_eq!(told.own, Some(("/c".into(), "/k".into())));
        assert_eq!(of("sslmode=disable", &variable).unwrap(), Ssl::default());
        for bad in ["sslmode=on", "sslrootcert=system"] {
            assert!(of(bad, &none).is_err(), "{bad}");
        }
        assert!(Ssl::of(split("sslcert=/c").unwrap().0, none, None).is_err());
    }

    #[test]
    fn the_journal_has_libpqs_words() {
        let ssl = Ssl { mode: SslMode::VerifyFull, root_cert: Some("/r".into()), own: None };
        let text = serde_json::to_string(&ssl).unwrap();
        assert!(text.contains(r#""mode":"verify-full""#), "{text}");
        assert_eq!(serde_json::from_str::<Ssl>(&text).unwrap(), ssl);
    }
}
