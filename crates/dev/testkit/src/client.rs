//! A client of the wire protocol that sends what it is told, be it right or wrong.
//!
//! [`crate::Session`] is for tests that want something from a server. This one is for tests of
//! what a server or a relay answers: packets of any shape, errors by their fields, streams message
//! by message. Of the authentication methods it knows trust and clear text; for the others there
//! is libpq in PostgreSQL's own programs.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pgproto::backend::{
    Authentication, ErrorFields, data_row, parse_error_response, parse_parameter_status,
};
use pgproto::frame::{self, Header, backend, frontend};
use pgproto::startup::Startup;

use crate::wait::PATIENCE;

/// Longest message that a test reads, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A connection on which any bytes can be sent.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
}

/// A message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it is: a letter of [`pgproto::frame::backend`].
    pub tag: u8,
    /// What follows the length.
    pub payload: Vec<u8>,
}

/// All that a server says until it is ready, begins a stream, or hangs up.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Rows, nulls as `None`.
    pub rows: Vec<Vec<Option<String>>>,
    /// The error, if there was one; the first of several.
    pub error: Option<ErrorFields>,
    /// Settings that were reported.
    pub parameters: BTreeMap<String, String>,
    /// Process number and key for a cancel request, as they came.
    pub key: Option<Vec<u8>>,
    /// Payload of a `NegotiateProtocolVersion`.
    pub negotiated: Option<Vec<u8>>,
    /// The letters of all messages, in order.
    pub tags: String,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    /// Connects to a port of 127.0.0.1 and sends nothing.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub fn connect(port: u16) -> Result<Self> {
        Self::connect_to(SocketAddr::from((IpAddr::V4(Ipv4Addr::LOCALHOST), port)))
    }

    /// Connects to an address and sends nothing.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub fn connect_to(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Stream::Tcp(stream) })
    }

    /// Connects to a socket file and sends nothing.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub fn connect_unix(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Stream::Unix(stream) })
    }

    /// A physical replication connection of `postgres` on a port of 127.0.0.1, ready for commands.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn replication(port: u16, application_name: &str) -> Result<Self> {
        let mut client = Self::connect(port)?;
        let answer = client.start(&[
            ("user", "postgres"),
            ("replication", "true"),
            ("application_name", application_name),
        ])?;
        answer.rows().context("log in")?;
        Ok(client)
    }

    /// Sends a startup packet of protocol 3.0 and reads up to the end of the login.
    ///
    /// # Errors
    ///
    /// When the connection breaks without an error of the server.
    pub fn start(&mut self, params: &[(&str, &str)]) -> Result<Answer> {
        self.start_minor(0, params)
    }

    /// As [`Client::start`], for another minor version of the protocol.
    ///
    /// # Errors
    ///
    /// As [`Client::start`].
    pub fn start_minor(&mut self, minor: u16, params: &[(&str, &str)]) -> Result<Answer> {
        self.send(&Startup::build(minor, params)?.raw)?;
        self.answer()
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("send")?;
        Ok(())
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn send_message(&mut self, tag: u8, payload: &[u8]) -> Result<()> {
        let mut message = Vec::new();
        frame::write(tag, payload, &mut message);
        self.send(&message)
    }

    /// Sends a query without waiting for its answer.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn send_query(&mut self, text: &str) -> Result<()> {
        self.send_message(frontend::QUERY, &[text.as_bytes(), b"\0"].concat())
    }

    /// Sends a query and reads its answer.
    ///
    /// # Errors
    ///
    /// When the connection breaks without an error of the server.
    pub fn query(&mut self, text: &str) -> Result<Answer> {
        self.send_query(text)?;
        self.answer().with_context(|| format!("query {text:?}"))
    }

    /// Reads until the server is ready, begins a stream, or hangs up after an error.
    ///
    /// # Errors
    ///
    /// When the connection breaks without an error of the server.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let reply = match self.message() {
                Ok(Some(reply)) => reply,
                Ok(None) | Err(_) if answer.error.is_some() => return Ok(answer),
                Ok(None) => bail!("the server hung up after messages {:?}", answer.tags),
                Err(error) => return Err(error),
            };
            answer.tags.push(char::from(reply.tag));
            match reply.tag {
                backend::DATA_ROW => {
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    let values = data_row(&reply.payload)?.into_iter();
                    answer.rows.push(values.map(|value| value.map(text)).collect());
                }
                backend::ERROR if answer.error.is_none() => {
                    answer.error = Some(parse_error_response(&reply.payload));
                }
                backend::PARAMETER_STATUS => {
                    let (name, value) = parse_parameter_status(&reply.payload)?;
                    let text = |value| String::from_utf8_lossy(value).into_owned();
                    answer.parameters.insert(text(name), text(value));
                }
                backend::BACKEND_KEY => answer.key = Some(reply.payload),
                backend::NEGOTIATE => answer.negotiated = Some(reply.payload),
                backend::AUTHENTICATION
                    if Authentication::parse(&reply.payload)?.wants_answer() =>
                {
                    return Ok(answer);
                }
                backend::READY | backend::COPY_BOTH | backend::COPY_IN | backend::COPY_OUT => {
                    return Ok(answer);
                }
                _ => {}
            }
        }
    }

    /// The next message; `None` when the server has closed the connection.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or nothing comes within [`PATIENCE`].
    pub fn message(&mut self) -> Result<Option<Reply>> {
        let mut header = [0; Header::BYTES];
        let (first, rest) = header.split_at_mut(1);
        match self.stream.read_exact(first) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error).context("read a message"),
        }
        self.stream.read_exact(rest).context("read the length of a message")?;
        let Header { tag, payload_bytes } = Header::parse(&header)?;
        ensure!(payload_bytes <= MESSAGE_BYTES_MAX, "a message of {payload_bytes} bytes");
        let mut payload = vec![0; payload_bytes];
        self.stream.read_exact(&mut payload).context("read a message")?;
        Ok(Some(Reply { tag, payload }))
    }

    /// The payload of the next `CopyData`.
    ///
    /// # Errors
    ///
    /// When something else comes.
    pub fn copy_data(&mut self) -> Result<Vec<u8>> {
        match self.message()?.context("the server hung up")? {
            Reply { tag: backend::COPY_DATA, payload } => Ok(payload),
            Reply { tag: backend::ERROR, payload } => bail!("{}", parse_error_response(&payload)),
            other => bail!("message {:?} instead of WAL", char::from(other.tag)),
        }
    }

    /// The next byte, as the answer to a request for encryption.
    ///
    /// # Errors
    ///
    /// When none comes.
    pub fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).context("read a byte")?;
        let [byte] = byte;
        Ok(byte)
    }

    /// Reads what else comes until the server closes the connection, in order or with a reset.
    ///
    /// # Errors
    ///
    /// When it is still open after `limit`.
    pub fn wait_closed(&mut self, limit: Duration) -> Result<Vec<u8>> {
        self.set_read_timeout(limit)?;
        let mut last = Vec::new();
        match self.stream.read_to_end(&mut last) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("still open after {limit:?}")
            }
            Ok(_) | Err(_) => Ok(last),
        }
    }

    /// How long reading waits.
    ///
    /// # Errors
    ///
    /// When `limit` is zero.
    pub fn set_read_timeout(&self, limit: Duration) -> Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(limit))?,
            Stream::Unix(stream) => stream.set_read_timeout(Some(limit))?,
        }
        Ok(())
    }
}

impl Answer {
    /// The rows.
    ///
    /// # Errors
    ///
    /// The server's error.
    pub fn rows(&self) -> Result<&[Vec<Option<String>>]> {
        match &self.error {
            Some(error) => bail!("{error}"),
            None => Ok(&self.rows),
        }
    }

    /// The value in the first row and this column; nulls are empty.
    ///
    /// # Errors
    ///
    /// The server's error, or that there is no such value.
    pub fn value(&self, column: usize) -> Result<&str> {
        let row = self.rows()?.first().context("no row")?;
        Ok(row.get(column).context("no such column")?.as_deref().unwrap_or_default())
    }

    /// The error, which must have this SQLSTATE.
    ///
    /// # Errors
    ///
    /// When there is none, or another.
    pub fn error(&self, sqlstate: &str) -> Result<&ErrorFields> {
        let error = self.error.as_ref();
        let error = error.with_context(|| format!("no error but messages {:?}", self.tags))?;
        ensure!(error.sqlstate == sqlstate, "{sqlstate} was expected: {error}");
        Ok(error)
    }

    /// Whether the server waits for the next command.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.tags.ends_with('Z')
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(from),
            Self::Unix(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
