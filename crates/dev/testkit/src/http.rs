//! Plain HTTP/1.1 requests, one a connection, in which a test decides every byte.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::wait::PATIENCE;

/// An answer.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl HttpAnswer {
    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// When it is none, or the status is no success.
    pub fn json(&self) -> Result<serde_json::Value> {
        if !(200..300).contains(&self.status) {
            bail!("status {}: {}", self.status, self.body);
        }
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// Sends a request to a port of 127.0.0.1; `headers` are whole lines.
///
/// # Errors
///
/// When there is no answer, or one that is not HTTP.
pub fn http(
    port: u16,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Result<HttpAnswer> {
    let stream = TcpStream::connect(("127.0.0.1", port)).context("connect for HTTP")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let host = format!("Host: 127.0.0.1:{port}");
    let own = headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:"));
    let host = if own { Vec::new() } else { vec![host.as_str()] };
    exchange(stream, method, path, &[&host, headers].concat(), body)
}

/// As [`http`], over a Unix socket.
///
/// # Errors
///
/// As [`http`].
pub fn http_unix(socket: &Path, method: &str, path: &str) -> Result<HttpAnswer> {
    let stream = UnixStream::connect(socket).context("connect for HTTP")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, method, path, &["Host: localhost"], "")
}

fn exchange<S: Read + Write>(
    mut stream: S,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Result<HttpAnswer> {
    let mut request = format!("{method} {path} HTTP/1.1\r\n");
    let length = format!("Content-Length: {}", body.len());
    for line in headers.iter().chain(&["Connection: close", length.as_str()]) {
        request += &format!("{line}\r\n");
    }
    request += &format!("\r\n{body}");
    stream.write_all(request.as_bytes())?;
    let text = String::from_utf8(receive(&mut stream).context("read the answer")?)?;
    let (head, rest) = text.split_once("\r\n\r\n").with_context(|| format!("no head: {text}"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let status = status.parse().with_context(|| format!("no status: {head}"))?;
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let chunked = headers.get("transfer-encoding").is_some_and(|it| it == "chunked");
    let body = if chunked { unchunked(rest)? } else { rest.to_owned() };
    Ok(HttpAnswer { status, headers, body })
}

/// All of an answer. Some servers keep the connection open, whatever they are told.
fn receive(stream: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut step = [0; 16 * 1024];
    loop {
        if let Some(whole) = whole_bytes(&bytes)
            && bytes.len() >= whole
        {
            return Ok(bytes);
        }
        match stream.read(&mut step)? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(step.get(..count).unwrap_or_default()),
        }
    }
}

/// How long the answer is that begins with these bytes, if it says so.
fn whole_bytes(bytes: &[u8]) -> Option<usize> {
    let head_bytes = bytes.windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(bytes.get(..head_bytes)?).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    Some(head_bytes + length.trim().parse::<usize>().ok()?)
}

fn unchunked(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(size, 16)?;
        if size == 0 {
            return Ok(body);
        }
        body += after.get(..size).context("a chunk that is cut")?;
        rest = after.get(size + 2..).context("a chunk without an end")?;
    }
}
