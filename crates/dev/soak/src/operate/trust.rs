//! Certificates, passwords and the files that hold them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use testkit::{Authority, Cluster, PASSWORD, give_to_servers};

/// Password of the relay's own user at the servers.
const OWN: &str = "trombone-for-soaking-8";
/// Password of those whom the relay asks itself.
pub(crate) const SCRAM: &str = "bassoon-for-soaking-9";
/// What changes over HTTP need.
pub(crate) const TOKEN: &str = "a-token-for-soaking-7";
/// A wrong password, which is as secret as a right one.
pub(crate) const WRONG: &str = "piccolo-for-soaking-6";
/// What nobody may find in a log or in an answer.
pub(crate) const SECRETS: [&str; 7] =
    [PASSWORD, OWN, SCRAM, TOKEN, WRONG, "PRIVATE KEY", "SCRAM-SHA-256$"];

const LOCAL: [&str; 2] = ["localhost", "127.0.0.1"];

/// Which certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaf {
    /// What the relay shows its clients.
    Relay,
    /// What the relay shows the servers.
    Upstream,
    /// What the servers show.
    Server,
    /// What the server that is next shows the primary.
    Next,
    /// What the standby paris shows.
    Paris,
}

impl Leaf {
    pub(crate) const ALL: [Self; 5] =
        [Self::Relay, Self::Upstream, Self::Server, Self::Next, Self::Paris];

    const fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Upstream => "upstream",
            Self::Server => "server",
            Self::Next => "next",
            Self::Paris => "paris",
        }
    }
}

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    /// The relay's certificate, for its clients.
    Relay,
    /// The clients' certificates, for the relay.
    Clients,
}

/// All of it, in one folder.
#[derive(Debug)]
pub(crate) struct Trust {
    folder: TempDir,
    relay: Authority,
    clients: Authority,
    servers: Authority,
}

