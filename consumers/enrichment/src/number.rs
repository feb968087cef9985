//! Comparison of numbers by their decimal values, independent of their CEL types.
//!
//! A CEL int or uint is exact. A CEL double has the value of its shortest decimal: `0.1` is one tenth. A number that none of them
//! holds without loss (`1e400`, integers beyond 64 bits, more digits than a double) is a [`Decimal`], which supports comparison
//! but no arithmetic.

use std::any::Any;
use std::cmp::Ordering;

use cel::ExecutionError;
use cel::common::traits::{Comparer, Negator};
use cel::common::types::{CelDouble, CelInt, CelUInt, DOUBLE_TYPE, Type};
use cel::common::value::{StaticVal, Val};

/// Maximum number of digits, which bounds the cost of a comparison.
pub(crate) const MAX_DIGITS: usize = 1_000;
/// Decimals with up to this many digits, within the range of normal doubles, map to distinct doubles.
const MAX_EXACT_DIGITS: usize = 15;
/// 2^53: integers up to this one map to distinct doubles.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_992.0;
/// Exponent of infinity. No finite number has it.
const INFINITE_EXPONENT: i64 = i64::MAX;

/// Decimal number: `0.DIGITS × 10^exponent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    exponent: i64,
    /// ASCII digits without leading and trailing zeros. Empty for zero.
    digits: Box<[u8]>,
}

impl Decimal {
    /// Parses a JSON number. Returns `None` if it has more than [`MAX_DIGITS`] digits.
    pub(crate) fn parse(token: &str) -> Option<Self> {
        let (negative, token) = token.strip_prefix('-').map_or((false, token), |rest| (true, rest));
        let (mantissa, written) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = [whole.as_bytes(), fraction.as_bytes()].concat();
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        let end = digits.iter().rposition(|digit| *digit != b'0').map_or(zeros, |last| last + 1);
        let digits = digits.get(zeros..end)?;
        if digits.is_empty() {
            return Some(Self { negative: false, exponent: 0, digits: Box::default() });
        }
        if digits.len() > MAX_DIGITS {
            return None;
        }
        let point = i64::try_from(whole.len()).ok()?.saturating_sub(i64::try_from(zeros).ok()?);
        // An exponent that exceeds 64 bits is clamped.
        let far = if written.starts_with('-') { i64::MIN } else { INFINITE_EXPONENT };
        let exponent = written.parse::<i64>().unwrap_or(far).saturating_add(point).min(INFINITE_EXPONENT - 1);
        Some(Self { negative, exponent, digits: digits.into() })
    }

    /// Returns `None` for NaN.
    fn from_f64(double: f64) -> Option<Self> {
        if double.is_infinite() {
            return Some(Self {
                negative: double < 0.0,
                exponent: INFINITE_EXPONENT,
                digits: b"1".as_slice().into(),
            });
        }
        // `{:e}` prints the shortest digits that identify the double.
        if double.is_nan() { None } else { Self::parse(&format!("{double:e}")) }
    }

    /// Returns the value as an integer if it is one that fits 64 bits.
    fn to_i64(&self) -> Option<i64> {
        let width = usize::try_from(self.exponent).ok().filter(|width| *width <= 19);
        if self.digits.is_empty() {
            return Some(0);
        }
        let width = width.filter(|width| *width >= self.digits.len())?;
        let digits = std::str::from_utf8(&self.digits).ok()?;
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}{digits:0<width$}").parse().ok()
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |decimal: &Self| match (decimal.digits.is_empty(), decimal.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let magnitude = || {
            self.exponent.cmp(&other.exponent).then_with(|| self.digits.as_ref().cmp(other.digits.as_ref()))
        };
        sign(self).cmp(&sign(other)).then_with(|| match sign(self) {
            0 => Ordering::Equal,
            1 => magnitude(),
            _ => magnitude().reverse(),
        })
    }
}

