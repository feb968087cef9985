//! Numbers compare by the decimals that they are written as, whatever their CEL type.
//!
//! A CEL int or uint is exact. A CEL double stands for its shortest decimal: `0.1` is a tenth. A number that none of them
//! holds without loss (`1e400`, integers beyond 64 bits, more digits than a double has) is a [`Decimal`], which supports
//! comparison and no arithmetic.

use std::any::Any;
use std::cmp::Ordering;

use cel::ExecutionError;
use cel::common::traits::{Comparer, Negator};
use cel::common::types::{CelDouble, CelInt, CelUInt, DOUBLE_TYPE, Type};
use cel::common::value::{StaticVal, Val};

/// Most digits of a number: what a comparison costs depends on it.
pub(crate) const MAX_DIGITS: usize = 1_000;
/// Every decimal of that many digits is a double of its own, within the range of normal doubles.
const DIGITS_OF_A_DOUBLE: usize = 15;
/// 2^53: up to here every whole number is a double of its own.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// The exponent of the infinite. No finite number has it.
const INFINITE: i64 = i64::MAX;

/// A number by its decimal digits: `0.DIGITS × 10^exponent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    negative: bool,
    exponent: i64,
    /// In ASCII, without zeros at either end. None of zero.
    digits: Box<[u8]>,
}

impl Decimal {
    /// Of a number as JSON writes it. `None` if it has more digits than [`MAX_DIGITS`].
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
        // One that needs more than 64 bits is as far out as there is.
        let far = if written.starts_with('-') { i64::MIN } else { INFINITE };
        let exponent = written.parse::<i64>().unwrap_or(far).saturating_add(point).min(INFINITE - 1);
        Some(Self { negative, exponent, digits: digits.into() })
    }

    /// `None` of NaN.
    fn of_double(double: f64) -> Option<Self> {
        if double.is_infinite() {
            return Some(Self { negative: double < 0.0, exponent: INFINITE, digits: b"1".as_slice().into() });
        }
        // The shortest digits that are this double and no other.
        if double.is_nan() { None } else { Self::parse(&format!("{double:e}")) }
    }

    /// The whole number that it is, if 64 bits hold it.
    fn whole(&self) -> Option<i64> {
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

/// The value of a number as JSON writes it: an int, uint or double where that loses nothing. `None` if it is too long.
pub(crate) fn read(token: &str) -> Option<Box<dyn Val>> {
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
    if double.is_normal() && digits <= DIGITS_OF_A_DOUBLE {
        return Some(Box::new(CelDouble::from(double)));
    }
    let decimal = Decimal::parse(token)?;
    if Decimal::of_double(double).as_ref() == Some(&decimal) {
        return Some(Box::new(CelDouble::from(double)));
    }
    Some(Box::new(decimal))
}

/// A value that is a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number<'n> {
    Int(i64),
    UInt(u64),
    Double(f64),
    Decimal(&'n Decimal),
}

impl<'n> Number<'n> {
    pub(crate) fn of(value: &'n (dyn Val + '_)) -> Option<Self> {
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

    /// `None` if one is NaN.
    pub(crate) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::UInt(a), Self::UInt(b)) => Some(a.cmp(&b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::UInt(b)) => Some(i128::from(a).cmp(&i128::from(b))),
            (Self::UInt(a), Self::Int(b)) => Some(i128::from(a).cmp(&i128::from(b))),
            (Self::Int(a), Self::Double(b)) => match small(a, b) {
                Some(a) => a.partial_cmp(&b),
                None => self.exactly(other),
            },
            (Self::Double(_), Self::Int(_)) => other.compare(self).map(Ordering::reverse),
            _ => self.exactly(other),
        }
    }

    fn exactly(self, other: Self) -> Option<Ordering> {
        Some(self.decimal()?.cmp(&other.decimal()?))
    }

    fn decimal(self) -> Option<Decimal> {
        match self {
            Self::Int(int) => Decimal::parse(&int.to_string()),
            Self::UInt(uint) => Decimal::parse(&uint.to_string()),
            Self::Double(double) => Decimal::of_double(double),
            Self::Decimal(decimal) => Some(decimal.clone()),
        }
    }

    /// The whole number that it is, if 64 bits hold it.
    pub(crate) fn whole(self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(int),
            Self::UInt(uint) => i64::try_from(uint).ok(),
            Self::Double(double) if double.abs() <= EXACT => {
                // Lossless: whole and within the exact range.
                #[expect(clippy::cast_possible_truncation)]
                (double.fract() == 0.0).then_some(double as i64)
            }
            Self::Double(_) | Self::Decimal(_) => self.decimal()?.whole(),
        }
    }
}

/// The int as a double, if both are within the range in which doubles are exact.
fn small(int: i64, double: f64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "looked at right here")]
    Some(int as f64).filter(|int| int.abs() < EXACT && double.abs() < EXACT)
}

impl Val for Decimal {
    /// That of what JSON writes with a fraction or an exponent, and of integers beyond 64 bits.
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
        Number::of(other)
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
        let (a, b) = (read(a).unwrap(), read(b).unwrap());
        Number::of(a.as_ref()).unwrap().compare(Number::of(b.as_ref()).unwrap())
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
        assert!(read(&"9".repeat(MAX_DIGITS + 1)).is_none());
    }

    #[test]
    fn whole_number_is_a_long_in_any_notation() {
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
            let value = read(token).unwrap();
            assert_eq!(Number::of(value.as_ref()).unwrap().whole(), whole, "{token}");
        }
    }

    proptest! {
        /// Doubles that programs write come back as the same doubles, and integers compare with them as integers do.
        #[test]
        fn doubles_and_integers_round_trip(double in any::<f64>().prop_filter("finite", |d| d.is_finite()), int in any::<i64>(), digits in 0..40_i32) {
            let value = read(&format!("{double:e}")).unwrap();
            if double != 0.0 {
                prop_assert_eq!(value.downcast_ref::<CelDouble>().map(|d| *d.inner()), Some(double));
            }
            let near = int >> digits.min(62);
            let (value, plain) = (read(&format!("{near}.0")).unwrap(), read(&near.to_string()).unwrap());
            let (value, plain) = (Number::of(value.as_ref()).unwrap(), Number::of(plain.as_ref()).unwrap());
            prop_assert_eq!(value.compare(plain), Some(Ordering::Equal));
            prop_assert_eq!(value.whole(), Some(near));
        }
    }
}
