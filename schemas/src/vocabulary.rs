//! Enums whose values are strings in records.
//!
//! In Avro such a field is a string, so an older reader accepts a name that only a newer writer knows. In Rust it is an
//! [`OpenEnum`]: a value of the enum, or the unchanged text. It encodes to the same bytes as it was decoded from, and
//! decoding allocates nothing.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Enum whose values are written as strings. See [`vocabulary!`](crate::vocabulary).
pub trait Vocabulary: Copy + Eq + 'static {
    /// Every value.
    const ALL: &'static [Self];

    /// Returns the name of the value in records.
    fn as_str(self) -> &'static str;

    /// Returns the value with this name; `None` for a name that this build does not have.
    fn by_name(name: &str) -> Option<Self>;

    /// Returns every name, in the order of the values.
    fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(|value| value.as_str()).collect()
    }
}

/// Field of a record that holds a name of a [`Vocabulary`], or a name that only another build knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpenEnum<'a, T> {
    /// Value that this build knows.
    Known(T),
    /// Any other text.
    Unknown(UnknownName<'a>),
}

/// Text that is not a name of the vocabulary. Only [`OpenEnum::from_name`] creates one, so it never holds a known name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnknownName<'a>(&'a str);

impl<'a, T: Vocabulary> OpenEnum<'a, T> {
    /// Creates the value from a record's text.
    pub fn from_name(text: &'a str) -> Self {
        T::by_name(text).map_or(Self::Unknown(UnknownName(text)), Self::Known)
    }

    /// Returns the value, if this build knows it.
    pub const fn known(self) -> Option<T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }

    /// Returns the text, as the record has it.
    pub fn as_str(self) -> &'a str {
        match self {
            Self::Known(value) => value.as_str(),
            Self::Unknown(UnknownName(text)) => text,
        }
    }
}

impl<T: Vocabulary> From<T> for OpenEnum<'_, T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: Vocabulary> PartialEq<T> for OpenEnum<'_, T> {
    fn eq(&self, value: &T) -> bool {
        matches!(self, Self::Known(known) if known == value)
    }
}

impl<T: Vocabulary> fmt::Display for OpenEnum<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<T: Vocabulary> Serialize for OpenEnum<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de: 'a, 'a, T: Vocabulary> Deserialize<'de> for OpenEnum<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a str>::deserialize(deserializer).map(Self::from_name)
    }
}

/// Declares the enum of a [`Vocabulary`]:
/// `vocabulary! { /// Its doc. Mode { /// Its doc. Enforce = "enforce", … } }`.
#[macro_export]
macro_rules! vocabulary {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type { $($(#[$variant_doc])* $variant),+ }

        impl $type {
            /// Returns the name of the value in records.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl $crate::vocabulary::Vocabulary for $type {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn as_str(self) -> &'static str {
                Self::as_str(self)
            }

            fn by_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alert::AlertDecision;
    use crate::governance::{AgentState, KeyKind, KeyState, ToolEffect};
    use crate::readiness::NotReadyReason;
    use crate::reject::RejectReason;
    use crate::verdict::{
        Decision, DecisionCause, DecisionFinding, ErrorCode, Mode, Reason, RecordFinding, RuleEffect,
        Severity,
    };
    use crate::wire::{Encoder, HEADER_LEN, Schema, SchemaId};

    /// Calls a generic function for each vocabulary.
    macro_rules! for_each_vocabulary {
        ($function:ident($($argument:expr),*)) => {{
            $function::<AgentState>($($argument),*);
            $function::<AlertDecision>($($argument),*);
            $function::<Decision>($($argument),*);
            $function::<DecisionCause>($($argument),*);
            $function::<DecisionFinding>($($argument),*);
            $function::<ErrorCode>($($argument),*);
            $function::<KeyKind>($($argument),*);
            $function::<KeyState>($($argument),*);
            $function::<Mode>($($argument),*);
            $function::<NotReadyReason>($($argument),*);
            $function::<Reason>($($argument),*);
            $function::<RecordFinding>($($argument),*);
            $function::<RejectReason>($($argument),*);
            $function::<RuleEffect>($($argument),*);
            $function::<Severity>($($argument),*);
            $function::<ToolEffect>($($argument),*);
        }};
    }

    /// Decodes the Avro string `text` as a name, encodes the result, and checks that the bytes are equal.
    fn round_trip<T: Vocabulary + fmt::Debug>(text: &str) -> Option<T> {
        let (id, schema) = (SchemaId(1), Schema::parse("\"string\"").unwrap());
        let written = Encoder::new(id, &schema).encode(&text).unwrap();
        let datum = &written[HEADER_LEN..];
        let name: OpenEnum<'_, T> = schema.decode(id, datum).unwrap();
        assert_eq!(name.as_str(), text);
        assert!(
            name.known().is_some()
                || datum.as_ptr_range().contains(&name.as_str().as_ptr())
                || text.is_empty()
        );
        assert_eq!(Encoder::new(id, &schema).encode(&name).unwrap(), written);
        assert_eq!(name, OpenEnum::from_name(text));
        name.known()
    }

    /// A lenient reader would accept these texts as the name, and encode other bytes than it decoded.
    fn similar_text_is_unknown<T: Vocabulary + fmt::Debug>() {
        for name in T::names() {
            let close = [
                name.to_uppercase(),
                format!("{name} "),
                format!(" {name}"),
                format!("{name}\0"),
                format!("{name}{name}"),
            ];
            for text in close {
                assert_eq!(round_trip::<T>(&text), None, "{text:?}");
            }
        }
    }

    fn every_name_is_exactly_one_value<T: Vocabulary + fmt::Debug>() {
        for (i, value) in T::ALL.iter().enumerate() {
            assert_eq!(round_trip::<T>(value.as_str()), Some(*value));
            assert_eq!(OpenEnum::from(*value), *value);
            let others = T::ALL.iter().enumerate().filter(|(other, _)| *other != i);
            assert!(others.clone().all(|(_, other)| other != value && OpenEnum::from(*value) != *other));
            assert!(others.clone().all(|(_, other)| other.as_str() != value.as_str()), "{value:?}");
        }
    }

    fn unknown_text_is_kept<T: Vocabulary + fmt::Debug>(text: &str) {
        let is_known = T::ALL.iter().any(|value| value.as_str() == text);
        assert_eq!(round_trip::<T>(text).is_some(), is_known, "{text:?}");
    }

    #[test]
    fn known_name_round_trips_as_its_value() {
        for_each_vocabulary!(every_name_is_exactly_one_value());
    }

    #[test]
    fn names_match_byte_for_byte() {
        for_each_vocabulary!(similar_text_is_unknown());
    }

    #[test]
    fn alert_decision_includes_every_decision_of_a_verdict() {
        for decision in Decision::ALL {
            assert!(AlertDecision::ALL.contains(&AlertDecision::Verdict(*decision)));
        }
    }

    proptest! {
        #[test]
        fn any_text_round_trips(text in any::<String>()) {
            for_each_vocabulary!(unknown_text_is_kept(&text));
        }

        /// Truncated and changed names are what a lenient reader would confuse with the name.
        #[test]
        fn changed_name_round_trips(at in 0..16usize, by in any::<char>(), cut in any::<bool>()) {
            for name in [Decision::names(), Reason::names(), Severity::names()].concat() {
                let mut text: Vec<char> = name.chars().collect();
                let at = at % text.len();
                if cut { text.truncate(at) } else { text[at] = by }
                let text: String = text.into_iter().collect();
                for_each_vocabulary!(unknown_text_is_kept(&text));
            }
        }
    }
}