/// Parses a JSON number to an int, uint or double if that is lossless, else to a [`Decimal`]. Returns `None` if it has too many
/// digits.
pub(crate) fn parse(token: &str) -> Option<Box<dyn Val>> {
    if !token.contains(['.', 'e', 'E']) {
        if let Ok(int) = token.parse::<i64>() {
            return Some(Box::new(CelInt::from(int)));
        }
        if let Ok(uint) = token.parse::<u64>() {
            return Some(Box::new(CelUInt::from(uint)));
        }
        return Decimal::parse(token).map(|decimal| Box::new(decimal) as Box<dyn Val>);
    }
    let double = token.parse::<f64>().ok()?;
    let mantissa = token.split(['e', 'E']).next()?;
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    if double.is_normal() && digits <= MAX_EXACT_DIGITS {
        return Some(Box::new(CelDouble::from(double)));
    }
    let decimal = Decimal::parse(token)?;
    if Decimal::from_f64(double).as_ref() == Some(&decimal) {
        return Some(Box::new(CelDouble::from(double)));
    }
    Some(Box::new(decimal))
}

/// Numeric CEL value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number<'n> {
    Int(i64),
    UInt(u64),
    Double(f64),
    Decimal(&'n Decimal),
}

impl<'n> Number<'n> {
    pub(crate) fn from_val(value: &'n (dyn Val + '_)) -> Option<Self> {
        if let Some(int) = value.downcast_ref::<CelInt>() {
            return Some(Self::Int(*int.inner()));
        }
        if let Some(double) = value.downcast_ref::<CelDouble>() {
            return Some(Self::Double(*double.inner()));
        }
        if let Some(uint) = value.downcast_ref::<CelUInt>() {
            return Some(Self::UInt(*uint.inner()));
        }
        value.downcast_ref::<Decimal>().map(Self::Decimal)
    }

    /// Compares two numbers. Returns `None` if one is NaN.
    pub(crate) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::UInt(a), Self::UInt(b)) => Some(a.cmp(&b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::UInt(b)) => Some(i128::from(a).cmp(&i128::from(b))),
            (Self::UInt(a), Self::Int(b)) => Some(i128::from(a).cmp(&i128::from(b))),
            (Self::Int(a), Self::Double(b)) => match to_exact_double(a, b) {
                Some(a) => a.partial_cmp(&b),
                None => self.compare_decimals(other),
            },
            (Self::Double(_), Self::Int(_)) => other.compare(self).map(Ordering::reverse),
            _ => self.compare_decimals(other),
        }
    }

    fn compare_decimals(self, other: Self) -> Option<Ordering> {
        Some(self.decimal()?.cmp(&other.decimal()?))
    }

    fn decimal(self) -> Option<Decimal> {
        match self {
            Self::Int(int) => Decimal::parse(&int.to_string()),
            Self::UInt(uint) => Decimal::parse(&uint.to_string()),
            Self::Double(double) => Decimal::from_f64(double),
            Self::Decimal(decimal) => Some(decimal.clone()),
        }
    }

    /// Returns the value as an integer if it is one that fits 64 bits.
    pub(crate) fn to_i64(self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(int),
            Self::UInt(uint) => i64::try_from(uint).ok(),
            Self::Double(double) if double.abs() <= MAX_EXACT_INTEGER => {
                // Lossless: an integer in the exact range.
                #[expect(clippy::cast_possible_truncation)]
                (double.fract() == 0.0).then_some(double as i64)
            }
            Self::Double(_) | Self::Decimal(_) => self.decimal()?.to_i64(),
        }
    }
}

/// Converts the int to a double if both numbers are in the range in which doubles hold integers exactly.
fn to_exact_double(int: i64, double: f64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "the range is checked in this line")]
    Some(int as f64).filter(|int| int.abs() < MAX_EXACT_INTEGER && double.abs() < MAX_EXACT_INTEGER)
}

impl Val for Decimal {
    /// Reports `double`, the type of numbers with a fraction or an exponent.
    fn get_type(&self) -> &Type {
        &DOUBLE_TYPE
    }

