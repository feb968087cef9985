//! Tests that each method returns the error.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for product code")]

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

#[derive(Debug, PartialEq)]
struct Unsupported(String);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}

impl serde::ser::Error for Unsupported {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Supports nothing.
#[derive(Clone, Copy)]
struct Nothing;

impl Serializer for Nothing {
    type Ok = ();
    type Error = Unsupported;

    serde_serializer_quick_unsupported::serializer_unsupported! {
        err = (Unsupported("no value".to_owned()));
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes none some unit unit_struct unit_variant
        newtype_struct newtype_variant seq tuple tuple_struct tuple_variant map struct struct_variant
    }
}

/// Supports texts only.
struct OnlyText;

impl Serializer for OnlyText {
    type Ok = String;
    type Error = Unsupported;

    fn serialize_str(self, text: &str) -> Result<String, Unsupported> {
        Ok(text.to_owned())
    }

    serde_serializer_quick_unsupported::serializer_unsupported! {
        err = (Unsupported("expected a text".to_owned()));
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes none some unit unit_struct unit_variant
        newtype_struct newtype_variant seq tuple tuple_struct tuple_variant map struct struct_variant
    }
}

#[derive(Serialize)]
struct Unit;
#[derive(Serialize)]
struct Newtype(u8);
#[derive(Serialize)]
struct Pair(u8, u8);
#[derive(Serialize)]
struct Named {
    field: u8,
}
#[derive(Serialize)]
enum Variant {
    Unit,
    Newtype(u8),
    Pair(u8, u8),
    Named { field: u8 },
}

fn error(value: &(impl Serialize + ?Sized)) -> Unsupported {
    let of_text = value.serialize(OnlyText).unwrap_err();
    assert_eq!(of_text, Unsupported("expected a text".to_owned()));
    value.serialize(Nothing).unwrap_err()
}

#[test]
fn unsupported_value_is_an_error() {
    let errors = [
        error(&true),
        error(&1_i8),
        error(&1_i16),
        error(&1_i32),
        error(&1_i64),
        error(&1_i128),
        error(&1_u8),
        error(&1_u16),
        error(&1_u32),
        error(&1_u64),
        error(&1_u128),
        error(&1_f32),
        error(&1_f64),
        error(&'c'),
        Nothing.serialize_bytes(b"b").unwrap_err(),
        error(&None::<u8>),
        error(&Some(1)),
        error(&()),
        error(&Unit),
        error(&Newtype(1)),
        error(&[1].as_slice()),
        error(&(1, 2)),
        error(&Pair(1, 2)),
        error(&BTreeMap::from([(1, 2)])),
        error(&Named { field: 1 }),
        error(&Variant::Unit),
        error(&Variant::Newtype(1)),
        error(&Variant::Pair(1, 2)),
        error(&Variant::Named { field: 1 }),
        "text".serialize(Nothing).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error, Unsupported("no value".to_owned()));
    }
}

#[test]
fn supported_value_is_serialized() {
    assert_eq!("text".serialize(OnlyText).unwrap(), "text");
}
