//! The relay's numbers as OpenMetrics.
//!
//! [`METRICS`] is the list of all names; dashboards and alert rules are held against it. Nothing is
//! kept here: each scrape takes a snapshot of the relay.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use relay::status::{ClientStatus, ConfigurationStatus, Decision, RelayStatus, Stage, Sums, Thing};

/// The type of the answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What stands before every name.
const PREFIX: &str = "pgherd_relay";

/// A metric, as it is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its whole name, unit and `_total` included.
    pub name: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
}

const fn metric(name: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, labels }
}

/// Every metric that there is.
pub const METRICS: [Metric; 21] = [
    metric("pgherd_relay_uptime_seconds", &[]),
    metric("pgherd_relay_build", &["version"]),
    metric("pgherd_relay_upstream_reachable", &[]),
    metric("pgherd_relay_upstream_switches_total", &[]),
    metric("pgherd_relay_connections_total", &[]),
    metric("pgherd_relay_clients", &["configuration"]),
    metric("pgherd_relay_received_bytes_total", &["configuration"]),
    metric("pgherd_relay_sent_bytes_total", &["configuration"]),
    metric("pgherd_relay_records_passed_total", &["configuration"]),
    metric("pgherd_relay_records_replaced_total", &["configuration"]),
    metric("pgherd_relay_replaced_bytes_total", &["configuration"]),
    metric("pgherd_relay_refusals_total", &["reason"]),
    metric("pgherd_relay_failed_logins_total", &[]),
    metric("pgherd_relay_alarms_total", &[]),
    metric("pgherd_relay_reloads_total", &["result"]),
    metric("pgherd_relay_decisions", &["configuration", "kind", "decision"]),
    metric("pgherd_relay_database_records_passed_total", &["configuration", "database", "oid"]),
    metric("pgherd_relay_database_records_replaced_total", &["configuration", "database", "oid"]),
    metric("pgherd_relay_client_lag_bytes", &["client", "configuration", "stage"]),
    metric("pgherd_relay_client_lag_seconds", &["client", "configuration", "stage"]),
    metric("pgherd_relay_client_streams", &["client", "configuration"]),
];

/// A snapshot of the relay.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// The relay itself.
    pub status: RelayStatus,
    /// Who is connected.
    pub clients: Vec<ClientStatus>,
    /// What was decided.
    pub things: Vec<Thing>,
}

impl Scrape {
    /// The snapshot as text.
    ///
    /// # Errors
    ///
    /// None in practice: it is written to memory.
    pub fn encode(self) -> Result<String, Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Out { encoder: &mut encoder };
        self.relay(&mut out)?;
        self.configurations(&mut out)?;
        self.decisions(&mut out)?;
        self.streams(&mut out)
    }
}

/// One of the sums of a configuration.
type SumOf = fn(&Sums) -> u64;
/// What became of the records of a database.
type RecordsOf = fn(&Decision) -> Option<u64>;
/// One of the stages of a client.
type StageOf = fn(&ClientStatus) -> &Stage;
/// Labels of one sample.
type Labels<'a> = Vec<(&'static str, &'a str)>;

struct Out<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl Out<'_, '_> {
    fn counter<'l>(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> Result<(), Error> {
        let kind = MetricType::Counter;
        let mut metric = self.encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in samples {
            with(&mut metric, &labels, |it| it.encode_counter::<NoLabelSet, _, u64>(&value, None))?;
        }
        Ok(())
    }

    fn gauge<'l>(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> Result<(), Error> {
        let kind = MetricType::Gauge;
        let mut metric = self.encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in samples {
            with(&mut metric, &labels, |it| it.encode_gauge(&value))?;
        }
        Ok(())
    }
}

fn with(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    if labels.is_empty() {
        return encode(metric);
    }
    encode(&mut metric.encode_family(&labels.as_slice())?)
}

/// For values that are shown as whole numbers anyway.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 bytes are 9 petabytes")]
const fn float(value: u64) -> f64 {
    value as f64
}

impl Scrape {
    fn relay(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let status = &self.status;
        let of = |value: u64| [(Vec::new(), float(value))];
        let help = "How long the relay has been running";
        out.gauge(("uptime", help, Some(Unit::Seconds)), of(status.uptime_secs))?;
        let version = vec![("version", status.version.as_str())];
        out.gauge(("build", "The version that runs, always 1", None), [(version, 1.0)])?;
        let help = "Whether a connection to the upstream could be made within the last seconds";
        let reachable = of(u64::from(status.upstream.reachable));
        out.gauge(("upstream_reachable", help, None), reachable)?;
        let switches = [(Vec::new(), status.upstream.switches)];
        out.counter(("upstream_switches", "How often the upstream moved", None), switches)?;
        let connections = [(Vec::new(), status.connections)];
        out.counter(("connections", "Connections that came in", None), connections)?;
        let refusals =
            status.refusals.iter().map(|(it, count)| (vec![("reason", it.as_str())], *count));
        out.counter(("refusals", "Connections and commands that were refused", None), refusals)?;
        let failed = [(Vec::new(), status.failed_logins)];
        let help = "Logins that failed: a wrong password, certificate or user";
        out.counter(("failed_logins", help, None), failed)?;
        let help = "Events that a person should look at";
        out.counter(("alarms", help, None), [(Vec::new(), status.alarms)])?;
        let reloads = [
            (vec![("result", "done")], status.reloads.done),
            (vec![("result", "refused")], status.reloads.refused),
        ];
        out.counter(("reloads", "Changes of the configuration", None), reloads)
    }

