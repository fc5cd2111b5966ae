//! The first packet of a connection: the only one without a tag.
//!
//! It is a startup packet, or asks for encryption, or for another connection's query to
//! be cancelled. What is refused here is what `ProcessStartupPacket` (backend_startup.c)
//! refuses. Truncating names to 63 bytes stays with the server behind us: packets are
//! kept as they came.

use pgtypes::read::{Reader, Truncated};

use crate::SqlState;

mod replication;

pub use replication::Replication;

/// Longest packet after its length field; `MAX_STARTUP_PACKET_LENGTH` (`pqcomm.h`).
pub const BODY_BYTES_MAX: usize = 10_000;
/// Longest key of a cancel request, protocol 3.2; `MAX_CANCEL_KEY_LENGTH` (`procsignal.h`).
pub const CANCEL_KEY_BYTES_MAX: usize = 256;
/// The one major version of the protocol that is spoken.
pub const MAJOR: u16 = 3;

/// `CANCEL_REQUEST_CODE` (`pqcomm.h`): `PG_PROTOCOL(1234, 5678)`.
const CANCEL_CODE: u32 = 1234 << 16 | 5678;
/// `NEGOTIATE_SSL_CODE` (`pqcomm.h`): `PG_PROTOCOL(1234, 5679)`.
const SSL_CODE: u32 = 1234 << 16 | 5679;
/// `NEGOTIATE_GSS_CODE` (`pqcomm.h`): `PG_PROTOCOL(1234, 5680)`.
const GSS_CODE: u32 = 1234 << 16 | 5680;

const LENGTH_BYTES: usize = 4;

/// A first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Asks for TLS; the answer is one byte, `S` or `N`.
    Ssl,
    /// Asks for GSSAPI encryption; the answer is one byte, `G` or `N`.
    Gss,
    /// Asks that another connection's query be cancelled; gets no answer.
    Cancel(Cancel),
    /// Begins a session.
    Startup(Startup),
}

/// A request to cancel another connection's query.
#[derive(Clone, PartialEq, Eq)]
pub struct Cancel {
    /// Process of the other connection, as its server gave it.
    pub pid: i32,
    /// The secret that proves the right to cancel: four bytes up to protocol 3.0.
    pub key: Vec<u8>,
    /// The packet as it came, its length included.
    pub raw: Vec<u8>,
}

/// A parameter of a session: its name and its value.
pub type Param = (Vec<u8>, Vec<u8>);

/// A startup packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// Major version of the protocol, always [`MAJOR`].
    pub major: u16,
    /// Minor version; a server that knows only older ones negotiates.
    pub minor: u16,
    /// Parameters in the order in which they came, `_pq_.` options included.
    pub params: Vec<Param>,
    /// The packet as it came, its length included, to be sent on unchanged.
    pub raw: Vec<u8>,
}

/// Why a first packet is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartupError {
    /// No server reads a packet of this length; also what other protocols look like.
    #[error("startup packet says that it is {length} bytes long, 8 to {max} are allowed", max = BODY_BYTES_MAX + LENGTH_BYTES)]
    Length {
        /// The length as it was sent.
        length: u32,
    },
    /// The packet does not have the length that it says.
    #[error("startup packet says that it is {length} bytes long, {have} are here")]
    Incomplete {
        /// The length as it was sent.
        length: u32,
        /// Bytes that are here.
        have: usize,
    },
    /// A request for encryption carries more than its code.
    #[error("a request for encryption has {bytes} bytes too many")]
    Trailing {
        /// Bytes after the code.
        bytes: usize,
    },
    /// A cancel request without a key, or with one that no server gives.
    #[error("cancel request has a key of {bytes} bytes, 1 to {CANCEL_KEY_BYTES_MAX} are allowed")]
    CancelKey {
        /// Length of the key.
        bytes: usize,
    },
    /// Another major version of the protocol.
    #[error("unsupported frontend protocol {major}.{minor}: pgherd speaks 3.0 to 3.2")]
    Major {
        /// Major version that the client asked for.
        major: u16,
        /// Minor version that the client asked for.
        minor: u16,
    },
    /// A string that does not end, or no terminator as the last byte.
    #[error("invalid startup packet layout at byte {at}: expected terminator as last byte")]
    Layout {
        /// Offset in the packet.
        at: usize,
    },
    /// No user, or an empty one.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// A parameter that the server could not read; only from [`Startup::build`].
    #[error("startup parameter {number} is empty or has a zero byte")]
    Parameter {
        /// Its place in the list, from zero.
        number: usize,
    },
}

impl StartupError {
    /// The code that a server gives for it.
    #[must_use]
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Major { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Self::NoUser => SqlState::INVALID_AUTHORIZATION,
            _ => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// Whether a server would tell the client; otherwise it closes without a word, because
    /// what is there may not be a PostgreSQL client at all.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        matches!(self, Self::Major { .. } | Self::NoUser | Self::Layout { .. })
    }
}

/// Length of the whole packet, the length field included, from its first four bytes.
///
/// # Errors
///
/// [`StartupError::Length`] when a server would not read it.
pub fn packet_bytes(length: [u8; LENGTH_BYTES]) -> Result<usize, StartupError> {
    let length = u32::from_be_bytes(length);
    match usize::try_from(length) {
        Ok(bytes) if (8..=BODY_BYTES_MAX + LENGTH_BYTES).contains(&bytes) => Ok(bytes),
        _ => Err(StartupError::Length { length }),
    }
}

/// Whether a connection begins with a TLS handshake instead of a packet (`sslnegotiation=direct`).
#[must_use]
pub const fn is_direct_tls(first: u8) -> bool {
    first == 0x16
}