    fn cel_type() -> &'static Type {
        &DOUBLE_TYPE
    }

    fn as_comparer(&self) -> Option<&dyn Comparer> {
        Some(self)
    }

    fn as_negator<'b, 'v>(&'b self) -> Option<&'b (dyn Negator + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        self.compare(other).is_ok_and(Ordering::is_eq)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Decimal {}

impl Comparer for Decimal {
    fn compare(&self, other: &dyn Val) -> Result<Ordering, ExecutionError> {
        Number::from_val(other)
            .and_then(|other| Number::Decimal(self).compare(other))
            .ok_or_else(|| ExecutionError::function_error("number", "expected two numbers"))
    }
}

impl Negator for Decimal {
    fn negate<'v>(&self) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let negative = !self.negative && !self.digits.is_empty();
        Ok(Box::new(Self { negative, ..self.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compare(a: &str, b: &str) -> Option<Ordering> {
        let (a, b) = (parse(a).unwrap(), parse(b).unwrap());
        Number::from_val(a.as_ref()).unwrap().compare(Number::from_val(b.as_ref()).unwrap())
    }

    #[test]
    fn numbers_compare_by_their_decimals() {
        let ascending = [
            "-1e400",
            "-1e308",
            "-9223372036854775809",
            "-9223372036854775808",
            "-1.5",
            "-1e-400",
            "0",
            "1e-400",
            "0.1",
            "0.10000000000000000001",
            "0.30000000000000004",
            "100",
            "100.00000000000000000001",
            "9007199254740992.0",
            "9007199254740993",
            "9007199254740993.5",
            "9007199254740994.0",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "1e23",
            "1e308",
            "1e400",
            "1e401",
            "1e99999999999999999999",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), Some(i.cmp(&j)), "{a} and {b}");
            }
        }
        for (a, b) in [
            ("1", "1.0"),
            ("100", "1e2"),
            ("0", "-0.0"),
            ("9007199254740993", "9007199254740993.0"),
            ("0e999", "0"),
        ] {
            assert_eq!(compare(a, b), Some(Ordering::Equal), "{a} and {b}");
        }
        let infinite = Number::Double(f64::INFINITY);
        let far = Decimal::parse("1e99999999999999999999").unwrap();
        assert_eq!(Number::Decimal(&far).compare(infinite), Some(Ordering::Less));
        assert_eq!(Number::Int(1).compare(Number::Double(f64::NAN)), None);
        assert!(parse(&"9".repeat(MAX_DIGITS + 1)).is_none());
    }

    #[test]
    fn integer_is_a_long_in_any_notation() {
        for (token, whole) in [
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("1e18", Some(1_000_000_000_000_000_000)),
            ("-9223372036854775808.0", Some(i64::MIN)),
            ("9223372036854775808.0", None),
            ("1.5", None),
            ("1e-400", None),
            ("1e400", None),
            ("-0.0", Some(0)),
        ] {
            let value = parse(token).unwrap();
            assert_eq!(Number::from_val(value.as_ref()).unwrap().to_i64(), whole, "{token}");
        }
    }

    proptest! {
        /// A printed double parses to the same double; an integer written as a double equals the integer.
        #[test]
        fn doubles_and_integers_round_trip(double in any::<f64>().prop_filter("finite", |d| d.is_finite()), int in any::<i64>(), digits in 0..40_i32) {
            let value = parse(&format!("{double:e}")).unwrap();
            if double != 0.0 {
                prop_assert_eq!(value.downcast_ref::<CelDouble>().map(|d| *d.inner()), Some(double));
            }
            let near = int >> digits.min(62);
            let (value, plain) = (parse(&format!("{near}.0")).unwrap(), parse(&near.to_string()).unwrap());
            let (value, plain) = (Number::from_val(value.as_ref()).unwrap(), Number::from_val(plain.as_ref()).unwrap());
            prop_assert_eq!(value.compare(plain), Some(Ordering::Equal));
            prop_assert_eq!(value.to_i64(), Some(near));
        }
    }
}