    fn configurations(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let all = &self.status.configurations;
        let clients = all.iter().map(|it| (labels_of(it), float(it.clients as u64)));
        out.gauge(("clients", "Clients that are connected", None), clients)?;
        let sums: [(&str, &str, Option<Unit>, SumOf); 5] = [
            ("received", "From the upstream, in answers and streams", Some(Unit::Bytes), |it| {
                it.received_bytes
            }),
            ("sent", "To clients, in answers and streams", Some(Unit::Bytes), |it| it.sent_bytes),
            ("records_passed", "WAL records that passed a filter", None, |it| it.records_passed),
            ("records_replaced", "WAL records replaced by no-ops", None, |it| it.records_replaced),
            ("replaced", "WAL in records replaced by no-ops", Some(Unit::Bytes), |it| {
                it.replaced_bytes
            }),
        ];
        for (name, help, unit, of) in sums {
            let samples = all.iter().map(|it| (labels_of(it), of(&it.sums)));
            out.counter((name, help, unit), samples)?;
        }
        Ok(())
    }

    fn decisions(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let mut counts: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
        for thing in &self.things {
            for it in &thing.decisions {
                let key = (it.configuration.as_str(), thing.kind.as_str(), it.decision.as_str());
                *counts.entry(key).or_default() += 1;
            }
        }
        let samples = counts.iter().map(|((configuration, kind, decision), count)| {
            let labels =
                vec![("configuration", *configuration), ("kind", *kind), ("decision", *decision)];
            (labels, float(*count))
        });
        let help = "Databases and tablespaces by what was decided about them";
        out.gauge(("decisions", help, None), samples)?;
        self.databases(out)
    }

    fn databases(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let oids: Vec<_> = self.things.iter().map(|thing| thing.oid.to_string()).collect();
        let counts: [(&str, &str, RecordsOf); 2] = [
            ("database_records_passed", "WAL records of a database that passed", |it| {
                it.records_passed
            }),
            ("database_records_replaced", "WAL records of a database that were replaced", |it| {
                it.records_replaced
            }),
        ];
        for (name, help, of) in counts {
            let samples = self.things.iter().zip(&oids).flat_map(|(thing, oid)| {
                thing.decisions.iter().filter_map(move |it| {
                    let labels = vec![
                        ("configuration", it.configuration.as_str()),
                        ("database", thing.name.as_str()),
                        ("oid", oid.as_str()),
                    ];
                    Some((labels, of(it)?))
                })
            });
            out.counter((name, help, None), samples)?;
        }
        Ok(())
    }

    /// Clients of one name and configuration are one series: the one that is furthest behind counts.
    fn streams(&self, out: &mut Out<'_, '_>) -> Result<(), Error> {
        let mut streams: BTreeMap<(&str, &str), Vec<&ClientStatus>> = BTreeMap::new();
        for client in self.clients.iter().filter(|it| it.activity == "streaming") {
            let configuration = client.configuration.as_deref().unwrap_or_default();
            streams.entry((&client.name, configuration)).or_default().push(client);
        }
        let stages: [(&str, StageOf); 4] = [
            ("sent", |it| &it.sent),
            ("write", |it| &it.write),
            ("flush", |it| &it.flush),
            ("replay", |it| &it.replay),
        ];
        let samples = |value: fn(&Stage) -> Option<f64>| {
            let mut samples = Vec::new();
            for ((client, configuration), of) in &streams {
                for (stage, at) in stages {
                    let worst = of.iter().filter_map(|it| value(at(it))).reduce(f64::max);
                    let labels = vec![
                        ("client", *client),
                        ("configuration", *configuration),
                        ("stage", stage),
                    ];
                    samples.extend(worst.map(|worst| (labels, worst)));
                }
            }
            samples
        };
        let help = "WAL between the upstream's end and the client, at each stage";
        let bytes = samples(|it| it.lag_bytes.map(float));
        out.gauge(("client_lag", help, Some(Unit::Bytes)), bytes)?;
        let help = "How long there has been WAL that the client has not got to, at each stage";
        let seconds = samples(|it| it.lag_secs);
        out.gauge(("client_lag", help, Some(Unit::Seconds)), seconds)?;
        let counts = streams.iter().map(|((client, configuration), of)| {
            (vec![("client", *client), ("configuration", *configuration)], float(of.len() as u64))
        });
        out.gauge(("client_streams", "Streams of WAL that are under way", None), counts)
    }
}

/// Clients without a configuration have the empty name, which Prometheus takes for no label.
fn labels_of(configuration: &ConfigurationStatus) -> Labels<'_> {
    vec![("configuration", configuration.name.as_deref().unwrap_or_default())]
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{{}}}", self.name, self.labels.join(","))
    }
}
