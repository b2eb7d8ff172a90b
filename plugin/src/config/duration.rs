//! Durations as Go writes them: `5m`, `1h30m`, `1.5h`.

use std::time::Duration;

/// Reads a positive duration; `None` where Go would refuse it, or where it is beyond reason.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|next: char| !next.is_ascii_digit() && next != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_length =
            after.find(|next: char| next.is_ascii_digit() || next == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        total = total.checked_add(part(number, nanoseconds(unit)?)?)?;
        rest = after;
    }
    Some(total)
}

fn nanoseconds(unit: &str) -> Option<u64> {
    Some(match unit {
        "h" => 3_600_000_000_000,
        "m" => 60_000_000_000,
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        "us" | "µs" | "μs" => 1_000,
        "ns" => 1,
        _ => return None,
    })
}

/// Whole and fraction are counted apart, so that no digit is lost.
fn part(number: &str, unit: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.chars() {
        scale /= 10;
        nanos = nanos.checked_add(scale.checked_mul(u64::from(digit.to_digit(10)?))?)?;
    }
    Some(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_refuses_is_refused() {
        for text in ["", "5", "m", "5 m", "-5m", "5d", "1.2.3s", ".s", "9999999999999h", "5m3", "٣m"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_go_takes_is_taken() {
        for (text, seconds) in
            [("5m", 300.0), ("1h30m", 5400.0), ("1.5h", 5400.0), ("90s", 90.0), ("1500ms", 1.5), (".5s", 0.5)]
        {
            assert_eq!(parse(text), Some(Duration::from_secs_f64(seconds)), "{text:?}");
        }
    }
}
