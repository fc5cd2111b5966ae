//! The messages of RFC 5802, section 7.

/// Why an exchange ends before a proof is looked at. Says nothing of users and secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScramError {
    /// Not a message of the grammar.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// A mechanism that was not offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// The client could bind the channel, and thinks that the server cannot.
    #[error(
        "SCRAM channel binding negotiation error: the client supports SCRAM channel binding but \
         thinks the server does not, and this one does"
    )]
    Downgrade,
    /// The channel is another than the client's.
    #[error("SCRAM channel binding check failed")]
    Binding,
    /// Messages that belong together do not.
    #[error("SCRAM nonces do not match")]
    Nonce,
}

/// What a client says of channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    /// `n`: it does not know it.
    No,
    /// `y`: it does, and takes the server for one that does not.
    Unused,
    /// `p=tls-server-end-point`
    EndPoint,
}

/// A client's first message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct First<'a> {
    pub(crate) flag: Flag,
    /// All in front of `bare`, which the client repeats.
    pub(crate) header: &'a str,
    pub(crate) bare: &'a str,
    pub(crate) nonce: &'a str,
}

impl<'a> First<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, ScramError> {
        let bad = ScramError::Malformed;
        let text = std::str::from_utf8(data).map_err(|_| bad("not text"))?;
        let (flag, rest) = text.split_once(',').ok_or(bad("no channel binding flag"))?;
        let flag = match flag {
            "n" => Flag::No,
            "y" => Flag::Unused,
            "p=tls-server-end-point" => Flag::EndPoint,
            _ => return Err(bad("unsupported channel binding")),
        };
        let (identity, bare) = rest.split_once(',').ok_or(bad("no end of the header"))?;
        if !identity.is_empty() {
            return Err(bad("an authorization identity, which is not supported"));
        }
        let header = text.strip_suffix(bare).unwrap_or_default();
        let mut fields = bare.split(',');
        let user = fields.next().unwrap_or_default();
        if user.starts_with("m=") {
            return Err(bad("an unsupported extension"));
        }
        if !user.starts_with("n=") {
            return Err(bad("no user"));
        }
        let nonce = fields.next().and_then(|field| field.strip_prefix("r=")).unwrap_or_default();
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("no nonce, or one that is not printable"));
        }
        Ok(Self { flag, header, bare, nonce })
    }
}

/// A client's last message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Last<'a> {
    pub(crate) binding: &'a str,
    pub(crate) nonce: &'a str,
    pub(crate) proof: &'a str,
    /// All in front of the proof, which is what it proves.
    pub(crate) without_proof: &'a str,
}

impl<'a> Last<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, ScramError> {
        let bad = ScramError::Malformed;
        let text = std::str::from_utf8(data).map_err(|_| bad("not text"))?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(bad("no proof"))?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|field| field.strip_prefix("c="));
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        Ok(Self {
            binding: binding.ok_or(bad("no channel binding"))?,
            nonce: nonce.ok_or(bad("no nonce"))?,
            proof,
            without_proof,
        })
    }
}
