//! Limits on the depth and length of input, and the stack size that they are tested against.
//!
//! Parsers, validators and evaluators recurse, so deeply nested input would overflow the stack and end the process. Each
//! limit is checked before the recursive parser runs; a violation is an error with its location. The tests of a limit run a
//! debug build, whose stack frames are the largest, on a thread with a stack of [`STACK_BYTES`] bytes.

/// Stack size, in bytes, of every thread that compiles policies or runs a command. The system commits only the pages that
/// are touched. Cedar needs most of it: in a debug build 100 KiB for each level of a policy's condition.
pub const STACK_BYTES: usize = 64 << 20;

/// Maximum nesting of mappings and lists in a YAML file. A debug build needs 42 KiB of stack for each level, so a thread
/// with a stack of 2 MiB can parse any accepted file.
pub const MAX_YAML_DEPTH: usize = 40;

/// Maximum number of mappings, lists and scalars, keys included, in a YAML file.
pub const MAX_YAML_VALUES: usize = 250_000;

/// Maximum number of anchors in a YAML file, and of aliases.
pub const MAX_YAML_ALIASES: usize = 10_000;

/// Maximum length, in bytes, of an event's id and of every other name that stages use in keys or copy to their outputs. In a
/// changelog key a byte may become six; a session header has up to 64 source ids, and an alert copies eight names.
pub const MAX_ID_BYTES: usize = 4 << 10;

/// Maximum length, in bytes, of an Avro schema's text. The schemas of this crate have less than 20 KiB; the parser's work
/// grows with the square of the length.
pub const MAX_AVRO_SCHEMA_BYTES: usize = 256 << 10;

/// Maximum nesting of types in an Avro schema. A named type counts at each use.
pub const MAX_AVRO_DEPTH: usize = 64;

/// Maximum number of types in an Avro schema. A named type counts at each use. The schemas of this crate have less than 200.
pub const MAX_AVRO_TYPES: usize = 10_000;

/// Maximum size, in bytes, of a fixed type in an Avro schema.
pub const MAX_AVRO_FIXED_BYTES: usize = 1 << 20;