impl Packet {
    /// Reads a whole packet, its length field first, as long as [`packet_bytes`] says.
    ///
    /// # Errors
    ///
    /// [`StartupError`]; [`StartupError::is_answered`] says whether the client hears of it.
    pub fn parse(raw: Vec<u8>) -> Result<Self, StartupError> {
        let short = |_: Truncated| StartupError::Incomplete { length: 0, have: raw.len() };
        let mut reader = Reader::new(&raw);
        let length = reader.u32_be("length").map_err(short)?;
        if packet_bytes(length.to_be_bytes())? != raw.len() {
            return Err(StartupError::Incomplete { length, have: raw.len() });
        }
        let code = reader.u32_be("protocol").map_err(short)?;
        match code {
            SSL_CODE | GSS_CODE if !reader.rest().is_empty() => {
                Err(StartupError::Trailing { bytes: reader.rest().len() })
            }
            SSL_CODE => Ok(Self::Ssl),
            GSS_CODE => Ok(Self::Gss),
            CANCEL_CODE => {
                let no_key = |_: Truncated| StartupError::CancelKey { bytes: 0 };
                let pid = reader.i32_be("backendPID").map_err(no_key)?;
                let key = reader.rest().to_vec();
                if key.is_empty() || key.len() > CANCEL_KEY_BYTES_MAX {
                    return Err(StartupError::CancelKey { bytes: key.len() });
                }
                Ok(Self::Cancel(Cancel { pid, key, raw }))
            }
            _ => {
                let [a, b, c, d] = code.to_be_bytes();
                let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                if major != MAJOR {
                    return Err(StartupError::Major { major, minor });
                }
                let params = params(reader)?;
                Startup { major, minor, params, raw }.with_user().map(Self::Startup)
            }
        }
    }
}

fn params(mut reader: Reader<'_>) -> Result<Vec<Param>, StartupError> {
    let mut params = Vec::new();
    loop {
        let at = reader.offset();
        let layout = |_: Truncated| StartupError::Layout { at };
        let name = reader.cstr("name").map_err(layout)?;
        if name.is_empty() {
            break;
        }
        let value = reader.cstr("value").map_err(layout)?;
        params.push((name.to_vec(), value.to_vec()));
    }
    if reader.rest().is_empty() {
        Ok(params)
    } else {
        Err(StartupError::Layout { at: reader.offset() })
    }
}

impl Startup {
    /// Makes a startup packet for a connection of our own.
    ///
    /// # Errors
    ///
    /// [`StartupError::Parameter`] for a name or value that cannot be sent,
    /// [`StartupError::NoUser`], [`StartupError::Length`].
    pub fn build(minor: u16, params: &[(&str, &str)]) -> Result<Self, StartupError> {
        let mut raw = vec![0; LENGTH_BYTES];
        raw.extend_from_slice(&MAJOR.to_be_bytes());
        raw.extend_from_slice(&minor.to_be_bytes());
        for (number, (name, value)) in params.iter().enumerate() {
            if name.is_empty() || name.contains('\0') || value.contains('\0') {
                return Err(StartupError::Parameter { number });
            }
            for text in [name, value] {
                raw.extend_from_slice(text.as_bytes());
                raw.push(0);
            }
        }
        raw.push(0);
        let length = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        packet_bytes(length.to_be_bytes())?;
        raw.splice(..LENGTH_BYTES, length.to_be_bytes());
        let owned = |text: &str| text.as_bytes().to_vec();
        let params = params.iter().map(|(name, value)| (owned(name), owned(value))).collect();
        Self { major: MAJOR, minor, params, raw }.with_user()
    }

    /// The packet as another user sends it, in protocol 3.0: for a session that is somebody's own
    /// and asks for the same. What the client's user meant besides the login stays as it was.
    #[must_use]
    pub fn raw_as(&self, user: &[u8]) -> Vec<u8> {
        let mut raw = vec![0; LENGTH_BYTES];
        raw.extend_from_slice(&MAJOR.to_be_bytes());
        raw.extend_from_slice(&0_u16.to_be_bytes());
        let mut put = |name: &[u8], value: &[u8]| {
            for text in [name, value] {
                raw.extend_from_slice(text);
                raw.push(0);
            }
        };
        put(b"user", user);
        for (name, value) in &self.params {
            if name != b"user" && !name.starts_with(b"_pq_.") {
                put(name, value);
            }
        }
        if self.replication() == Replication::Database && self.param("database").is_none() {
            put(b"database", self.user());
        }
        raw.push(0);
        let length = u32::try_from(raw.len()).unwrap_or(u32::MAX).to_be_bytes();
        raw.splice(..LENGTH_BYTES, length);
        raw
    }

    /// The value of a parameter; the last one counts, as it does for the server.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&[u8]> {
        let found = self.params.iter().rev().find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// The user, never empty. A server cuts it to 63 bytes.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        self.param("user").unwrap_or_default()
    }

    /// The database; the user's name when none was given.
    #[must_use]
    pub fn database(&self) -> &[u8] {
        self.param("database").filter(|name| !name.is_empty()).unwrap_or_else(|| self.user())
    }

    /// What the client calls itself.
    #[must_use]
    pub fn application_name(&self) -> Option<&[u8]> {
        self.param("application_name")
    }

    /// Whether the session is one of replication, and of which kind.
    #[must_use]
    pub fn replication(&self) -> Replication {
        let given = self.params.iter().filter(|(name, _)| name == b"replication");
        Replication::of(given.map(|(_, value)| value.as_slice()))
    }

    fn with_user(self) -> Result<Self, StartupError> {
        if self.user().is_empty() { Err(StartupError::NoUser) } else { Ok(self) }
    }
}

impl std::fmt::Debug for Cancel {
    /// Leaves the key out: who knows it can cancel queries.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("pid", &self.pid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
