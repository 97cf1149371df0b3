//! Sizes, spans and booleans as people write them. Pure; any thread.

/// Parses `1024`, `1K`, `64MiB`, `2GiB`, `1.5GiB`; K, M, G, T are powers of 1,024 with or without `iB`/`B`.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write a number of bytes or 64KiB, 512MiB, 2GiB");
    let text_trimmed = text.trim();
    let (number, unit) = split_number(text_trimmed).ok_or_else(wrong)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    scale(number, 1_u64 << shift).ok_or_else(wrong)
}

/// Writes bytes the way [`parse_size`] reads them back: the largest unit that divides evenly.
pub fn format_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Parses a span into `unit_us` (1 for microseconds, 1,000 for milliseconds): a bare number is in that
/// unit; `us`, `ms`, `s`, `m`, `h`, `d` are understood.
///
/// # Errors
/// A sentence that says what is wrong with the text; also when the span is finer than the unit.
pub fn parse_duration(text: &str, unit_us: u64) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a span of time; write 500ms, 30s, 10m, 12h or 7d");
    let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
    let factor_us = match unit {
        "" => return scale(number, 1).ok_or_else(wrong),
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" | "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return Err(wrong()),
    };
    let us = scale(number, factor_us).ok_or_else(wrong)?;
    if !us.is_multiple_of(unit_us) {
        return Err(format!("{text:?} is finer than this setting's unit"));
    }
    Ok(us / unit_us)
}

/// Parses `true`/`false`, `on`/`off`, `yes`/`no`.
///
/// # Errors
/// A sentence that says what is wrong with the text.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" => Ok(true),
        "false" | "off" | "no" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    (!number.is_empty()).then_some((number, unit.trim_start()))
}

/// `number` (with at most one fraction of up to six digits) times `factor`, exact or `None`.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    let whole: u64 = whole.parse().ok()?;
    let base = whole.checked_mul(factor)?;
    if fraction.is_empty() {
        return (!number.ends_with('.')).then_some(base);
    }
    let digits = u32::try_from(fraction.len()).ok().filter(|d| *d <= 6)?;
    let part: u64 = fraction.parse().ok()?;
    let product = u128::from(part) * u128::from(factor);
    let divisor = 10_u128.pow(digits);
    if !product.is_multiple_of(divisor) {
        return None;
    }
    base.checked_add(u64::try_from(product / divisor).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1048588", 1_048_588),
            ("1K", 1_024),
            ("64MiB", 64 << 20),
            ("2GiB", 2 << 30),
            ("1.5GiB", 3 << 29),
            ("10 mb", 10 << 20),
            ("1_000", 1_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1X", "1.", "1.3", "99999999999T", "1.2.3", "1e3"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_as_they_are_read() {
        for bytes in [0, 1, 1_000, 1_024, 55 << 20, 1 << 30, (1 << 20) + 12, 3 << 40] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        assert_eq!(format_size(55 << 20), "55MiB");
    }

    #[test]
    fn spans() {
        assert_eq!(parse_duration("250", 1_000), Ok(250));
        assert_eq!(parse_duration("1.5s", 1_000), Ok(1_500));
        assert_eq!(parse_duration("7d", 1_000), Ok(604_800_000));
        assert_eq!(parse_duration("2ms", 1), Ok(2_000));
        assert!(parse_duration("5us", 1_000).is_err());
        assert!(parse_duration("fast", 1).is_err());
        assert!(parse_duration("1w", 1).is_err());
    }

    #[test]
    fn booleans() {
        assert_eq!((parse_bool("on"), parse_bool("False")), (Ok(true), Ok(false)));
        assert!(parse_bool("1").is_err());
    }
}
