//! Messages of a server: those that a relay writes itself, and those that it reads.

use pgtypes::read::{Reader, Truncated};

use crate::frame::{self, backend};

mod fields;
mod report;

pub use fields::ErrorFields;
pub use report::{Report, Severity, error_response};

/// Most columns of a row; `MaxTupleAttributeNumber` (`htup_details.h`).
pub const COLUMNS_MAX: u16 = 1_664;

/// A payload that is not what its tag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The payload ends inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// Bytes follow the last field.
    #[error("{bytes} bytes follow the last field of {message}")]
    Trailing {
        /// The message's name.
        message: &'static str,
        /// How many.
        bytes: usize,
    },
    /// More columns than a row can have.
    #[error("a row of {columns} columns, {COLUMNS_MAX} are possible")]
    Columns {
        /// Columns that the row says it has.
        columns: u16,
    },
    /// A value with a negative length that does not mean NULL.
    #[error("column {column} of a row has length {length}")]
    ValueLength {
        /// The column, from zero.
        column: u16,
        /// Its length as sent.
        length: i32,
    },
}

/// What a server says in an authentication message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// The client is who it says it is.
    Ok,
    /// Wants the password itself.
    Cleartext,
    /// Wants the password hashed with this salt.
    Md5([u8; 4]),
    /// Offers SASL mechanisms.
    Sasl,
    /// Goes on with SASL.
    SaslContinue,
    /// Ends SASL; [`Authentication::Ok`] follows.
    SaslFinal,
    /// GSSAPI, SSPI or a kind that is not known here: `AUTH_REQ_…` of `protocol.h`.
    Other(u32),
}

impl Authentication {
    /// Reads the payload of an `R` message; SASL data is not looked at.
    ///
    /// # Errors
    ///
    /// [`BodyError::Truncated`].
    pub fn parse(payload: &[u8]) -> Result<Self, BodyError> {
        let mut reader = Reader::new(payload);
        Ok(match reader.u32_be("kind")? {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => {
                let salt = reader.u32_be("salt")?;
                Self::Md5(salt.to_be_bytes())
            }
            10 => Self::Sasl,
            11 => Self::SaslContinue,
            12 => Self::SaslFinal,
            other => Self::Other(other),
        })
    }

    /// Whether the client has to answer before the server goes on.
    #[must_use]
    pub const fn wants_answer(self) -> bool {
        !matches!(self, Self::Ok | Self::SaslFinal)
    }
}

/// Reads the payload of an `S` message: the name of a setting and its value.
///
/// # Errors
///
/// [`BodyError`] when it is not two strings.
pub fn parse_parameter_status(payload: &[u8]) -> Result<(&[u8], &[u8]), BodyError> {
    let mut reader = Reader::new(payload);
    let status = (reader.cstr("name")?, reader.cstr("value")?);
    ended("ParameterStatus", reader)?;
    Ok(status)
}

/// Reads the payload of a `D` message: the values of a row, `None` for NULL.
///
/// # Errors
///
/// [`BodyError`] when values and payload do not agree.
pub fn data_row(payload: &[u8]) -> Result<Vec<Option<&[u8]>>, BodyError> {
    let mut reader = Reader::new(payload);
    let columns = reader.u16_be("columns")?;
    if columns > COLUMNS_MAX {
        return Err(BodyError::Columns { columns });
    }
    let mut values = Vec::with_capacity(usize::from(columns));
    for column in 0..columns {
        let length = reader.i32_be("length")?;
        values.push(match usize::try_from(length) {
            Ok(bytes) => Some(reader.take("value", bytes)?),
            Err(_) if length == -1 => None,
            Err(_) => return Err(BodyError::ValueLength { column, length }),
        });
    }
    ended("DataRow", reader)?;
    Ok(values)
}

/// Reads the payload of an `E` or `N` message.
///
/// Tolerant on purpose: an error that cannot be read in full still has to be shown.
#[must_use]
pub fn parse_error_response(payload: &[u8]) -> ErrorFields {
    ErrorFields::parse(payload)
}

/// Appends a `Z` message; `status` is `I` for idle, `T` or `E` inside a transaction.
pub fn ready_for_query(status: u8, out: &mut Vec<u8>) {
    frame::write(backend::READY, &[status], out);
}

/// Appends a `C` message. What follows a NUL in `tag` is not sent.
pub fn command_complete(tag: &str, out: &mut Vec<u8>) {
    let tag = tag.split('\0').next().unwrap_or_default();
    frame::write(backend::COMMAND_COMPLETE, &[tag.as_bytes(), b"\0"].concat(), out);
}

/// Appends a `c` message: our half of the stream is over.
pub fn copy_done(out: &mut Vec<u8>) {
    frame::write(backend::COPY_DONE, b"", out);
}

fn ended(message: &'static str, reader: Reader<'_>) -> Result<(), BodyError> {
    match reader.rest().len() {
        0 => Ok(()),
        bytes => Err(BodyError::Trailing { message, bytes }),
    }
}

#[cfg(test)]
mod tests;
