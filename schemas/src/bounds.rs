//! How deep and how long what others write may be, and the stack that these bounds are tested against.
//!
//! Parsers, validators and evaluators recurse: without a bound on the depth of what they read, a file or a record ends the
//! process. Each bound is checked before the recursive parser runs, and a violation is a problem with its place. The tests
//! of a bound run a debug build, whose stack frames are the largest, on a thread of [`STACK_BYTES`] bytes.

/// The stack, in bytes, of every thread that compiles policies or runs a command. Memory is used only as far as it is
/// touched. Most of it is for Cedar: a debug build needs 100 KiB for each level of a policy's condition.
pub const STACK_BYTES: usize = 64 << 20;

/// Deepest nesting of mappings and lists in a YAML file. A debug build needs 42 KiB of stack for each, so a file of that depth
/// is read on a thread of 2 MiB, too.
pub const MAX_YAML_DEPTH: usize = 40;

/// Longest id of an event, and longest of the other names that stages use as keys or repeat in what they emit, in bytes. In a
/// key of a changelog a byte may become six; a session's header has up to 64 source ids, an alert repeats eight names.
pub const MAX_ID_BYTES: usize = 4 << 10;

/// Longest text of an Avro schema, in bytes. Ours have less than 20 KiB; what the parser does grows with its square.
pub const MAX_AVRO_SCHEMA_BYTES: usize = 256 << 10;

/// Deepest nesting of types in an Avro schema, each counted where it is used.
pub const MAX_AVRO_DEPTH: usize = 64;

/// Types in an Avro schema, each counted where it is used. Ours have less than 200.
pub const MAX_AVRO_TYPES: usize = 10_000;

/// Largest fixed of an Avro schema, in bytes.
pub const MAX_AVRO_FIXED_BYTES: usize = 1 << 20;