impl Trust {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("pgherd-test-trust-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let trust = Self {
            folder,
            relay: Authority::new("authority of relays")?,
            clients: Authority::new("authority of clients")?,
            servers: Authority::new("authority of servers")?,
        };
        for leaf in Leaf::ALL {
            trust.issue(leaf)?;
        }
        trust.bundle("relay-ca.crt", &[&trust.relay])?;
        trust.bundle("clients-ca.crt", &[&trust.clients])?;
        trust.bundle("servers-ca.crt", &[&trust.servers])?;
        trust.secret("token", &format!("{TOKEN}\n"))?;
        trust.secret("pgpass", &format!("*:*:*:pgherd:{OWN}\n"))?;
        Ok(trust)
    }

    pub(crate) fn at(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn path(&self, file: &str) -> String {
        self.at(file).display().to_string()
    }

    /// A new certificate with a new key.
    pub(crate) fn issue(&self, leaf: Leaf) -> Result<()> {
        let (authority, common_name, hosts) = match leaf {
            Leaf::Relay => (&self.relay, "relay", &LOCAL[..]),
            Leaf::Server => (&self.servers, "server", &LOCAL[..]),
            Leaf::Upstream => (&self.servers, "pgherd", &[][..]),
            Leaf::Next => (&self.servers, "next", &[][..]),
            Leaf::Paris => (&self.clients, "paris.example", &[][..]),
        };
        let name = leaf.name();
        let signed = authority.sign(name, common_name, hosts)?;
        for (from, extension) in [(&signed.cert, "crt"), (&signed.key, "key")] {
            let to = self.at(&format!("{name}.{extension}"));
            fs::copy(from, &to).with_context(|| format!("write {}", to.display()))?;
            if matches!(leaf, Leaf::Server | Leaf::Next | Leaf::Paris) {
                give_to_servers(&to)?;
            }
        }
        Ok(())
    }

    /// Another authority, which is trusted beside the old one from now on.
    pub(crate) fn renew(&mut self, signer: Signer) -> Result<()> {
        match signer {
            Signer::Relay => {
                let old = std::mem::replace(&mut self.relay, Authority::new("another of relays")?);
                self.bundle("relay-ca.crt", &[&self.relay, &old])
            }
            Signer::Clients => {
                let old = Authority::new("another of clients")?;
                let old = std::mem::replace(&mut self.clients, old);
                self.bundle("clients-ca.crt", &[&self.clients, &old])
            }
        }
    }

    /// Only the newest authority is trusted.
    pub(crate) fn forget_old(&self, signer: Signer) -> Result<()> {
        match signer {
            Signer::Relay => self.bundle("relay-ca.crt", &[&self.relay]),
            Signer::Clients => self.bundle("clients-ca.crt", &[&self.clients]),
        }
    }

    /// The authority that signs for the relay now, alone.
    pub(crate) fn relay_authority(&self) -> PathBuf {
        self.relay.cert()
    }

    fn bundle(&self, file: &str, authorities: &[&Authority]) -> Result<()> {
        let mut text = String::new();
        for authority in authorities {
            text += &fs::read_to_string(authority.cert())?;
        }
        Ok(fs::write(self.at(file), text)?)
    }

    fn secret(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.at(file), text)?;
        Ok(fs::set_permissions(self.at(file), fs::Permissions::from_mode(0o600))?)
    }

    /// Puts something that is of no use in the place of the relay's certificate; gives what the
    /// relay has to say about it.
    pub(crate) fn spoil(&self, how: u64) -> Result<&'static str> {
        let (cert, key) = (self.at("relay.crt"), self.at("relay.key"));
        match how {
            0 => {
                fs::write(&cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
                Ok("relay.crt")
            }
            1 => {
                fs::write(&cert, "nothing that anybody can read\n")?;
                Ok("no certificate in the file")
            }
            2 => {
                fs::copy(self.at("upstream.key"), &key)?;
                Ok("the key is not the certificate's")
            }
            3 => {
                fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
                Ok("can be read by others")
            }
            4 => {
                fs::remove_file(&key)?;
                Ok("No such file")
            }
            _ => bail!("there is no such way"),
        }
    }

    /// Puts files back that [`Trust::spoil`] spoiled.
    pub(crate) fn keep(&self) -> Result<[Vec<u8>; 2]> {
        Ok([fs::read(self.at("relay.crt"))?, fs::read(self.at("relay.key"))?])
    }

    pub(crate) fn put_back(&self, kept: &[Vec<u8>; 2]) -> Result<()> {
        let [cert, key] = kept;
        fs::write(self.at("relay.crt"), cert)?;
        fs::write(self.at("relay.key"), key)?;
        Ok(fs::set_permissions(self.at("relay.key"), fs::Permissions::from_mode(0o600))?)
    }

    /// The roles of a new primary, who comes in, and the verifiers for the relay.
    pub(crate) fn furnish(&self, primary: &Cluster) -> Result<()> {
        primary.sql(&format!(
            "create role pgherd replication login password '{OWN}'; \
             grant pg_read_all_stats to pgherd; create role walter password '{SCRAM}'"
        ))?;
        let verifier =
            "select rolname || ':' || rolpassword from pg_authid where rolname = 'walter'";
        let verifier = primary.sql(verifier)?;
        primary.sql("drop role walter")?;
        self.secret("users", &format!("{verifier}\n"))?;
        let hba = primary.data().join("pg_hba.conf");
        let lines = "local all all trust\nlocal replication all trust\n\
                     hostssl all all all scram-sha-256 clientcert=verify-ca\n\
                     hostssl replication all all scram-sha-256 clientcert=verify-ca\n";
        fs::write(&hba, lines)?;
        give_to_servers(&hba)?;
        primary.sql("select pg_reload_conf()")?;
        Ok(())
    }

    /// How a server meets the primary, without the relay.
    pub(crate) fn between_servers(&self) -> String {
        format!(
            "host=localhost hostaddr=127.0.0.1 password='{PASSWORD}' sslmode=verify-full \
             sslrootcert={} sslcert={} sslkey={}",
            self.path("servers-ca.crt"),
            self.path("next.crt"),
            self.path("next.key")
        )
    }

    /// How the standby of this name meets the relay.
    pub(crate) fn to_relay(&self, name: &str) -> String {
        let own = match name {
            "berlin" => format!("password='{PASSWORD}' channel_binding=disable"),
            "whole" => format!("user=walter password={SCRAM} channel_binding=require"),
            _ => format!(
                "user=repl sslcert={} sslkey={}",
                self.path("paris.crt"),
                self.path("paris.key")
            ),
        };
        let root = self.path("relay-ca.crt");
        format!("host=localhost hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={root} {own}")
    }
}

/// The certificate that is served on a port, as PEM without white space.
pub(crate) fn served(port: u16) -> Result<String> {
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(["s_client", "-starttls", "postgres", "-connect", &format!("127.0.0.1:{port}")]);
    let output = openssl.stdin(std::process::Stdio::null()).output().context("run openssl")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pem = text.split_once("-----BEGIN CERTIFICATE-----");
    let pem = pem.and_then(|(_, rest)| rest.split_once("-----END CERTIFICATE-----"));
    let (pem, _) = pem.with_context(|| format!("no certificate in {text}"))?;
    Ok(plain(pem))
}

/// Whether a file has this certificate.
pub(crate) fn holds(file: &Path, certificate: &str) -> Result<bool> {
    Ok(plain(&fs::read_to_string(file)?).contains(certificate))
}

fn plain(pem: &str) -> String {
    pem.chars().filter(|it| !it.is_whitespace()).collect()
}
