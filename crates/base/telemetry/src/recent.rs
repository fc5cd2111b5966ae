//! The last events of the log, for those who look at the relay while it runs.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Events that are kept.
const EVENTS_MAX: usize = 100;
/// Longest text of an event, in bytes: an error may carry a server's words.
const TEXT_BYTES_MAX: usize = 1_000;

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentEvent {
    /// Grows with each event.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// `ERROR`, `WARN` or `INFO`.
    pub level: &'static str,
    /// What happened.
    pub message: String,
    /// What it was about, as in the log.
    pub fields: String,
}

/// The last events; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    number: u64,
    events: VecDeque<RecentEvent>,
}

impl Recent {
    /// What is kept, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<RecentEvent> {
        self.locked().events.iter().cloned().collect()
    }

    fn locked(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, level: &'static str, text: Text) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut kept = self.locked();
        kept.number += 1;
        let number = kept.number;
        if kept.events.len() == EVENTS_MAX {
            kept.events.pop_front();
        }
        kept.events.push_back(RecentEvent {
            number,
            at_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            level,
            message: text.message,
            fields: text.fields.trim_start().to_owned(),
        });
    }
}

/// What an event or a span says.
#[derive(Clone, Debug, Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let into = if field.name() == "message" { &mut self.message } else { &mut self.fields };
        let rest = TEXT_BYTES_MAX.saturating_sub(into.len());
        let mut shown = match field.name() {
            "message" => format!("{value:?}"),
            name => format!(" {name}={value:?}"),
        };
        while shown.len() > rest {
            shown.pop();
        }
        // Writing to a string cannot fail.
        write!(into, "{}", shown.replace(|c: char| c.is_control(), "\u{fffd}")).ok();
    }
}

impl<S> Layer<S> for Recent
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut text = Text::default();
        attributes.record(&mut text);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(text);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(text) = span.extensions_mut().get_mut::<Text>()
        {
            values.record(text);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARN",
            Level::INFO => "INFO",
            _ => return,
        };
        let mut text = Text::default();
        event.record(&mut text);
        if let Some(scope) = context.event_scope(event) {
            for span in scope {
                if let Some(of_span) = span.extensions().get::<Text>() {
                    text.fields.push_str(&of_span.fields);
                }
            }
        }
        self.keep(level, text);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn the_last_events_with_what_they_are_about() {
        let recent = Recent::default();
        let subscriber = tracing_subscriber::registry().with(recent.clone());
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("client", name = tracing::field::Empty);
            span.record("name", "berlin");
            let _inside = span.enter();
            tracing::debug!("not kept");
            for number in 0..150 {
                tracing::info!(number, "hello\nworld {}", "x".repeat(5_000));
            }
            tracing::error!(lsn = "0/1", "bad");
        });
        let events = recent.events();
        assert_eq!(events.len(), EVENTS_MAX);
        let last = events.last().unwrap();
        assert_eq!((last.level, last.message.as_str()), ("ERROR", "bad"));
        assert_eq!(last.fields, "lsn=\"0/1\" name=\"berlin\"");
        assert_eq!(last.number, 151);
        let before = &events[EVENTS_MAX - 2];
        assert!(before.message.starts_with("hello\u{fffd}world"), "{}", before.message);
        assert!(before.message.len() <= TEXT_BYTES_MAX + 2);
    }
}
