//! A cursor over bytes from outside that never panics.
//!
//! WAL is little-endian (the server's own order on every machine that pgherd reads),
//! the wire protocol big-endian; the methods say which they read.

/// The input ended inside a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} needs {need} bytes at offset {at}, {have} are left")]
pub struct Truncated {
    /// Name of the field, as in the C struct or the protocol's chapter.
    pub field: &'static str,
    /// Offset of the field from the start of the input, in bytes.
    pub at: usize,
    /// Bytes that the field needs.
    pub need: usize,
    /// Bytes that are left.
    pub have: usize,
}

/// Reads fields off the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

macro_rules! integer {
    ($(#[$doc:meta])* $name:ident, $kind:ty, $from:ident) => {
        $(#[$doc])*
        ///
        /// # Errors
        ///
        /// [`Truncated`] when fewer bytes are left; the cursor has not moved then.
        #[inline]
        pub fn $name(&mut self, field: &'static str) -> Result<$kind, Truncated> {
            let Some((head, rest)) = self.rest.split_first_chunk::<{ size_of::<$kind>() }>() else {
                return Err(self.truncated(field, size_of::<$kind>()));
            };
            self.rest = rest;
            self.at += head.len();
            Ok(<$kind>::$from(*head))
        }
    };
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `input`.
    #[must_use]
    pub const fn new(input: &'a [u8]) -> Self {
        Self { rest: input, at: 0 }
    }

    /// Offset of the next unread byte.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// What has not been read.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes the next `need` bytes.
    ///
    /// # Errors
    ///
    /// [`Truncated`] when fewer are left; the cursor has not moved then.
    #[inline]
    pub fn take(&mut self, field: &'static str, need: usize) -> Result<&'a [u8], Truncated> {
        let Some((head, rest)) = self.rest.split_at_checked(need) else {
            return Err(self.truncated(field, need));
        };
        self.rest = rest;
        self.at += need;
        Ok(head)
    }

    /// Takes the bytes up to the next NUL and steps over it; the NUL is not part of them.
    ///
    /// # Errors
    ///
    /// [`Truncated`] when no NUL is left.
    pub fn cstr(&mut self, field: &'static str) -> Result<&'a [u8], Truncated> {
        let end = self.rest.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| self.truncated(field, self.rest.len() + 1))?;
        let text = self.take(field, end)?;
        self.u8(field)?;
        Ok(text)
    }

    integer!(
        /// One byte.
        u8, u8, from_le_bytes
    );
    integer!(
        /// Two bytes, little-endian.
        u16_le, u16, from_le_bytes
    );
    integer!(
        /// Four bytes, little-endian.
        u32_le, u32, from_le_bytes
    );
    integer!(
        /// Eight bytes, little-endian.
        u64_le, u64, from_le_bytes
    );
    integer!(
        /// Two bytes, big-endian.
        u16_be, u16, from_be_bytes
    );
    integer!(
        /// Four bytes, big-endian.
        u32_be, u32, from_be_bytes
    );
    integer!(
        /// Four bytes, big-endian, signed.
        i32_be, i32, from_be_bytes
    );
    integer!(
        /// Eight bytes, big-endian.
        u64_be, u64, from_be_bytes
    );
    integer!(
        /// Eight bytes, big-endian, signed.
        i64_be, i64, from_be_bytes
    );

    const fn truncated(&self, field: &'static str, need: usize) -> Truncated {
        Truncated { field, at: self.at, need, have: self.rest.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_field_that_is_cut() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u16_be("length"), Ok(0x0102));
        let cut = reader.u32_le("xl_tot_len").unwrap_err();
        assert_eq!(cut, Truncated { field: "xl_tot_len", at: 2, need: 4, have: 1 });
        assert_eq!(reader.u8("next"), Ok(3), "a failed read does not move the cursor");
    }

    #[test]
    fn takes_strings_without_their_nul() {
        let mut reader = Reader::new(b"user\0pg");
        assert_eq!(reader.cstr("key"), Ok(&b"user"[..]));
        assert!(reader.cstr("value").is_err());
        assert_eq!(reader.rest(), b"pg");
    }
}
