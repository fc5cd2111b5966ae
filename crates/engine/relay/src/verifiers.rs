//! Verifiers of users whom the relay lets in itself, asked of the upstream at each login.
//!
//! Nothing is remembered: a password that is changed upstream counts at once, and so does a user
//! who is dropped. For users who do not exist a verifier is made up, from a secret that is kept
//! in `state_dir`, so that nobody can tell them from others, over restarts either.
//!
//! Verifiers in a file are the matter of `config::Users`.

use std::fs;
use std::path::Path;

use config::{Auth, Verifiers};
use scram::{Mock, Verifier};
use state::Document;
use tracing::info;

use crate::ledger::LedgerError;
use crate::names::{Asked, NamesError};
use crate::service::Options;
use crate::upstream::{NoHost, Upstream};

/// Why no verifier could be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifierError {
    /// The upstream could not be asked.
    #[error("cannot read verifiers from the upstream: {0}")]
    Names(#[from] NamesError),
    /// None of its hosts fits.
    #[error("cannot read verifiers from the upstream: {0}")]
    NoHost(#[from] NoHost),
    /// The answer is not one value.
    #[error(
        "cannot read verifiers from the upstream: users_query gave more than one row or column"
    )]
    Unclear,
}

/// What made-up verifiers are made of; never shown.
#[derive(Clone, Copy)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// The one that is kept; made when there is none and `options` need one.
    pub(crate) fn of(options: &Options) -> Result<Option<Self>, LedgerError> {
        let is_asked = |auth: &Auth| matches!(auth, Auth::Scram(Verifiers::Query(_)));
        let needed = options.configurations.iter().flatten().any(|it| is_asked(&it.auth));
        if needed { Self::kept(&options.state_dir).map(Some) } else { Ok(None) }
    }

    fn kept(state_dir: &Path) -> Result<Self, LedgerError> {
        // No configuration has a folder whose name begins with a dot.
        let folder = state_dir.join("relay");
        let document = Document::new(folder.join(".unknown-users"));
        let format = |reason: &str| LedgerError::Format {
            path: document.path().to_owned(),
            reason: reason.to_owned(),
        };
        if let Some(text) = document.load()? {
            let bytes = u8_of_hex(&text).and_then(|bytes| bytes.try_into().ok());
            return Ok(Self(bytes.ok_or_else(|| format("not 64 hexadecimal digits"))?));
        }
        let secret = Mock::secret().map_err(|_none| format("no random numbers can be had"))?;
        fs::create_dir_all(&folder)
            .map_err(|source| LedgerError::Folder { path: folder, source })?;
        document.save(&secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>())?;
        Ok(Self(secret))
    }
}

fn u8_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The verifier of a user, and whether there is such a user.
pub(crate) async fn ask(
    upstream: &Upstream,
    query: &str,
    user: &[u8],
    secret: Secret,
) -> Result<(Verifier, bool), VerifierError> {
    let catalog = upstream.own_catalog().await?;
    // A name that is no UTF-8 is nobody's, and takes as long as any other.
    let name = String::from_utf8_lossy(user);
    let (asked, iterations) = catalog.verifier(query, &name).await?;
    let mock = Mock::new(secret.0, iterations).verifier(user);
    let known = match asked {
        Asked::Unclear => return Err(VerifierError::Unclear),
        Asked::Nothing => None,
        Asked::Text(text) => {
            let verifier = Verifier::parse(&text).ok();
            if verifier.is_none() {
                info!(user = ?name, "the server has no SCRAM verifier for this user");
            }
            verifier.filter(|_| name.as_bytes() == user)
        }
    };
    let is_known = known.is_some();
    Ok((known.unwrap_or(mock), is_known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_kept_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret::kept(folder.path()).unwrap();
        assert_ne!(secret.0, [0; 32]);
        assert_eq!(Secret::kept(folder.path()).unwrap().0, secret.0);
        let file = folder.path().join("relay/.unknown-users");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
        Document::new(file).save("abc").unwrap();
        assert!(matches!(Secret::kept(folder.path()), Err(LedgerError::Format { .. })));
    }
}
