//! Parses the start time of sessions.

use agentgov_schemas::Micros;
use jiff::Timestamp;
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;

/// A text that is not a valid time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStartTime {
    /// The text is no time.
    #[error(
        "start time: expected a time as in RFC 3339, e.g. 2024-05-15T15:00:00 (UTC) or 2024-05-15T15:00:00-05:00, found `{0}`"
    )]
    Syntax(String),
    /// The time is too far from the present.
    #[error("start time: expected a time between {min} and {max}, found `{0}`", min = MIN_START_TIME, max = MAX_START_TIME)]
    OutOfRange(String),
}

/// Latest start time. The library knows no day after it in each zone.
const MAX_START_TIME: Timestamp = Timestamp::constant(253_402_127_999, 0);
/// Earliest start time.
const MIN_START_TIME: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// Parses a time of RFC 3339. A time without a zone is UTC; a date without a time of day is midnight.
pub fn parse_start_time(text: &str) -> Result<Micros, InvalidStartTime> {
    let out_of_range = || InvalidStartTime::OutOfRange(text.to_owned());
    let timestamp = match text.parse::<Timestamp>() {
        Ok(timestamp) => timestamp,
        Err(_) => {
            // A civil time ignores the name of a zone in brackets (RFC 9557), and would be UTC.
            let pieces = Pieces::parse(text).ok().filter(|_| !text.contains('['));
            let pieces = pieces.ok_or_else(|| InvalidStartTime::Syntax(text.to_owned()))?;
            // The offset moves the time beyond the calendar.
            if pieces.offset().is_some() {
                return Err(out_of_range());
            }
            let civil = pieces.date().to_datetime(pieces.time().unwrap_or_default());
            civil.to_zoned(TimeZone::UTC).map_err(|_| out_of_range())?.timestamp()
        }
    };
    if timestamp < MIN_START_TIME || timestamp > MAX_START_TIME {
        return Err(out_of_range());
    }
    Ok(Micros(timestamp.as_microsecond()))
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

    #[test]
    fn time_beyond_the_calendar_is_named_as_such() {
        for text in [
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59",
            "9999-12-31",
            "9999-12-31T23:59:59-05:00",
            "-000001-01-01T00:00:00Z",
        ] {
            assert_eq!(
                parse_start_time(text).unwrap_err().to_string(),
                format!(
                    "start time: expected a time between 0001-01-01T00:00:00Z and 9999-12-29T23:59:59Z, found `{text}`"
                )
            );
        }
        for text in ["9999-12-29T23:59:59Z", "0001-01-01"] {
            assert!(parse_start_time(text).is_ok(), "{text}");
        }
    }
}
