//! One connection to a server that stays open: transactions, locks, backups in the low-level way.
//!
//! Speaks just the simple query protocol over the Unix socket, where test clusters trust everybody.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

const PROTOCOL_3_0: u32 = 3 << 16;
/// Longest message that a test may read, in bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// An open connection.
#[derive(Debug)]
pub struct Session {
    stream: BufReader<UnixStream>,
}

impl Session {
    /// Connects as `postgres` through the socket file; `extra` are further startup parameters.
    ///
    /// # Errors
    ///
    /// When nobody listens or the server refuses.
    pub fn connect(socket: &Path, database: &str, extra: &[(&str, &str)]) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        let mut session = Self { stream: BufReader::new(stream) };
        let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
        for (name, value) in [("user", "postgres"), ("database", database)].iter().chain(extra) {
            for text in [name, value] {
                body.extend_from_slice(text.as_bytes());
                body.push(0);
            }
        }
        body.push(0);
        session.send(&body)?;
        session.finish().context("start a session")?;
        Ok(session)
    }

    /// Runs one query (or several: then in one transaction, as the protocol has it) and gives the
    /// rows as `psql -At` prints them: columns parted by `|`, rows by line breaks, nulls empty.
    ///
    /// # Errors
    ///
    /// The server's message with its SQLSTATE; the session can be used on.
    pub fn query(&mut self, sql: &str) -> Result<String> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.stream.get_mut().write_all(b"Q")?;
        self.send(&body)?;
        let rows = self.finish().with_context(|| format!("query {sql:?}"))?;
        Ok(rows.join("\n"))
    }

    fn send(&mut self, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 4)?;
        let stream = self.stream.get_mut();
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(body)?;
        Ok(())
    }

    /// Reads to `ReadyForQuery`.
    fn finish(&mut self) -> Result<Vec<String>> {
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let (kind, body) = match (self.message(), failure.take()) {
                (Ok(message), before) => {
                    failure = before;
                    message
                }
                // After a FATAL the server hangs up: its message says more than the hang-up.
                (Err(_hung_up), Some(failure)) => bail!("{failure}"),
                (Err(error), None) => return Err(error),
            };
            match kind {
                b'D' => rows.push(row_text(&body)?),
                b'E' => failure = Some(error_text(&body)),
                b'R' if body != [0; 4] => bail!("the server wants a password on its socket"),
                b'G' | b'W' => bail!("COPY is not for sessions, use `Cluster::sql`"),
                b'Z' => match failure {
                    Some(failure) => bail!("{failure}"),
                    None => return Ok(rows),
                },
                _ => {}
            }
        }
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut kind = [0];
        let mut length = [0; 4];
        self.stream.read_exact(&mut kind).context("the server hung up")?;
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_be_bytes(length))?;
        ensure!((4..MESSAGE_BYTES_MAX).contains(&length), "message of {length} bytes");
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body)?;
        let [kind] = kind;
        Ok((kind, body))
    }
}

/// Text of a `DataRow`.
fn row_text(body: &[u8]) -> Result<String> {
    let (count, mut rest) = body.split_first_chunk::<2>().context("row without a count")?;
    let mut columns = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().context("column without a length")?;
        // -1 is null.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (value, after) = after.split_at_checked(length).context("column cut off")?;
        columns.push(String::from_utf8_lossy(value).into_owned());
        rest = after;
    }
    Ok(columns.join("|"))
}

/// `severity sqlstate: message` of an `ErrorResponse`, with detail and hint.
fn error_text(body: &[u8]) -> String {
    let field = |wanted: u8| {
        let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&wanted));
        found.and_then(|field| field.get(1..)).map(String::from_utf8_lossy)
    };
    let mut text = format!(
        "{} {}: {}",
        field(b'S').unwrap_or_default(),
        field(b'C').unwrap_or_default(),
        field(b'M').unwrap_or_default()
    );
    for (kind, label) in [(b'D', "detail"), (b'H', "hint")] {
        if let Some(more) = field(kind) {
            text.push_str(&format!("; {label}: {more}"));
        }
    }
    text
}
