//! Columns of each table, one module per table. Name, type and value of a column are on one line. If a record lacks a
//! text, its column is empty, as in a row that does not decode.

use agentgov_runtime::sink::native::{Cells, Column};

/// Columns of one record type in its table.
pub(crate) trait Columns {
    /// Type of the record.
    type Value<'a>;
    /// Returns empty columns, in the order of the cells.
    fn columns() -> impl Iterator<Item = Column>;
    /// Fills the cells of a row.
    fn fill(cells: &mut Cells<'_>, value: &Self::Value<'_>);
    /// Fills the cells of a record that does not decode with defaults.
    fn fill_default(cells: &mut Cells<'_>);
}

macro_rules! columns {
    ($(#[$doc:meta])* $value:ident: $type:ty { $($name:literal: $column_type:ty = $expr:expr,)* }) => {
        $(#[$doc])*
        pub(crate) struct Columns;

        impl crate::columns::Columns for Columns {
            type Value<'a> = $type;
            fn columns() -> impl Iterator<Item = agentgov_runtime::sink::native::Column> {
                [$(agentgov_runtime::sink::native::Column::new::<$column_type>($name)),*].into_iter()
            }
            fn fill(cells: &mut agentgov_runtime::sink::native::Cells<'_>, $value: &Self::Value<'_>) {
                $(cells.put::<$column_type>($expr);)*
            }
            fn fill_default(cells: &mut agentgov_runtime::sink::native::Cells<'_>) {
                $(cells.skip::<$column_type>();)*
            }
        }
    };
}

pub(crate) mod action;
pub(crate) mod agent;
pub(crate) mod alert;
pub(crate) mod basis;
pub(crate) mod bundle;
pub(crate) mod key;
pub(crate) mod raw;
pub(crate) mod reject;
pub(crate) mod skipped;
pub(crate) mod tool;
pub(crate) mod verdict;

use agentgov_schemas::Digest;

/// 32 zeros: no digest.
const NO_DIGEST: Digest = Digest::from_bytes([0; 32]);
