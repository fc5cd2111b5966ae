//! Certificates, made for one test: an authority, and what it signs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::user;

/// An authority, with a folder for what it signs.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    params: CertificateParams,
    key: KeyPair,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub cert: PathBuf,
    /// The key, mode 0600.
    pub key: PathBuf,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    ///
    /// When its files cannot be written.
    pub fn new(name: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pgherd-test-tls-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let own = params.self_signed(&key)?;
        fs::write(folder.path().join("ca.crt"), own.pem())?;
        Ok(Self { folder, params, key })
    }

    /// Its certificate.
    #[must_use]
    pub fn cert(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Signs a certificate with this common name, good for these hosts, and writes it to files
    /// called `file`; those that are there are replaced.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn sign(&self, file: &str, common_name: &str, hosts: &[&str]) -> Result<Certified> {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))?;
        let at = |extension| self.folder.path().join(format!("{file}.{extension}"));
        let certified = Certified { cert: at("crt"), key: at("key") };
        fs::write(&certified.cert, signed.pem())?;
        fs::write(&certified.key, key.serialize_pem())?;
        fs::set_permissions(&certified.key, fs::Permissions::from_mode(0o600))?;
        Ok(certified)
    }

    /// The authority's own certificate and key as a server's, as the quick start of PostgreSQL's
    /// documentation makes them: nobody signed it, and only its common name has a host.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    pub fn as_server(&self) -> Result<Certified> {
        let key = self.folder.path().join("ca.key");
        fs::write(&key, self.key.serialize_pem())?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        user::give(&key)?;
        Ok(Certified { cert: self.cert(), key })
    }

    /// As [`Authority::sign`], for a server: its user can read the key.
    ///
    /// # Errors
    ///
    /// As [`Authority::sign`].
    pub fn sign_for_server(&self, file: &str, hosts: &[&str]) -> Result<Certified> {
        let certified = self.sign(file, "server", hosts)?;
        user::give(&certified.key)?;
        Ok(certified)
    }
}
