//! The Rust type of each schema family.

use std::marker::PhantomData;

use serde::Serialize;

use crate::alert::Alert;
use crate::basis::EvaluationBasis;
use crate::event::ActionEvent;
use crate::governance::{AgentEntry, Bundle, Control, KeyEntry, ToolEntry};
use crate::reject::Reject;
use crate::state::{AlertState, SessionState};
use crate::subject::{self, Subject};
use crate::verdict::Verdict;
use crate::wire::{EncodeError, Encoder, Schema, SchemaError, SchemaId};

/// Record type of one schema family. Code that emits or encodes takes the family from the type, so a record of another family
/// does not compile.
pub trait Record: Serialize {
    /// The schema family.
    const SUBJECT: Subject;
    /// The type itself with the lifetime `'static`, so that the family has one type as its name.
    type Static: Record<Static = Self::Static> + 'static;
}

macro_rules! records {
    ($($type:ident = $subject:ident),* $(,)?) => {$(
        impl Record for $type<'_> {
            const SUBJECT: Subject = subject::$subject;
            type Static = $type<'static>;
        }
    )*};
}

records! {
    ActionEvent = ACTION_EVENT,
    Verdict = VERDICT,
    Alert = ALERT,
    Reject = REJECT,
    SessionState = SESSION_STATE,
    AlertState = ALERT_STATE,
    AgentEntry = AGENT,
    ToolEntry = TOOL,
    Bundle = BUNDLE,
    Control = CONTROL,
    KeyEntry = KEY,
    EvaluationBasis = EVALUATION_BASIS,
}

/// Schema with which this build writes and reads a family.
#[derive(Debug)]
pub struct RecordSchema<R> {
    schema: &'static Schema,
    of: PhantomData<fn(&R)>,
}

impl<R: Record> RecordSchema<R> {
    /// Returns the schema of `R`.
    ///
    /// # Errors
    /// If the schema does not parse.
    pub fn new() -> Result<Self, SchemaError> {
        Ok(Self { schema: R::SUBJECT.schema()?, of: PhantomData })
    }

    /// Returns the parsed schema.
    pub const fn schema(&self) -> &'static Schema {
        self.schema
    }

    /// Creates an encoder for records of the family, whose schema is registered as `id`.
    pub fn encoder(&self, id: SchemaId) -> RecordEncoder<R> {
        RecordEncoder { encoder: Encoder::new(id, self.schema), of: PhantomData }
    }
}

/// Encoder for records of one family, with the schema of this build.
///
/// ```
/// # use agentgov_schemas::governance::{AgentEntry, Control};
/// # use agentgov_schemas::record::RecordEncoder;
/// # use agentgov_schemas::wire::SchemaId;
/// let mut controls = RecordEncoder::<Control<'static>>::new(SchemaId(1)).unwrap();
/// let control = Control { stage: "evaluator", command: Control::RESUME, reason: "", sent_by: "" };
/// assert!(controls.encode(&control).is_ok());
/// ```
///
/// A record of another family does not compile:
///
/// ```compile_fail,E0271
/// # use agentgov_schemas::governance::{Control, ToolEntry};
/// # use agentgov_schemas::record::RecordEncoder;
/// fn write(controls: &mut RecordEncoder<Control<'static>>, tool: &ToolEntry<'_>) {
///     controls.encode(tool);
/// }
/// ```
pub struct RecordEncoder<R> {
    encoder: Encoder<'static>,
    of: PhantomData<fn(&R)>,
}

impl<R: Record> RecordEncoder<R> {
    /// Creates an encoder for the family of `R`, whose schema is registered as `id`.
    ///
    /// # Errors
    /// If the schema of this build does not parse.
    pub fn new(id: SchemaId) -> Result<Self, SchemaError> {
        Ok(RecordSchema::<R>::new()?.encoder(id))
    }

    /// Appends header and datum of `record` to `out`. An error leaves `out` unchanged.
    ///
    /// # Errors
    /// If the record does not fit its schema.
    pub fn encode_into<T: Record<Static = R>>(
        &mut self,
        record: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.encoder.encode_into(record, out)
    }

    /// Returns header and datum of `record`.
    ///
    /// # Errors
    /// If the record does not fit its schema.
    pub fn encode<T: Record<Static = R>>(&mut self, record: &T) -> Result<Vec<u8>, EncodeError> {
        self.encoder.encode(record)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_subject_has_exactly_one_type() {
        let mut typed = BTreeSet::new();
        macro_rules! add {
            ($($type:ident),*) => { $(assert!(typed.insert($type::SUBJECT.name), stringify!($type));)* };
        }
        add!(
            ActionEvent,
            Verdict,
            Alert,
            Reject,
            SessionState,
            AlertState,
            AgentEntry,
            ToolEntry,
            Bundle,
            Control,
            KeyEntry,
            EvaluationBasis
        );
        assert_eq!(typed, subject::SUBJECTS.iter().map(|subject| subject.name).collect());
    }
}
