//! A plugin's stderr, line by line, into the server's log: hclog JSON where it is one, else by the rules of go-plugin.

use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use crate::embedded::log::{Level, Log};

/// Longer lines are not parsed; their pieces are logged raw.
const LINE_LIMIT: usize = 64 << 10;

/// Reads until the plugin closes its end.
pub(super) async fn pump(stderr: impl AsyncRead + Unpin, log: Log) {
    let mut reader = BufReader::with_capacity(LINE_LIMIT, stderr);
    let mut state = Reader::default();
    let mut is_continued = false;
    loop {
        let (piece, used, is_complete) = match reader.fill_buf().await {
            Ok([]) | Err(_) => return,
            Ok(bytes) => next_piece(bytes),
        };
        let is_whole = is_complete && !is_continued;
        if !is_complete && piece.len() < LINE_LIMIT && !is_continued {
            // The rest of the line has not arrived yet.
            let Some((line, ended)) = rest_of_line(&mut reader, piece, used).await else { return };
            state.write(&log, &line, ended);
            is_continued = !ended;
            continue;
        }
        reader.consume(used);
        state.write(&log, &piece, is_whole);
        is_continued = !is_complete;
    }
}

fn next_piece(bytes: &[u8]) -> (Vec<u8>, usize, bool) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (bytes.iter().take(end).copied().collect(), end + 1, true),
        None => (bytes.to_vec(), bytes.len(), false),
    }
}

/// Collects up to the limit; the flag says whether the line ended.
async fn rest_of_line<R: AsyncRead + Unpin>(
    reader: &mut BufReader<R>,
    mut line: Vec<u8>,
    used: usize,
) -> Option<(Vec<u8>, bool)> {
    reader.consume(used);
    loop {
        let bytes = reader.fill_buf().await.ok()?;
        if bytes.is_empty() {
            return (!line.is_empty()).then_some((line, true));
        }
        let (piece, used, is_complete) = next_piece(bytes);
        line.extend_from_slice(&piece);
        reader.consume(used);
        if is_complete || line.len() >= LINE_LIMIT {
            return Some((line, is_complete));
        }
    }
}

/// Remembers whether the plugin panicked: from then on every bare line is an error.
#[derive(Debug, Default)]
struct Reader {
    panicked: bool,
}

impl Reader {
    fn write(&mut self, log: &Log, line: &[u8], is_whole: bool) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        if !is_whole {
            return log.debug(text);
        }
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(entry)) => write_entry(log, text, entry),
            _ => self.write_bare(log, text),
        }
    }

    fn write_bare(&mut self, log: &Log, text: &str) {
        if text.starts_with("panic: ") || text.starts_with("fatal error: ") {
            self.panicked = true;
        }
        let level = match text.split_once(']').map(|(prefix, _)| prefix) {
            Some("[TRACE") => return,
            Some("[DEBUG") => Level::Debug,
            Some("[INFO") => Level::Info,
            Some("[WARN") => Level::Warning,
            Some("[ERROR") => Level::Error,
            _ if self.panicked => Level::Error,
            _ => Level::Debug,
        };
        log.line(level, text);
    }
}

fn write_entry(log: &Log, text: &str, mut entry: Map<String, Value>) {
    let reserved = ["@message", "@level", "@timestamp"];
    let [message, level, timestamp] = reserved.map(|name| entry.remove(name));
    for (name, value) in reserved.iter().zip([&message, &level, &timestamp]) {
        if value.as_ref().is_some_and(|value| !value.is_string()) {
            let log = log.with("field", name);
            log.error("Plugin writes a reserved log field that is no string, which crashes SPIRE Server");
            return log.debug(text);
        }
    }
    let words = [&message, &level, &timestamp].map(|value| value.as_ref().and_then(Value::as_str));
    let [message, level, timestamp] = words;
    let level = match level.map(str::to_ascii_lowercase).as_deref() {
        Some("trace") => return,
        Some("debug") => Level::Debug,
        Some("info") => Level::Info,
        Some("warn") => Level::Warning,
        Some("error") => Level::Error,
        _ => return log.debug(text),
    };
    let timestamp = match timestamp {
        None => "0001-01-01T00:00:00.000Z".to_owned(),
        Some(given) => match in_milliseconds(given) {
            Some(shown) => shown,
            None => return log.debug(text),
        },
    };
    let mut log = log.with("timestamp", timestamp);
    for (name, value) in &entry {
        log = log.with(name, as_go_prints(value));
    }
    log.line(level, message.unwrap_or_default());
}

