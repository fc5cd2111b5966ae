//! Five-character error codes.

use std::fmt;

/// An SQLSTATE; `errcodes.txt` names them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

/// A text that is not an SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an SQLSTATE is five digits or capital letters")]
pub struct BadSqlState;

impl SqlState {
    /// `ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION`
    pub const UNABLE_TO_CONNECT: Self = Self(*b"08001");
    /// `ERRCODE_CONNECTION_FAILURE`
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// `ERRCODE_PROTOCOL_VIOLATION`
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// `ERRCODE_FEATURE_NOT_SUPPORTED`
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// `ERRCODE_CHARACTER_NOT_IN_REPERTOIRE`
    pub const CHARACTER_NOT_IN_REPERTOIRE: Self = Self(*b"22021");
    /// `ERRCODE_INVALID_PARAMETER_VALUE`
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// `ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION`
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// `ERRCODE_INVALID_PASSWORD`
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// `ERRCODE_SYNTAX_ERROR`
    pub const SYNTAX_ERROR: Self = Self(*b"42601");
    /// `ERRCODE_UNDEFINED_OBJECT`
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// `ERRCODE_TOO_MANY_CONNECTIONS`
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// `ERRCODE_PROGRAM_LIMIT_EXCEEDED`
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    /// `ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE`
    pub const NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// `ERRCODE_ADMIN_SHUTDOWN`
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// `ERRCODE_CANNOT_CONNECT_NOW`
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// `ERRCODE_UNDEFINED_FILE`; what a server says of WAL that it has removed.
    pub const UNDEFINED_FILE: Self = Self(*b"58P01");
    /// `ERRCODE_INTERNAL_ERROR`
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");
    /// `ERRCODE_DATA_CORRUPTED`
    pub const DATA_CORRUPTED: Self = Self(*b"XX001");

    /// Reads a code as it stands in an error message.
    ///
    /// # Errors
    ///
    /// [`BadSqlState`] when it is not five digits or capital letters.
    pub fn parse(text: &[u8]) -> Result<Self, BadSqlState> {
        let code: [u8; 5] = text.try_into().map_err(|_| BadSqlState)?;
        let sound = code.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        if sound { Ok(Self(code)) } else { Err(BadSqlState) }
    }

    /// The five characters.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 5] {
        &self.0
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlState({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_codes_and_nothing_else() {
        assert_eq!(SqlState::parse(b"08P01"), Ok(SqlState::PROTOCOL_VIOLATION));
        assert_eq!(SqlState::SYNTAX_ERROR.to_string(), "42601");
        for bad in [&b""[..], b"0800", b"080011", b"08p01", b"08 01"] {
            assert_eq!(SqlState::parse(bad), Err(BadSqlState), "{bad:?}");
        }
    }
}
