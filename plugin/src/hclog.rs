//! Logs as SPIRE Server wants them from a plugin: one hclog JSON object per line on stderr.
//!
//! SPIRE dies when a reserved key is present and no string, and it shows a line raw when the timestamp has not exactly six
//! fraction digits or the line is longer than 64 KiB. So everything that reaches stderr is made here.

use std::fmt;
use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::SystemTime;

use entente_bundle::causes::chain;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Longest text of one field, in bytes; a longer one is cut.
const MAX_FIELD: usize = 4 * 1024;

/// Longest line: SPIRE reads up to 65,536 bytes as one line.
const MAX_LINE: usize = 60 * 1024;

/// From here on Go prints a number in exponent form, so it travels as a string.
const LARGE_INTEGER: u64 = 1_000_000;

/// Keys that SPIRE treats in a way of its own.
const RESERVED: &[&str] =
    &["level", "msg", "plugin_name", "plugin_type", "subsystem_name", "time", "timestamp"];

/// Sends everything that `tracing` is told to stderr, and panics too.
pub fn install() {
    // SPIRE filters by its own level; what our dependencies say below warnings is no use to its operator.
    let filter = Targets::new().with_target("entente", Level::DEBUG).with_default(Level::WARN);
    let layer = HclogLayer::new(Arc::new(write_to_stderr)).with_filter(filter);
    // A second call only happens in tests of this process, where the first one stands.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    std::panic::set_hook(Box::new(report_panic));
}

/// One write per line, so that lines of several threads never mix. Nobody is left to tell when it fails.
fn write_to_stderr(line: &[u8]) {
    let _ = std::io::stderr().lock().write_all(line);
}

fn report_panic(panic: &PanicHookInfo<'_>) {
    let mut fields = Map::new();
    let text = panic.payload_as_str().unwrap_or("no text");
    fields.insert("panic".into(), Value::String(cut(text).into()));
    if let Some(location) = panic.location() {
        fields.insert("location".into(), Value::String(location.to_string()));
    }
    write_to_stderr(&line(&Level::ERROR, "plugin panicked", fields, SystemTime::now()));
}

/// Where finished lines go.
type Writer = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Turns events, and the fields of the spans around them, into lines.
struct HclogLayer {
    writer: Writer,
}

/// Fields of a span, kept with it.
struct SpanFields(Fields);

impl HclogLayer {
    fn new(writer: Writer) -> Self {
        Self { writer }
    }
}

impl<S> Layer<S> for HclogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(SpanFields(fields)) = span.extensions_mut().get_mut::<SpanFields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut all = Map::new();
        for span in context.event_scope(event).into_iter().flatten().collect::<Vec<_>>().into_iter().rev() {
            if let Some(SpanFields(fields)) = span.extensions().get::<SpanFields>() {
                all.extend(fields.others.clone());
            }
        }
        let mut own = Fields::default();
        event.record(&mut own);
        all.extend(own.others);
        (self.writer)(&line(event.metadata().level(), &own.message, all, SystemTime::now()));
    }
}

/// Collects what was recorded, already as JSON.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name().trim_start_matches('@');
        let name = if RESERVED.contains(&name) { format!("{name}_") } else { name.to_owned() };
        self.others.insert(name, value);
    }

    fn put_integer(&mut self, field: &Field, value: impl fmt::Display + Into<Value>, size: u64) {
        let value = if size >= LARGE_INTEGER { Value::String(value.to_string()) } else { value.into() };
        self.put(field, value);
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &chain(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put_integer(field, value, value.unsigned_abs());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            cut(value).clone_into(&mut self.message);
        } else {
            self.put(field, cut(value).into());
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put_integer(field, value, value);
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_FIELD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn line(level: &Level, message: &str, mut fields: Map<String, Value>, now: SystemTime) -> Vec<u8> {
    let mut line = render(level, message, &fields, now);
    if line.len() > MAX_LINE {
        fields.clear();
        fields.insert("fields_dropped".into(), "too long".into());
        line = render(level, message, &fields, now);
    }
    line
}

fn render(level: &Level, message: &str, fields: &Map<String, Value>, now: SystemTime) -> Vec<u8> {
    let mut object = Map::new();
    object.insert("@level".into(), level.as_str().to_ascii_lowercase().into());
    object.insert("@message".into(), message.into());
    object.insert("@timestamp".into(), humantime::format_rfc3339_micros(now).to_string().into());
    object.extend(fields.clone());
    let mut line = Value::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
pub(crate) mod tests;
