use std::sync::Mutex;

use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;

use super::*;

type Line = Map<String, Value>;

/// The lines of this thread, from now to when it is dropped.
pub(crate) struct Captured {
    lines: Arc<Mutex<Vec<Line>>>,
    _guard: DefaultGuard,
    /// Where there is one subscriber only, what other threads log first is taken for what nobody wants.
    _other: Dispatch,
}

impl Captured {
    pub(crate) fn start() -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let writer = Arc::new(move |line: &[u8]| sink.lock().unwrap().push(checked(line)));
        let other = Dispatch::new(tracing_subscriber::registry());
        let subscriber = tracing_subscriber::registry().with(HclogLayer::new(writer));
        Self { lines, _guard: tracing::subscriber::set_default(subscriber), _other: other }
    }

    /// Those at warn level with this sentence, so far.
    pub(crate) fn warnings(&self, message: &str) -> Vec<Line> {
        self.at_level("warn", message)
    }

    /// The same at any level.
    pub(crate) fn at_level(&self, level: &str, message: &str) -> Vec<Line> {
        let is_one = |line: &&Line| line["@level"] == level && line["@message"] == message;
        self.lines.lock().unwrap().iter().filter(is_one).cloned().collect()
    }
}

fn checked(line: &[u8]) -> Line {
    assert!(line.len() < 65_536 && line.ends_with(b"\n"), "one line under 64 KiB");
    assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1, "no newline inside");
    serde_json::from_slice(line).unwrap()
}

fn lines_of(work: impl FnOnce()) -> Vec<Line> {
    let captured = Captured::start();
    work();
    std::mem::take(&mut *captured.lines.lock().unwrap())
}

#[test]
fn reserved_keys_are_strings_whatever_the_fields_are_called() {
    let lines = lines_of(|| {
        tracing::info!(
            "@message" = 7,
            "@level" = true,
            "@timestamp" = 1.5,
            time = 3,
            plugin_name = "x",
            "sentence"
        );
    });
    let line = &lines[0];
    assert_eq!(line["@message"], "sentence");
    assert_eq!(line["@level"], "info");
    assert!(line["@timestamp"].is_string());
    assert_eq!(line["message"], 7);
    assert_eq!((&line["time_"], &line["plugin_name_"]), (&Value::from(3), &Value::from("x")));
    assert!(!line.contains_key("plugin_name") && !line.contains_key("time"));
}

#[test]
fn timestamps_have_six_fraction_digits_at_any_moment() {
    for nanos in [0, 1_000, 999_999_999, 500_000_000] {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_800_000_000, nanos);
        let text = line(&Level::WARN, "x", Map::new(), now);
        let object: Map<String, Value> = serde_json::from_slice(&text).unwrap();
        let stamp = object["@timestamp"].as_str().unwrap();
        assert_eq!(stamp.len(), "2027-01-15T08:00:00.000000Z".len(), "{stamp}");
        assert!(stamp.ends_with('Z') && stamp.as_bytes()[19] == b'.', "{stamp}");
    }
}

#[test]
fn large_integers_travel_as_strings_and_small_ones_as_numbers() {
    let lines =
        lines_of(|| tracing::info!(big = 1_755_890_917_u64, small = 41, negative = -5_000_000_i64, "x"));
    assert_eq!(lines[0]["big"], "1755890917");
    assert_eq!(lines[0]["small"], 41);
    assert_eq!(lines[0]["negative"], "-5000000");
}

#[test]
fn fields_of_spans_are_flattened_into_the_line() {
    let lines = lines_of(|| {
        let outer = tracing::info_span!("outer", trust_domain = "a.test", offer_id = tracing::field::Empty);
        outer.record("offer_id", 9);
        outer.in_scope(|| tracing::error!(outer = "b", "inside"));
    });
    assert_eq!(lines[0]["trust_domain"], "a.test");
    assert_eq!(lines[0]["offer_id"], 9);
    assert_eq!(lines[0]["outer"], "b");
    assert_eq!(lines[0]["@level"], "error");
}

#[test]
fn a_line_never_reaches_the_limit_of_the_host() {
    let long = "\u{1}é".repeat(40_000);
    let lines = lines_of(|| {
        tracing::info!(a = long, b = long, c = long, d = long, e = long, f = long, "{}", long);
        tracing::info!(text = "two\nlines", "x");
    });
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["fields_dropped"], "too long");
}

#[test]
fn an_error_shows_its_sources_once() {
    let inner = std::io::Error::other("no such file");
    let outer = std::io::Error::other(inner);
    assert_eq!(chain(&outer), "no such file");
}
