//! `pgherd clone`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use alarm::Code;
use anyhow::{Context as _, Result, bail, ensure};
use clone::{Address, Programs};
use config::{Listen, Overrides};
use pgnet::{Endpoint, Local};
use relay::{Options as RelaySettings, Service};
use tasks::CancellationToken;

use crate::cli::CloneOptions;
use crate::clone_order::Order;
use crate::clone_report::{self, Meter};
use crate::{chain, fail, relay_command, runtime};

/// Makes a standby.
pub(crate) fn run(options: &CloneOptions) -> ExitCode {
    let settings = match relay_command::load(Some(&options.config), &Overrides::default()) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    telemetry::start_quietly(options.verbose);
    match runtime::run(|stop| make(options, settings, stop)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(Code::NoClone, chain(&error)),
    }
}

async fn make(
    options: &CloneOptions,
    settings: RelaySettings,
    stop: CancellationToken,
) -> Result<()> {
    let settings = settings.for_own_use();
    let order = Order::new(options, &settings)?;
    let mut problems = order.problems_here();
    if !options.dry_run {
        none(&problems)?;
    }
    let client = config::Client {
        application_name: options.name.as_bytes(),
        source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        user: order.user.as_bytes(),
        tls: false,
        certificate: None,
    };
    let plan = relay::plan(&settings, &client).await?;
    problems.extend(order.problems_with(&plan));
    let programs = Programs::find(plan.major, options.bin_dir.as_deref());
    problems.extend(programs.as_ref().err().map(ToString::to_string));
    let Address { host, port, .. } = &order.relay;
    let is_running = relay::is_relay(&Endpoint::new(host, *port)).await;
    if options.relay.is_some() && !is_running {
        problems.push(format!("no pgherd relay answers at {host}:{port}"));
    }
    if !options.dry_run {
        none(&problems)?;
    }
    let rooms = order.rooms(&plan)?;
    eprint!("{}", clone_report::plan(&plan, &order.target, &rooms));
    let full = rooms.iter().filter(|room| !room.suffices());
    problems.extend(full.map(|room| format!("not enough room for {}", room.what)));
    if options.dry_run {
        problems.iter().for_each(|it| eprintln!("STOP  {it}"));
        ensure!(problems.is_empty(), "the clone would fail: see what STOP says");
        return Ok(());
    }
    none(&problems)?;
    let clone = order.clone_of(&plan, programs?);
    if is_running {
        // It has the decisions, and it may hold their lock.
        take(&clone, stop).await?;
    } else {
        eprintln!("no relay answers there: working as it would, with its configuration and state");
        take_embedded(clone.clone(), settings, stop).await?;
    }
    tell(&clone);
    Ok(())
}

/// All that is known of, so that nobody has to try again for each.
fn none(problems: &[String]) -> Result<()> {
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

async fn take(options: &clone::Options, stop: CancellationToken) -> Result<()> {
    let mut meter = Meter::new();
    let taken = clone::run(options, |progress| meter.show(progress), stop).await;
    meter.end(taken.is_ok());
    taken.context("no clone was made")
}

/// With a relay of our own, which lives as long as the backup.
async fn take_embedded(
    mut options: clone::Options,
    mut settings: RelaySettings,
    stop: CancellationToken,
) -> Result<()> {
    settings.listen = vec![Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
    let (service, handle) = Service::bind(settings).await?;
    let Some(Local::Tcp(address)) = handle.locals().first() else { bail!("no address") };
    options.source = Address { host: address.ip().to_string(), port: address.port(), is_own: true };
    // It goes on while the clone cleans up: a slot is dropped through it.
    let relays_stop = CancellationToken::new();
    let mut group = tasks::Group::new(relays_stop.clone());
    group.spawn("relay", |stop| async move { Ok(service.run(stop).await?) });
    let taken = take(&options, stop).await;
    relays_stop.cancel();
    group.finish(std::time::Duration::from_secs(15)).await?;
    taken
}

/// What is left to do.
fn tell(options: &clone::Options) {
    let Address { host, port, .. } = &options.upstream;
    eprintln!("{} is a standby of the relay at {host} port {port}", options.target.display());
    if let Some(slot) = &options.slot {
        eprintln!("its replication slot {slot} keeps WAL for it from now on: start it soon");
    }
    eprintln!("start it as any standby; its login finds the password as psql does (passfile)");
}
