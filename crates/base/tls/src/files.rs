//! PEM files.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Largest file, in bytes: a system's whole list of authorities takes a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What tells files apart that were read before from those that are there now.
pub(crate) type Fingerprint = [Option<Vec<u8>>; 3];

/// Of files that are read right after; one that changes in between is another one.
pub(crate) fn fingerprint(paths: [Option<&PathBuf>; 3]) -> Fingerprint {
    paths.map(|path| {
        let bytes = fs::read(path?).unwrap_or_default();
        Some(digest::digest(&digest::SHA256, &bytes).as_ref().to_vec())
    })
}

/// Why a file is of no use. Says nothing of what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FileProblem {
    /// Which setting names the file.
    pub setting: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: &'static str,
}

/// A file and the setting that names it.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) setting: &'static str,
    pub(crate) path: &'a Path,
}

impl Named<'_> {
    pub(crate) fn problem(&self, what: impl std::fmt::Display, hint: &'static str) -> FileProblem {
        let message = format!("{}: {what}", self.path.display());
        FileProblem { setting: self.setting, message, hint }
    }

    fn read(&self) -> Result<Vec<u8>, FileProblem> {
        let mut bytes = Vec::new();
        let read = fs::File::open(self.path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
        match read {
            Ok(length) if length as u64 > FILE_BYTES_MAX => {
                Err(self.problem("the file is larger than 1 MiB", "check that this is the file"))
            }
            Ok(_) => Ok(bytes),
            Err(error) => {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => "let the user that runs pgherd read it",
                    _ => "check the path",
                };
                Err(self.problem(error, hint))
            }
        }
    }

    /// The certificates in the file, at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileProblem> {
        const HINT: &str = "the file has to hold certificates as PEM, the own one first";
        let bytes = self.read()?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let found = found.map_err(|error| self.problem(error, HINT))?;
        if found.is_empty() {
            return Err(self.problem("there is no certificate in the file", HINT));
        }
        Ok(found)
    }

    /// The first certificate in the file, which is the server's or client's own.
    pub(crate) fn own_certificate(&self) -> Result<CertificateDer<'static>, FileProblem> {
        let first = self.certificates()?.into_iter().next();
        first.ok_or_else(|| self.problem("there is no certificate in the file", "check the path"))
    }

    /// Those whose signatures count.
    pub(crate) fn authorities(&self) -> Result<Arc<RootCertStore>, FileProblem> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| {
                self.problem(error, "every certificate in the file has to be of an authority")
            })?;
        }
        Ok(Arc::new(roots))
    }

    /// A private key. As servers and libpq do, refuses one that others can read.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, FileProblem> {
        let bytes = self.read()?;
        let about =
            fs::metadata(self.path).map_err(|error| self.problem(error, "check the file"))?;
        // `check_ssl_key_file_permissions` (be-secure-common.c): root's may be the group's.
        let open = if about.uid() == 0 { 0o037 } else { 0o077 };
        if about.mode() & open != 0 {
            let hint = "chmod 0600, or 0640 when it belongs to root";
            return Err(self.problem("the private key can be read by others", hint));
        }
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|_error| {
            let hint = "it has to be a PEM file with an unencrypted key (PKCS#8, PKCS#1 or SEC1)";
            self.problem("there is no private key in the file that can be used", hint)
        })
    }
}
