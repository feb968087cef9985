//! Parses the start time of sessions.

use agentgov_schemas::Micros;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A text that is not a valid time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "start time: expected a time as in RFC 3339, e.g. 2024-05-15T15:00:00 (UTC) or 2024-05-15T15:00:00-05:00, found `{0}`"
)]
pub struct InvalidStartTime(pub String);

/// Parses a time of RFC 3339. A time without a zone is UTC; a date without a time of day is midnight.
pub fn parse_start_time(text: &str) -> Result<Micros, InvalidStartTime> {
    let invalid = || InvalidStartTime(text.to_owned());
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(Micros(timestamp.as_microsecond()));
    }
    // A civil time ignores the name of a zone in brackets (RFC 9557), and would be UTC.
    if text.contains('[') {
        return Err(invalid());
    }
    let civil: DateTime = text.parse().map_err(|_| invalid())?;
    let zoned = civil.to_zoned(TimeZone::UTC).map_err(|_| invalid())?;
    Ok(Micros(zoned.timestamp().as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_read_in_its_time_zone() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01T00:00:00", Some(0)),
            ("1970-01-01 00:01:00", Some(60)),
            ("1970-01-01T00:00:00+01:00", Some(-3600)),
            ("1970-01-02", Some(86_400)),
            ("2024-05-15T15:00:00-05:00", Some(1_715_803_200)),
            ("1900-01-01T00:00:00Z", Some(-2_208_988_800)),
            ("2200-01-01T00:00:00Z", Some(7_258_118_400)),
            ("15:00", None),
            ("yesterday", None),
            ("2024-02-30T00:00:00", None),
            // A zone other than UTC must not be read as UTC.
            ("2024-05-15T15:00:00 EST", None),
            ("2024-05-15T15:00:00[America/New_York]", None),
            ("", None),
        ] {
            assert_eq!(parse_start_time(text).ok(), seconds.map(|s| Micros(s * 1_000_000)), "{text:?}");
        }
    }
}
