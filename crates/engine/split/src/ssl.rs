//! TLS to the source: libpq's parameters of that name in a connection string.
//!
//! The names, their defaults and the variables `PGSSL…` are those of the chapter "Database
//! Connection Control Functions" of PostgreSQL's documentation. What libpq knows beyond them, and
//! would make a connection safer, is refused and not passed over.

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

/// Variables that would forbid a connection which is made here; each with the value that does not.
const REFUSED: [(&str, &str); 9] = [
    ("PGSSLCRL", ""),
    ("PGSSLCRLDIR", ""),
    ("PGSSLMINPROTOCOLVERSION", "TLSv1.2"),
    ("PGSSLNEGOTIATION", "postgres"),
    ("PGCHANNELBINDING", "prefer"),
    ("PGREQUIREAUTH", ""),
    ("PGGSSENCMODE", "prefer"),
    ("PGHOSTADDR", ""),
    ("PGTARGETSESSIONATTRS", "any"),
];

impl Ssl {
    /// What the words of a connection string, variables and the usual files come to.
    ///
    /// # Errors
    ///
    /// [`BadOptions::Source`], also when a file is of no use.
    pub(crate) fn find(words: Words) -> Result<Self, BadOptions> {
        let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".postgresql"));
        let ssl = Self::of(words, |name| env::var(name).ok(), home.as_deref())?;
        ssl.client().map_err(|problem| BadOptions::Source(problem.to_string()))?;
        Ok(ssl)
    }

    fn of(
        words: Words,
        variable: impl Fn(&str) -> Option<String>,
        home: Option<&Path>,
    ) -> Result<Self, BadOptions> {
        let bad = |reason: String| BadOptions::Source(reason);
        for (name, harmless) in REFUSED {
            let value = variable(name).filter(|it| !it.is_empty() && it != harmless);
            let is_off = |value: &str| ["disable", "allow"].contains(&value);
            if let Some(value) = value.filter(|value| !is_off(value)) {
                return Err(bad(format!("{name}={value} is not known here: unset it")));
            }
        }
        let mut values = words.0;
        for (value, (_, name)) in values.iter_mut().zip(NAMES) {
            *value = value.take().or_else(|| variable(name));
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
        // For a file the empty word is as good as none.
        let [root_cert, cert, key] =
            [root_cert, cert, key].map(|it| it.filter(|it| !it.is_empty()));
        if root_cert.as_deref() == Some("system") {
            return Err(bad("sslrootcert=system is not known here: name a file".into()));
        }
        let usual = |name| home.map(|home| home.join(name)).filter(|path| path.exists());
        if let Some(path) = usual("root.crl") {
            return Err(bad(format!(
                "lists of revoked certificates are not known here: {}",
                path.display()
            )));
        }
        let place = |path: String| {
            std::path::absolute(&path).map_err(|error| bad(format!("{path:?}: {error}")))
        };
        let root_cert = root_cert.map(place).transpose()?.or_else(|| usual("root.crt"));
        let cert = cert.map(place).transpose()?.or_else(|| usual("postgresql.crt"));
        // A key is only looked for when there is a certificate.
        let key = key.map(place).transpose()?;
        let own = match (cert, key.or_else(|| usual("postgresql.key"))) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(cert), None) => {
                let cert = cert.display();
                let text = "name the file of its key with sslkey, or put it at";
                return Err(bad(format!(
                    "sslcert without sslkey, for {cert}: {text} ~/.postgresql/postgresql.key"
                )));
            }
            (None, _) => None,
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
pub(crate) struct Words([Option<String>; 4]);

impl Words {
    /// Keeps the value when the parameter is one of ours.
    fn keep(&mut self, name: &str, value: &str) -> bool {
        let place = NAMES.iter().position(|(known, _)| *known == name);
        let place = place.and_then(|place| self.0.get_mut(place));
        place.map(|place| *place = Some(value.to_owned())).is_some()
    }
}

/// Our words and the rest of a connection string; nothing when it is not one.
pub(crate) fn split(text: &str) -> Option<(Words, String)> {
    let mut words = Words::default();
    let scheme = ["postgres://", "postgresql://"].iter().find(|it| text.starts_with(**it));
    if let Some(scheme) = scheme {
        // Who logs in, and the password, end with `@` and may have a question mark.
        let rest = text.get(scheme.len()..)?;
        let login = rest
            .find(['@', '/'])
            .filter(|at| rest.get(*at..).is_some_and(|it| it.starts_with('@')));
        let start = scheme.len() + login.unwrap_or(0);
        let Some(mark) = text.get(start..)?.find('?') else {
            return Some((words, text.to_owned()));
        };
        let (head, query) = text.split_at_checked(start + mark)?;
        let query = query.strip_prefix('?')?;
        let mut rest = Vec::new();
        for pair in
            query.strip_suffix('&').unwrap_or(query).split('&').filter(|_| !query.is_empty())
        {
            let (name, value) = pair.split_once('=')?;
            let (name, value) = (decoded(name)?, decoded(value)?);
            if !words.keep(&name, &value) {
                rest.push(pair);
            }
        }
        let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
        return Some((words, format!("{head}{query}")));
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
                // One at the very end means nothing.
                Some('\\') => value.extend(chars.next()),
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
        // As libpq reads them.
        for text in [
            "postgresql://u@h/d?sslmode=require&",
            "postgresql://u:a?b@h/d?sslmode=require",
            "postgresql://u@h/d?ssl%6dode=require",
            r"host=h sslmode=require password=abc\",
        ] {
            assert_eq!(words(text).0, "require|||", "{text}");
        }
        assert_eq!(words("postgresql://u:a?b@h/d?sslmode=require").1, "postgresql://u:a?b@h/d");
        for bad in [
            "host",
            "a='b",
            r"a='b\",
            "postgres://h?sslmode",
            "postgres://h?sslkey=%2",
            "postgres://h?sslmode=require&application_name=50%",
            "postgres://h?sslmode=require&&a=b",
        ] {
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
        for bad in ["sslmode=on", "sslmode=''", "sslrootcert=system"] {
            assert!(of(bad, &none).is_err(), "{bad}");
        }
        for (cert, is_good) in [("sslcert=/c", false), ("sslkey=/k", true)] {
            let found = Ssl::of(split(cert).unwrap().0, none, None);
            assert_eq!(found.clone().is_ok_and(|it| it.own.is_none()), is_good, "{cert}");
            let told = found.err().map_or_else(String::new, |error| error.to_string());
            assert_eq!(told.contains("/c: name the file of its key"), !is_good, "{told}");
        }
    }

    #[test]
    fn what_would_be_less_safe_is_refused() {
        for (name, value, is_good) in [
            ("PGCHANNELBINDING", "require", false),
            ("PGCHANNELBINDING", "disable", true),
            ("PGREQUIREAUTH", "scram-sha-256", false),
            ("PGSSLCRL", "/crl", false),
            ("PGSSLMINPROTOCOLVERSION", "TLSv1.3", false),
            ("PGSSLMINPROTOCOLVERSION", "TLSv1.2", true),
            ("PGHOSTADDR", "127.0.0.9", false),
            ("PGGSSENCMODE", "require", false),
            ("PGGSSENCMODE", "disable", true),
            ("PGTARGETSESSIONATTRS", "standby", false),
        ] {
            let variable = |asked: &str| (asked == name).then(|| value.to_owned());
            assert_eq!(
                Ssl::of(Words::default(), variable, None).is_ok(),
                is_good,
                "{name}={value}"
            );
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("root.crl"), "").unwrap();
        assert!(Ssl::of(Words::default(), none, Some(home.path())).is_err());
    }

    #[test]
    fn the_journal_has_libpqs_words() {
        let ssl = Ssl { mode: SslMode::VerifyFull, root_cert: Some("/r".into()), own: None };
        let text = serde_json::to_string(&ssl).unwrap();
        assert!(text.contains(r#""mode":"verify-full""#), "{text}");
        assert_eq!(serde_json::from_str::<Ssl>(&text).unwrap(), ssl);
    }
}
