//! Log lines, in the shape of Flagger's, so that scripts that read them go on working.
//!
//! A JSON line has `level`, `ts` (ISO 8601 with milliseconds, UTC), `msg`, and the fields of the event and of its
//! spans beside them; a line about a Canary has `canary: "name.namespace"`.

use crate::clock;
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::fmt::{self, Debug, Write as _};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line (Flagger's `-zap-encoding=json`, its default).
    #[default]
    Json,
    /// `ts level msg key=value …`, for people.
    Text,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("cannot read the log level {0:?}")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    /// Something else logs for this process already.
    #[error("logging is set up already")]
    Twice(#[from] TryInitError),
}

/// Logs to standard error from now on. `level` is one of Flagger's (`debug`, `info`, `warning`, `error`, `fatal`),
/// which concerns our own lines, or a filter in the syntax of [`EnvFilter`].
///
/// # Errors
/// When the level cannot be read, or logging is set up already.
pub fn init(format: Format, level: &str) -> Result<(), LogError> {
    let directives = directives(level);
    let filter = EnvFilter::try_new(&directives).map_err(|e| LogError::Filter(level.to_owned(), e))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .fmt_fields(JsonFields::new())
        .event_format(Lines { format, now: clock::now })
        .finish()
        .try_init()?;
    Ok(())
}

/// Libraries warn; what they say below that is asked for by name.
fn directives(level: &str) -> String {
    match level {
        "debug" | "info" | "error" => format!("warn,sidetrack={level}"),
        "warn" | "warning" => "warn".to_owned(),
        "fatal" | "panic" => "error".to_owned(),
        filter => filter.to_owned(),
    }
}

/// Writes events as lines.
struct Lines {
    format: Format,
    now: fn() -> Timestamp,
}

impl<S> FormatEvent<S, JsonFields> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Map::new();
        // From the root inwards, the event last: what is said closer to the event counts.
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(recorded) = span.extensions().get::<FormattedFields<JsonFields>>()
                && let Ok(Value::Object(recorded)) = serde_json::from_str(recorded)
            {
                fields.extend(recorded);
            }
        }
        event.record(&mut Collect(&mut fields));
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let at = format!("{:.3}", (self.now)());
        let message = fields.remove("message").unwrap_or_default();
        let message = message.as_str().unwrap_or_default();
        let text = |text: &str| Value::from(text);
        match self.format {
            Format::Json => {
                write!(writer, "{{\"level\":\"{level}\",\"ts\":\"{at}\",\"msg\":{}", text(message))?;
                for (key, value) in &fields {
                    write!(writer, ",{}:{value}", text(key))?;
                }
                writer.write_str("}")?;
            }
            Format::Text => {
                write!(writer, "{at} {level:5} {message}")?;
                for (key, value) in &fields {
                    write!(writer, " {key}={value}")?;
                }
            }
        }
        writeln!(writer)
    }
}

/// Collects the fields of an event as JSON.
struct Collect<'a>(&'a mut Map<String, Value>);

impl Collect<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name().strip_prefix("r#").unwrap_or(field.name());
        // These three are the line's own.
        let name = if matches!(name, "level" | "ts" | "msg") { format!("{name}_") } else { name.to_owned() };
        self.0.insert(name, value.into());
    }
}

impl Visit for Collect<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, chain(value));
    }
}

/// Returns an error with its causes, each said once.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some errors repeat their cause in their own words.
        if !text.ends_with(&said) {
            // Writing to a String does not fail.
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing::{debug, error, info, info_span};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: &str, lines: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(directives(level)))
            .with_writer(move || sink.clone())
            .fmt_fields(JsonFields::new())
            .event_format(Lines { format, now: || Timestamp::from_millisecond(1_800_000_000_070).unwrap() })
            .finish();
        tracing::subscriber::with_default(subscriber, lines);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_line_begins_as_flaggers_and_carries_the_fields() {
        let line = logged(Format::Json, "info", || {
            info!(canary = "podinfo.test", weight = 10, "Advance {} canary weight {}", "podinfo.test", 10);
        });
        let begin = r#"{"level":"info","ts":"2027-01-15T08:00:00.070Z","msg":"Advance podinfo.test canary weight 10","#;
        assert!(line.starts_with(begin), "{line}");
        assert!(line.ends_with("}\n") && line.lines().count() == 1);
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&parsed["canary"], &parsed["weight"]), (&json!("podinfo.test"), &json!(10)));
    }

    #[test]
    fn canary_of_a_span_is_on_the_lines_inside() {
        let line = logged(Format::Json, "info", || {
            let _span = info_span!("reconcile", canary = "podinfo.test").entered();
            info!("\"quoted\"\nand broken");
        });
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["canary"], json!("podinfo.test"));
        assert_eq!(parsed["msg"], json!("\"quoted\"\nand broken"));
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn error_is_logged_with_its_causes_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read it")]
        struct Outer(#[source] io::Error);
        let line = logged(Format::Json, "info", || {
            let cause = Outer(io::Error::other("it is gone"));
            error!(error = &cause as &dyn std::error::Error, level = 3, "Failed");
        });
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["error"], json!("cannot read it: it is gone"));
        assert_eq!((&parsed["level"], &parsed["level_"]), (&json!("error"), &json!(3)));
    }

    #[test]
    fn level_concerns_our_own_lines_and_a_filter_is_taken_as_it_is() {
        let lines = || {
            debug!("ours");
            debug!(target: "hyper", "theirs");
        };
        assert_eq!(logged(Format::Json, "debug", lines).lines().count(), 1);
        assert_eq!(logged(Format::Json, "debug,sidetrack=info", lines).lines().count(), 1);
        assert!(logged(Format::Json, "debug,sidetrack=info", lines).contains("theirs"));
        assert_eq!(logged(Format::Json, "warning", lines), "");
    }

    #[test]
    fn text_line_is_for_people() {
        let line = logged(Format::Text, "info", || info!(canary = "a.b", "Hello"));
        assert_eq!(line, "2027-01-15T08:00:00.070Z info  Hello canary=\"a.b\"\n");
    }
}
