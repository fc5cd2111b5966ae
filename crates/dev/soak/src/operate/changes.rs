//! Changes of the configuration and of certificates, while everything goes on.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use testkit::{PATIENCE, Port, Signal, http, wait_until};

use super::settings::NAMES;
use super::trust::{Leaf, Signer, TOKEN, holds, served};
use super::world::{World, renew_servers};
use crate::dice::Dice;

const WAYS: [&str; 3] = ["by command", "by SIGHUP", "over HTTP"];

impl World {
    /// Has the relay read its file, by one of three ways; it has to take it.
    fn reload(&mut self, dice: &mut Dice) -> Result<()> {
        let done = self.reloads("done")?;
        self.ask_to_reload(dice, true)?;
        self.wait_reloads("done", done + 1.0)
    }

    /// Has the relay read a file that is of no use; it has to say `part`, and where.
    fn reload_refused(&mut self, dice: &mut Dice, part: &str) -> Result<()> {
        let (done, refused) = (self.reloads("done")?, self.reloads("refused")?);
        let seen = self.relay.program()?.lines().len();
        let said = self.ask_to_reload(dice, false)?;
        if let Some(said) = said {
            ensure!(said.contains(part) && said.contains("relay.yaml:"), "no {part}: {said}");
        }
        self.wait_reloads("refused", refused + 1.0)?;
        let line = self.relay.program()?.wait_for_line_after(seen, part, PATIENCE)?;
        ensure!(line.contains("PGH0501"), "{line}");
        ensure!(self.reloads("done")? == done, "a bad file was taken");
        Ok(())
    }

    fn ask_to_reload(&mut self, dice: &mut Dice, good: bool) -> Result<Option<String>> {
        let way = dice.below(3);
        let name = usize::try_from(way).ok().and_then(|way| WAYS.get(way));
        self.tell(&format!("  {}", name.unwrap_or(&"")));
        if way == 0 {
            let output = self.command("reload", &[])?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let status = if good { 0 } else { 78 };
            ensure!(output.status.code() == Some(status), "{}: {said}", output.status);
            return Ok((!good).then_some(said));
        }
        if way == 1 {
            self.relay.program()?.signal(Signal::HUP)?;
            return Ok(None);
        }
        let wrong =
            http(self.http.number(), "POST", "/v1/reload", &["Authorization: Bearer wrong"], "")?;
        ensure!(wrong.status == 401, "a wrong token: {} {}", wrong.status, wrong.body);
        let token = format!("Authorization: Bearer {TOKEN}");
        let answer = http(self.http.number(), "POST", "/v1/reload", &[&token], "")?;
        let status = if good { 200 } else { 422 };
        ensure!(answer.status == status, "{} {}", answer.status, answer.body);
        Ok((!good).then_some(answer.body))
    }

    fn reloads(&self, which: &str) -> Result<f64> {
        self.metric(&format!("pgherd_relay_reloads_total{{result=\"{which}\"}}"))
    }

    fn wait_reloads(&self, which: &str, count: f64) -> Result<()> {
        wait_until("the reload", PATIENCE, || {
            let is = self.reloads(which)?;
            ensure!(is <= count, "{is} reloads were {which} instead of {count}");
            Ok((is >= count).then_some(()))
        })
    }

    /// Fails when a stream has not the connection to the server that it had; `apart` may have
    /// another.
    fn stayed(&mut self, before: [u32; 3], apart: Option<usize>) -> Result<()> {
        let now = self.settle()?;
        for (number, name) in NAMES.into_iter().enumerate() {
            let same = before.get(number) == now.get(number);
            let want = apart != Some(number);
            ensure!(same == want, "the stream of {name}: before {before:?}, now {now:?}");
        }
        Ok(())
    }
}

/// Something that is about nobody who streams.
pub(crate) fn about_nobody(world: &mut World, dice: &mut Dice) -> Result<()> {
    let before = world.settle()?;
    world.tell("a reload that is about no stream");
    match dice.below(3) {
        0 => world.settings.strict = !world.settings.strict,
        1 => world.settings.max_connections = 150 + dice.below(100),
        _ => world.settings.spare += 1,
    }
    world.write("")?;
    world.reload(dice)?;
    world.stayed(before, None)
}

/// Something that makes one configuration another: its stream connects again, no other.
pub(crate) fn about_one(world: &mut World, dice: &mut Dice) -> Result<()> {
    let number = usize::try_from(dice.below(3))?;
    for way in ["changes", "is as it was"] {
        let before = world.settle()?;
        world.tell(&format!("the configuration {} {way}", NAMES.get(number).unwrap_or(&"")));
        if let Some(require) = world.settings.require_tls.get_mut(number) {
            *require = !*require;
        }
        world.write("")?;
        world.reload(dice)?;
        // The reload is told when the old one is gone, or a moment before.
        let old = before.get(number).copied();
        wait_until("the old stream to end", PATIENCE, || {
            let now = world.backends()?.get(number).copied().flatten();
            Ok((now.is_some() && now != old).then_some(()))
        })?;
        world.stayed(before, Some(number))?;
    }
    Ok(())
}

