//! `pgherd relay` and `pgherd relay forget`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use alarm::Code;
use config::{ConfigError, LogFormat, Overrides};
use relay::{DroppedSlot, Handle, Options, Service};
use tasks::{CancellationToken, Group};
use telemetry::Recent;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::cli::{self, Forget, RelayOptions};
use crate::reloader::Reloader;
use crate::{EXIT_CONFIG, chain, core_dumps, fail, open_files, runtime};

/// Time for what is beside the relay to end, once it has.
const GRACE: Duration = Duration::from_secs(15);

/// Runs the relay in the foreground until it is told to stop.
pub(crate) fn run(options: &RelayOptions) -> ExitCode {
    let overrides = Overrides {
        host: options.host.clone(),
        masterport: options.masterport.clone(),
        port: options.port.clone(),
        log_format: options.log_format.map(|format| match format {
            cli::LogFormat::Text => LogFormat::Text,
            cli::LogFormat::Json => LogFormat::Json,
        }),
    };
    let settings = match load(options.config.as_deref(), &overrides) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    if options.check {
        println!("the configuration is good");
        return ExitCode::SUCCESS;
    }
    if options.own_session {
        // Who started us may end, and its terminal too.
        rustix::process::setsid().ok();
    }
    let format = match settings.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    let events = telemetry::start(format, options.verbose);
    core_dumps::forbid();
    open_files::suffice_for(settings.limits.max_connections);
    let config = options.config.clone();
    let served = runtime::serve(|stop| async move {
        let http = settings.http.clone();
        let (service, relay) = Service::bind(settings).await?;
        let reloader = Arc::new(Reloader { config, overrides, relay: relay.clone() });
        let mut group = Group::new(stop);
        if let Some(http) = http {
            let http = answer_http(http, relay, events, Arc::clone(&reloader)).await?;
            group.spawn("http", |stop| http.run(stop));
        }
        group.spawn("signals", |stop| reload_on_signal(reloader, stop));
        group.spawn("relay", |stop| async move { Ok(service.run(stop).await?) });
        runtime::is_up();
        group.finish(GRACE).await
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(code = %Code::RelayEnds, error = format!("{error:#}"), "the relay ends on an error");
            ExitCode::FAILURE
        }
    }
}

async fn answer_http(
    http: config::Http,
    relay: Handle,
    events: Recent,
    reloader: Arc<Reloader>,
) -> Result<api::Service, api::Error> {
    let reload: api::Reload = Arc::new(move || {
        let reloader = Arc::clone(&reloader);
        Box::pin(async move { reloader.reload("HTTP").await })
    });
    api::Service::bind(api::Options { address: http.address, relay, events, reload }).await
}

/// Reads the configuration again at each SIGHUP.
async fn reload_on_signal(reloader: Arc<Reloader>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            Some(()) = hangups.recv() => {
                info!(signal = "SIGHUP", "reading the configuration again");
                // What is wrong is in the log.
                reloader.reload("SIGHUP").await.ok();
            }
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Removes what was decided for a configuration.
pub(crate) fn forget(forget: &Forget) -> ExitCode {
    let settings = match load(forget.config.as_deref(), &Overrides::default()) {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    let Some(name) = &forget.name else { return forget_upstream(&settings) };
    if let Err(error) = drop_slots(&settings, name) {
        return fail(Code::NotForgotten, chain(&error));
    }
    match relay::forget(&settings.state_dir, name) {
        Ok(true) => {
            println!("forgot what was decided for {name:?}; make its standbys anew");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            let folder = settings.state_dir.display();
            let what = format_args!("nothing is known of a configuration {name:?} in {folder}");
            fail(Code::NotForgotten, what)
        }
        Err(error) => {
            let hint = "stop the standbys of this configuration first";
            fail(Code::NotForgotten, format_args!("{error}\nhint: {hint}"))
        }
    }
}

/// Drops the slots that the relay made; one that cannot be dropped is told and does not hold up
/// the rest, as a host may be gone for good.
fn drop_slots(settings: &Options, name: &str) -> anyhow::Result<()> {
    let variable = |name| std::env::var(name).ok().filter(|it: &String| !it.is_empty());
    let user = variable("PGUSER").or_else(|| variable("USER")).unwrap_or_default();
    let dropped = runtime::run(|stop| async move {
        tokio::select! {
            dropped = relay::drop_slots(settings, name, &user) => Ok(dropped?),
            () = stop.cancelled() => anyhow::bail!("stopped"),
        }
    })?;
    for DroppedSlot { slot, host, outcome } in dropped {
        match outcome {
            Ok(true) => println!("dropped replication slot {slot} on {host}"),
            Ok(false) => {}
            Err(error) => eprintln!(
                "replication slot {slot} on {host} may still be there and keep WAL: {error}\n\
                 hint: select pg_drop_replication_slot('{slot}')"
            ),
        }
    }
    Ok(())
}

/// Removes what is kept of an upstream that moves.
fn forget_upstream(settings: &Options) -> ExitCode {
    match relay::forget_upstream(&settings.state_dir) {
        Ok(true) => {
            println!("forgot the upstream: the next that fits is taken, whatever it is");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            let folder = settings.state_dir.display();
            fail(Code::NotForgotten, format_args!("nothing is known of an upstream in {folder}"))
        }
        Err(error) => fail(Code::NotForgotten, format_args!("{error}")),
    }
}

/// Reads the configuration, or tells what is wrong with it.
pub(crate) fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Options, ExitCode> {
    let loaded = match path {
        Some(path) => config::load(path, overrides),
        None => config::defaults(overrides),
    };
    loaded.map_err(|complaint: ConfigError| {
        let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
        eprintln!("{}", complaint.render(colour));
        ExitCode::from(EXIT_CONFIG)
    })
}
