//! Methods of a [`serde::Serializer`] that return an error.
//!
//! [`serde_avro_fast`] calls this macro by the name of a crate of the LGPL. Cargo.toml puts this crate in its place
//! (`[patch.crates-io]`). It is written from `serde_avro_fast`'s calls and from serde's trait alone.
//!
//! [`serde::Serializer`]: https://docs.rs/serde/1/serde/trait.Serializer.html
//! [`serde_avro_fast`]: https://docs.rs/serde_avro_fast/2

/// Implements each named method of `serde::Serializer`, `serialize_NAME`, by returning the error `err`. A name of a
/// compound (`seq`, `map`, …) defines its associated type, too.
#[macro_export]
macro_rules! serializer_unsupported {
    (err = ($err:expr); $($name:ident)*) => {
        $($crate::unsupported_method! { $name, $err })*
    };
}

/// Implements one method of `serde::Serializer`. Part of [`serializer_unsupported`].
#[doc(hidden)]
#[macro_export]
macro_rules! unsupported_method {
    (bool, $err:expr) => { $crate::unsupported_method! { @value serialize_bool(bool), $err } };
    (i8, $err:expr) => { $crate::unsupported_method! { @value serialize_i8(i8), $err } };
    (i16, $err:expr) => { $crate::unsupported_method! { @value serialize_i16(i16), $err } };
    (i32, $err:expr) => { $crate::unsupported_method! { @value serialize_i32(i32), $err } };
    (i64, $err:expr) => { $crate::unsupported_method! { @value serialize_i64(i64), $err } };
    (i128, $err:expr) => { $crate::unsupported_method! { @value serialize_i128(i128), $err } };
    (u8, $err:expr) => { $crate::unsupported_method! { @value serialize_u8(u8), $err } };
    (u16, $err:expr) => { $crate::unsupported_method! { @value serialize_u16(u16), $err } };
    (u32, $err:expr) => { $crate::unsupported_method! { @value serialize_u32(u32), $err } };
    (u64, $err:expr) => { $crate::unsupported_method! { @value serialize_u64(u64), $err } };
    (u128, $err:expr) => { $crate::unsupported_method! { @value serialize_u128(u128), $err } };
    (f32, $err:expr) => { $crate::unsupported_method! { @value serialize_f32(f32), $err } };
    (f64, $err:expr) => { $crate::unsupported_method! { @value serialize_f64(f64), $err } };
    (char, $err:expr) => { $crate::unsupported_method! { @value serialize_char(char), $err } };
    (str, $err:expr) => { $crate::unsupported_method! { @value serialize_str(&str), $err } };
    (bytes, $err:expr) => { $crate::unsupported_method! { @value serialize_bytes(&[u8]), $err } };
    (none, $err:expr) => { $crate::unsupported_method! { @value serialize_none(), $err } };
    (some, $err:expr) => { $crate::unsupported_method! { @generic serialize_some(), $err } };
    (unit, $err:expr) => { $crate::unsupported_method! { @value serialize_unit(), $err } };
    (unit_struct, $err:expr) => {
        $crate::unsupported_method! { @value serialize_unit_struct(&'static str), $err }
    };
    (unit_variant, $err:expr) => {
        $crate::unsupported_method! { @value serialize_unit_variant(&'static str, u32, &'static str), $err }
    };
    (newtype_struct, $err:expr) => {
        $crate::unsupported_method! { @generic serialize_newtype_struct(&'static str), $err }
    };
    (newtype_variant, $err:expr) => {
        $crate::unsupported_method! { @generic serialize_newtype_variant(&'static str, u32, &'static str), $err }
    };
    (seq, $err:expr) => {
        $crate::unsupported_method! { @compound SerializeSeq serialize_seq(Option<usize>), $err }
    };
    (tuple, $err:expr) => {
        $crate::unsupported_method! { @compound SerializeTuple serialize_tuple(usize), $err }
    };
    (tuple_struct, $err:expr) => {
        $crate::unsupported_method! {
            @compound SerializeTupleStruct serialize_tuple_struct(&'static str, usize), $err
        }
    };
    (tuple_variant, $err:expr) => {
        $crate::unsupported_method! {
            @compound SerializeTupleVariant
            serialize_tuple_variant(&'static str, u32, &'static str, usize), $err
        }
    };
    (map, $err:expr) => {
        $crate::unsupported_method! { @compound SerializeMap serialize_map(Option<usize>), $err }
    };
    (struct, $err:expr) => {
        $crate::unsupported_method! { @compound SerializeStruct serialize_struct(&'static str, usize), $err }
    };
    (struct_variant, $err:expr) => {
        $crate::unsupported_method! {
            @compound SerializeStructVariant
            serialize_struct_variant(&'static str, u32, &'static str, usize), $err
        }
    };
    (@value $method:ident($($argument:ty),*), $err:expr) => {
        fn $method(self, $(_: $argument),*) -> ::core::result::Result<Self::Ok, Self::Error> {
            ::core::result::Result::Err($err)
        }
    };
    // serde gives a value of any type as the last argument.
    (@generic $method:ident($($argument:ty),*), $err:expr) => {
        fn $method<T>(self, $(_: $argument,)* _: &T) -> ::core::result::Result<Self::Ok, Self::Error>
        where
            T: ?Sized + ::serde::Serialize,
        {
            ::core::result::Result::Err($err)
        }
    };
    (@compound $serializer:ident $method:ident($($argument:ty),*), $err:expr) => {
        type $serializer = ::serde::ser::Impossible<Self::Ok, Self::Error>;

        fn $method(self, $(_: $argument),*) -> ::core::result::Result<Self::$serializer, Self::Error> {
            ::core::result::Result::Err($err)
        }
    };
}