/// A file that is of no use.
pub(crate) fn bad_file(world: &mut World, dice: &mut Dice) -> Result<()> {
    let before = world.settle()?;
    let (more, part) = match dice.below(4) {
        0 => ("strcit: true\n", "strcit"),
        1 => ("- berlin: {}\n", "berlin"),
        2 => ("- x: {match: {source: 300.0.0.1}}\n", "300.0.0.1"),
        _ => ("- y: {auth: scram}\n", "users_file"),
    };
    world.tell(&format!("a bad file: {}", more.trim_end()));
    world.write(more)?;
    world.reload_refused(dice, part)?;
    world.write("")?;
    world.stayed(before, None)
}

/// One more socket, or one less.
pub(crate) fn socket(world: &mut World, dice: &mut Dice) -> Result<()> {
    let before = world.settle()?;
    if let Some(port) = world.extra.take() {
        world.tell("a socket goes");
        world.settings.listen.truncate(1);
        world.write("")?;
        world.reload(dice)?;
        wait_until("the socket to close", PATIENCE, || {
            Ok(TcpStream::connect(("127.0.0.1", port.number())).is_err().then_some(()))
        })?;
    } else {
        world.tell("one more socket");
        let port = Port::reserve()?;
        world.settings.listen.push(port.number());
        world.write("")?;
        world.reload(dice)?;
        served(port.number()).context("on the new socket")?;
        world.extra = Some(port);
    }
    world.stayed(before, None)
}

/// A new certificate of the relay, of the same authority or of one that overlaps it.
pub(crate) fn certificate(world: &mut World, dice: &mut Dice) -> Result<()> {
    let before = world.settle()?;
    let another = dice.below(3) == 0;
    if another {
        world.tell("a new authority signs a new certificate of the relay");
        world.trust.renew(Signer::Relay)?;
    } else {
        world.tell("a new certificate of the relay");
    }
    world.trust.issue(Leaf::Relay)?;
    world.reload(dice)?;
    let shown = served(world.relay.port())?;
    ensure!(holds(&world.trust.at("relay.crt"), &shown)?, "the relay shows the old certificate");
    if another {
        let only = format!(
            "host=localhost hostaddr=127.0.0.1 sslmode=verify-full replication=true user=walter \
             application_name=visitor sslrootcert={}",
            world.trust.relay_authority().display()
        );
        let mut psql = world.primary.client("psql", world.relay.port())?;
        psql.env("PGPASSWORD", super::trust::SCRAM);
        testkit::run(psql.args(["-XAtw", "-c", "IDENTIFY_SYSTEM", "-d", &only]))?;
        world.trust.forget_old(Signer::Relay)?;
    }
    world.stayed(before, None)
}

/// A certificate that is of no use: the old one stays.
pub(crate) fn bad_certificate(world: &mut World, dice: &mut Dice) -> Result<()> {
    let before = world.settle()?;
    let shown = served(world.relay.port())?;
    let kept = world.trust.keep()?;
    let how = dice.below(5);
    let part = world.trust.spoil(how)?;
    world.tell(&format!("a bad certificate or key of the relay: {part}"));
    world.reload_refused(dice, part)?;
    ensure!(served(world.relay.port())? == shown, "the relay shows another certificate");
    world.trust.put_back(&kept)?;
    world.reload(dice)?;
    world.stayed(before, None)
}

/// A new authority for clients beside the old; then their certificates; then the old one goes.
pub(crate) fn clients_authority(world: &mut World, dice: &mut Dice) -> Result<()> {
    let before = world.settle()?;
    world.tell("a new authority of clients, beside the old");
    world.trust.renew(Signer::Clients)?;
    world.reload(dice)?;
    world.stayed(before, None)?;
    world.tell("paris gets a certificate of it, and the old authority goes");
    world.trust.issue(Leaf::Paris)?;
    world.trust.forget_old(Signer::Clients)?;
    world.reload(dice)?;
    world.stayed(before, None)?;
    // It comes in with the new one.
    let [_, _, paris] = before;
    world.primary.sql(&format!("select pg_terminate_backend({paris})"))?;
    wait_until("paris to come back", PATIENCE, || {
        let [_, _, now] = world.backends()?;
        Ok(now.is_some_and(|now| now != paris).then_some(()))
    })?;
    world.stayed(before, Some(2))
}

/// New certificates of the servers, or of the relay towards them.
pub(crate) fn upstream_certificates(world: &mut World, dice: &mut Dice) -> Result<()> {
    let before = world.settle()?;
    if dice.below(2) == 0 {
        world.tell("new certificates of the servers");
        renew_servers(world)?;
        return world.stayed(before, None);
    }
    world.tell("a new certificate of the relay towards the servers");
    world.trust.issue(Leaf::Upstream)?;
    world.reload(dice)?;
    wait_until("all streams to connect again", PATIENCE, || {
        let now = world.backends()?;
        let new = now.iter().zip(before).all(|(now, old)| now.is_some_and(|now| now != old));
        Ok(new.then_some(()))
    })?;
    world.settle()?;
    Ok(())
}
