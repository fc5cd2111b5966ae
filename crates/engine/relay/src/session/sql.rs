//! Plain SQL connections, for configurations that let them through: bytes both ways, as they come.
//!
//! The server has let the client in and judges what it may do; nothing here is read but where the
//! server's messages end, and nothing is filtered. `pg_rewind --source-server` is what this is for.

use pgnet::Inbound;
use pgproto::frame::Header;

use super::{Session, SessionError, part};
use crate::clients::Activity;

/// What is moved at once.
const STEP_BYTES: usize = 64 * 1024;

impl Session {
    /// Passes everything on until one side leaves, the upstream moves, or the relay stops.
    pub(super) async fn sql(mut self) -> Result<(), SessionError> {
        self.client.does(Activity::Command);
        let Self {
            client, from_client, to_client, from_upstream, to_upstream, stop, place, ..
        } = &mut self;
        let mut answers = Borders::default();
        let down = async {
            let mut buffer = vec![0; STEP_BYTES];
            loop {
                let arrived = read(from_upstream, &mut buffer).await.map_err(upstream)?;
                if arrived.is_empty() {
                    return Ok(());
                }
                answers.is_cut = true;
                to_client.write_through(arrived, true).await.map_err(of_client)?;
                answers.pass(arrived);
                client.count(|tally| {
                    tally.received_bytes.add(arrived.len() as u64);
                    tally.sent_bytes.add(arrived.len() as u64);
                });
            }
        };
        let up = async {
            let mut buffer = vec![0; STEP_BYTES];
            loop {
                let arrived = read(from_client, &mut buffer).await.map_err(of_client)?;
                if arrived.is_empty() {
                    return Ok(());
                }
                to_upstream.write_through(arrived, true).await.map_err(upstream)?;
            }
        };
        let ended = tokio::select! {
            // What the server says last is passed on before its end is noticed.
            ended = down => ended,
            ended = up => ended,
            () = place.moved.cancelled() => Err(SessionError::Moved),
            () = stop.cancelled() => Err(SessionError::Stopping),
        };
        let ended = match ended {
            Err(SessionError::Stopping) if self.client.is_reconfigured() => {
                Err(SessionError::Reconfigured)
            }
            ended => ended,
        };
        if let Err(error) = &ended
            && answers.is_between_messages()
        {
            part(&mut self.from_client, &mut self.to_client, error).await;
        }
        ended
    }
}

fn upstream(error: std::io::Error) -> SessionError {
    SessionError::Upstream(error.into())
}

fn of_client(error: std::io::Error) -> SessionError {
    SessionError::Client(error.into())
}

/// Whatever has come; nothing once the sender has closed its side.
async fn read<'b>(from: &mut Inbound, buffer: &'b mut [u8]) -> std::io::Result<&'b [u8]> {
    let bytes = from.read_some(buffer).await?;
    Ok(buffer.get(..bytes).unwrap_or_default())
}

/// Where a server's messages end: only there can a client be told something.
#[derive(Debug, Default)]
struct Borders {
    /// The part of a header that has been seen.
    header: [u8; Header::BYTES],
    header_bytes: usize,
    /// Bytes of the current payload that are to come.
    payload_bytes: usize,
    /// Whether nobody knows how much of the last bytes arrived, or what they were.
    is_cut: bool,
}

impl Borders {
    const fn is_between_messages(&self) -> bool {
        self.header_bytes == 0 && self.payload_bytes == 0 && !self.is_cut
    }

    /// Takes note of bytes that have been passed on.
    fn pass(&mut self, mut bytes: &[u8]) {
        self.is_cut = false;
        while !bytes.is_empty() {
            let here = self.payload_bytes.min(bytes.len());
            self.payload_bytes -= here;
            bytes = bytes.get(here..).unwrap_or_default();
            let here = (Header::BYTES - self.header_bytes).min(bytes.len());
            for (into, from) in self.header.iter_mut().skip(self.header_bytes).zip(bytes) {
                *into = *from;
            }
            self.header_bytes += here;
            bytes = bytes.get(here..).unwrap_or_default();
            if self.header_bytes == Header::BYTES {
                self.header_bytes = 0;
                match Header::parse(&self.header) {
                    Ok(header) => self.payload_bytes = header.payload_bytes,
                    // The client has to make what it can of it.
                    Err(_error) => self.payload_bytes = usize::MAX,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pgproto::frame;

    use super::*;

    #[test]
    fn messages_end_where_they_end_however_they_are_cut() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for payload in [&b""[..], b"a", &[7; 300], b"", b"abcdef"] {
            frame::write(b'D', payload, &mut bytes);
            ends.push(bytes.len());
        }
        for step in [1, 2, 3, 5, 7, 64, 1000] {
            let mut borders = Borders::default();
            let mut at = 0;
            for piece in bytes.chunks(step) {
                borders.pass(piece);
                at += piece.len();
                assert_eq!(borders.is_between_messages(), ends.contains(&at), "{step}: {at}");
            }
        }
        let mut borders = Borders::default();
        borders.pass(&[b'D', 0xff, 0xff, 0xff, 0xff]);
        borders.pass(&[0; 100]);
        assert!(!borders.is_between_messages());
    }
}
