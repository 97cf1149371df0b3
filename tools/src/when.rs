//! Where to begin reading: `start`, `end`, `N`, `-N`, `@TIME`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first record that is still there.
    Start,
    /// After the last record.
    End,
    /// This offset.
    At(i64),
    /// This many before the end.
    Last(i64),
    /// The first record not older than this, in milliseconds since the epoch.
    Time(i64),
}

impl OffsetSpec {
    /// Parses an offset as the command line has it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parse_at(text, now_ms())
    }

    fn parse_at(text: &str, now_ms: i64) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not start, end, N, -N or @TIME");
        match text {
            "start" | "beginning" | "earliest" => Ok(OffsetSpec::Start),
            "end" | "latest" => Ok(OffsetSpec::End),
            _ => match (text.strip_prefix('@'), text.strip_prefix('-')) {
                (Some(time), _) => parse_time(time, now_ms).map(OffsetSpec::Time),
                (None, Some(count)) => parse_count(count).map(OffsetSpec::Last).ok_or_else(wrong),
                (None, None) => parse_count(text).map(OffsetSpec::At).ok_or_else(wrong),
            },
        }
    }
}

/// Parses a point in time: `@TIME`, where the `@` may be left out.
pub fn parse_instant(text: &str) -> Result<i64, String> {
    parse_time(text.strip_prefix('@').unwrap_or(text), now_ms())
}

/// Milliseconds since the epoch, now.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time as RFC 3339 in UTC, with milliseconds; the bare number when it is no date.
pub fn format_time(timestamp_ms: i64) -> String {
    match u64::try_from(timestamp_ms)
        .ok()
        .filter(|ms| *ms < 253_402_300_800_000)
    {
        Some(ms) => humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string(),
        None => timestamp_ms.to_string(),
    }
}

/// Parses a duration: `30s`, `1m 30s`, `500ms`, or a bare number of seconds.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    parsed
        .filter(|d| *d >= Duration::from_millis(1) && *d <= Duration::from_secs(3600))
        .ok_or_else(|| format!("`{text}` is not a time from 1ms to 1h, such as 500ms, 10s or 2m"))
}

/// `TIME`: epoch milliseconds, RFC 3339 (with `Z` or an offset), or a span back from now (`-15m`).
fn parse_time(text: &str, now_ms: i64) -> Result<i64, String> {
    let wrong = || {
        format!(
            "`@{text}` is not a time: write epoch milliseconds, 2026-01-31T12:00:00Z, or a span such as @-15m"
        )
    };
    if let Some(count) = parse_count(text) {
        return Ok(count);
    }
    if let Some(span) = text.strip_prefix('-') {
        let span = humantime::parse_duration(span).map_err(|_| wrong())?;
        let span_ms = i64::try_from(span.as_millis()).map_err(|_| wrong())?;
        return Ok(now_ms.saturating_sub(span_ms).max(0));
    }
    let (clock, offset_ms) = split_utc_offset(text).ok_or_else(wrong)?;
    let time = humantime::parse_rfc3339_weak(&clock).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    let clock_ms = i64::try_from(since.as_millis()).map_err(|_| wrong())?;
    Ok(clock_ms.saturating_sub(offset_ms).max(0))
}

/// Splits `...+02:00` into the clock time and the offset; without an offset it is UTC.
fn split_utc_offset(text: &str) -> Option<(String, i64)> {
    let at = text
        .char_indices()
        .skip(11)
        .find(|(_, c)| matches!(c, '+' | '-'))
        .map(|(at, _)| at);
    let Some(at) = at else {
        return Some((text.to_owned(), 0));
    };
    let (clock, offset) = text.split_at_checked(at)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let (hours, minutes) = (hours.parse::<i64>().ok()?, minutes.parse::<i64>().ok()?);
    if !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
        return None;
    }
    let magnitude = (hours * 60 + minutes) * 60_000;
    Some((
        format!("{clock}Z"),
        if offset.starts_with('-') {
            -magnitude
        } else {
            magnitude
        },
    ))
}

fn parse_count(text: &str) -> Option<i64> {
    text.parse::<i64>()
        .ok()
        .filter(|n| *n >= 0 && text.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn every_form_of_an_offset_is_read() {
        let cases = [
            ("start", OffsetSpec::Start),
            ("end", OffsetSpec::End),
            ("0", OffsetSpec::At(0)),
            ("42", OffsetSpec::At(42)),
            ("-10", OffsetSpec::Last(10)),
            ("@1700000000123", OffsetSpec::Time(1_700_000_000_123)),
            ("@-15m", OffsetSpec::Time(NOW - 900_000)),
            ("@-1h 30m", OffsetSpec::Time(NOW - 5_400_000)),
            ("@1970-01-01T00:00:01Z", OffsetSpec::Time(1_000)),
            ("@1970-01-01T02:00:01+02:00", OffsetSpec::Time(1_000)),
            ("@1970-01-01T00:00:00.250-00:01", OffsetSpec::Time(60_250)),
        ];
        for (text, expected) in cases {
            assert_eq!(OffsetSpec::parse_at(text, NOW), Ok(expected), "{text}");
        }
    }

    #[test]
    fn wrong_offsets_say_what_would_be_right() {
        for text in ["", "begin", "+5", "--5", "1.5", "-", "99999999999999999999"] {
            let error = OffsetSpec::parse_at(text, NOW).expect_err(text);
            assert!(error.contains("@TIME"), "{error}");
        }
        for text in [
            "@",
            "@yesterday",
            "@-",
            "@2026-13-01T00:00:00Z",
            "@2026-01-01T00:00:00+2",
            "@-5 parsecs",
        ] {
            let error = OffsetSpec::parse_at(text, NOW).expect_err(text);
            assert!(error.contains("epoch milliseconds"), "{error}");
        }
    }

    #[test]
    fn timeouts_take_units_or_seconds() {
        assert_eq!(parse_timeout("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_timeout("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "-1", "2h", "soon", "nan"] {
            assert!(parse_timeout(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_printed_in_utc() {
        assert_eq!(format_time(1_000), "1970-01-01T00:00:01.000Z");
        assert_eq!(format_time(-1), "-1");
    }
}