/// Only `YYYY-MM-DDThh:mm:ss.ffffff` and `Z` or `+hh:mm` will do; three digits of the fraction are shown.
fn in_milliseconds(given: &str) -> Option<String> {
    let shape = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                b'+' => byte == b'+' || byte == b'-',
                other => byte == other,
            })
    };
    let (time, zone) = given.split_at_checked(26)?;
    let is_good = shape(time, "0000-00-00T00:00:00.000000") && (zone == "Z" || shape(zone, "+00:00"));
    is_good.then(|| format!("{}{zone}", time.get(..23).unwrap_or(time)))
}

fn as_go_prints(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), go_float),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(as_go_prints).collect::<Vec<_>>().join(" "))
        }
        Value::Object(members) => {
            let members: Vec<_> =
                members.iter().map(|(name, value)| format!("{name}:{}", as_go_prints(value))).collect();
            format!("map[{}]", members.join(" "))
        }
    }
}

/// Go's shortest form: with an exponent from a million up, and below a ten-thousandth.
fn go_float(number: f64) -> String {
    let text = format!("{number:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::log::testing::Lines;

    async fn logged(stderr: &str) -> String {
        let lines = Lines::default();
        pump(stderr.as_bytes(), lines.log()).await;
        lines
            .text()
            .lines()
            .map(|line| line.split_once(' ').map_or("", |(_, rest)| rest))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[tokio::test]
    async fn a_reserved_field_that_is_no_string_is_called_out() {
        let text = logged("{\"@level\":\"info\",\"@message\":7}\n").await;
        assert!(text.contains("level=error") && text.contains("crashes SPIRE Server"), "{text}");
    }

    #[tokio::test]
    async fn a_timestamp_of_another_form_or_level_hides_the_line_at_debug() {
        for bad in ["2026-11-24T10:00:00.123Z", "2026-11-24T10:00:00Z", "2026-11-24T10:00:00.123456+0000"] {
            let line = format!("{{\"@level\":\"info\",\"@message\":\"m\",\"@timestamp\":\"{bad}\"}}\n");
            assert!(logged(&line).await.starts_with("level=debug msg=\"{"), "{bad}");
        }
        assert!(logged("{\"@level\":\"fatal\",\"@message\":\"m\"}\n").await.starts_with("level=debug"));
    }

    #[tokio::test]
    async fn a_good_line_comes_out_with_level_message_and_fields() {
        let line = "{\"@level\":\"warn\",\"@message\":\"bundle stale\",\"@module\":\"link\",\
                    \"@timestamp\":\"2026-11-24T10:00:00.123456Z\",\"at\":1755890917,\"held\":\"7\"}\n";
        let expected = "level=warning msg=\"bundle stale\" @module=link at=1.755890917e+09 held=7 \
                        timestamp=\"2026-11-24T10:00:00.123Z\"";
        assert_eq!(logged(line).await, expected);
    }

    #[tokio::test]
    async fn bare_lines_go_by_their_prefix_and_a_panic_turns_the_rest_into_errors() {
        let text = logged("plain\n[WARN] careful\npanic: oh\nat line 1\n[INFO] still\n").await;
        let levels: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(levels, ["level=debug", "level=warning", "level=error", "level=error", "level=info"]);
    }

    #[tokio::test]
    async fn a_line_over_64_kib_comes_in_raw_pieces() {
        let long = format!("{{\"@level\":\"info\",\"@message\":\"{}\"}}\n[INFO] next\n", "x".repeat(70_000));
        let text = logged(&long).await;
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{}", lines.len());
        assert!(lines.iter().take(2).all(|line| line.starts_with("level=debug")));
        assert!(lines.last().is_some_and(|line| line.starts_with("level=info")));
    }

    #[test]
    fn numbers_print_as_in_go() {
        let printed = [0.0, 1.5, 100_000.0, 1_000_000.0, -2.5e-7].map(go_float);
        assert_eq!(printed, ["0", "1.5", "100000", "1e+06", "-2.5e-07"]);
    }
}
