//! The columns of each table, one module a table: name, type and value of a column stand on one line. Where a record leaves out a
//! text, its column is empty, as in a row that does not decode.

use agentgov_runtime::sink::native::{Cells, Column};

/// How one table lays out one type of record.
pub(crate) trait Columns {
    /// The record.
    type Value<'a>;
    /// Empty columns, in the order of filling.
    fn columns() -> impl Iterator<Item = Column>;
    /// Fills a row.
    fn fill(cells: &mut Cells<'_>, value: &Self::Value<'_>);
    /// Fills a row of which nothing is known.
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
pub(crate) mod bundle;
pub(crate) mod raw;
pub(crate) mod reject;
pub(crate) mod skipped;
pub(crate) mod tool;
pub(crate) mod verdict;

use agentgov_schemas::Digest;

/// 32 zeros: no digest.
const NO_DIGEST: Digest = Digest::from_bytes([0; 32]);
