//! Encoder of ClickHouse's Native format. Rows are buffered by column, in the layout of the wire format.
//!
//! Source: "Native" in ClickHouse's documentation of formats, and its NativeReader (client protocol version 0, as over
//! HTTP): number of columns and of rows as VarUInt; then for each column its name, type and data. All integers are
//! little-endian. The data of a nullable column starts with its null map, that of an array column with its cumulative
//! lengths. `LowCardinality` columns are sent with their inner type; the server converts them.

use std::marker::PhantomData;

use agentgov_schemas::{Digest, Micros, Millis};

/// Layout of values of one SQL type in a column.
pub trait ColumnType {
    /// Value of a cell.
    type Value<'v>: 'v;
    /// Number of separate byte buffers of a column.
    const BUFFERS: usize;
    /// Returns the SQL type, as ClickHouse writes it.
    fn sql_type() -> String;
    /// Appends a value to the [`Self::BUFFERS`] buffers.
    fn push(buffers: &mut [Vec<u8>], value: Self::Value<'_>);
    /// Appends the default, which means "unknown".
    fn push_default(buffers: &mut [Vec<u8>]);
}

fn put_var_uint(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    // Most cells of a row are empty.
    if bytes.is_empty() {
        return out.push(0);
    }
    put_var_uint(bytes.len(), out);
    out.extend_from_slice(bytes);
}

macro_rules! column_types {
    ($($(#[$doc:meta])* $name:ident = $sql:literal: $value:ty, default $default:expr, |$v:ident, $out:ident| $push:expr;)*) => {
        $($(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl ColumnType for $name {
            type Value<'v> = $value;
            const BUFFERS: usize = 1;
            fn sql_type() -> String {
                $sql.to_owned()
            }
            fn push(buffers: &mut [Vec<u8>], $v: Self::Value<'_>) {
                if let [$out, ..] = buffers {
                    $push;
                }
            }
            fn push_default(buffers: &mut [Vec<u8>]) {
                Self::push(buffers, $default);
            }
        })*
    };
}

column_types! {
    /// Text; default: empty.
    Text = "String": &'v str, default "", |v, out| put_bytes(v.as_bytes(), out);
    /// Bytes; default: empty.
    Bytes = "String": &'v [u8], default b"", |v, out| put_bytes(v, out);
    /// SHA-256 digest; default: 32 zeros.
    Sha256 = "FixedString(32)": Digest, default Digest::from_bytes([0; 32]), |v, out| out.extend_from_slice(v.as_bytes());
    /// Boolean; default: false.
    Flag = "Bool": bool, default false, |v, out| out.push(u8::from(v));
    /// Signed 32-bit integer.
    Int32 = "Int32": i32, default 0, |v, out| out.extend_from_slice(&v.to_le_bytes());
    /// Signed 64-bit integer.
    Int64 = "Int64": i64, default 0, |v, out| out.extend_from_slice(&v.to_le_bytes());
    /// Unsigned 32-bit integer.
    UInt32 = "UInt32": u32, default 0, |v, out| out.extend_from_slice(&v.to_le_bytes());
    /// Unsigned 64-bit integer.
    UInt64 = "UInt64": u64, default 0, |v, out| out.extend_from_slice(&v.to_le_bytes());
    /// Timestamp of the broker.
    LoggedAt = "DateTime64(3, 'UTC')": Millis, default Millis(0), |v, out| out.extend_from_slice(&v.0.to_le_bytes());
    /// Timestamp of a producer. DateTime64(6) represents the years 1900 to 2299; other values are clamped to that
    /// range, so a table keeps the original value in another column.
    OccurredAt = "DateTime64(6, 'UTC')": Micros, default Micros(0),
        |v, out| out.extend_from_slice(&v.0.clamp(FIRST_MICROS, LAST_MICROS).to_le_bytes());
}

/// 1900-01-01 00:00:00 UTC, the minimum of a DateTime64.
const FIRST_MICROS: i64 = -2_208_988_800_000_000;
/// 2299-12-31 23:59:59.999999 UTC, the maximum of a DateTime64(6).
const LAST_MICROS: i64 = 10_413_791_999_999_999;

/// `K`, or NULL.
#[derive(Debug)]
pub struct Nullable<K>(PhantomData<K>);

impl<K: ColumnType> ColumnType for Nullable<K> {
    type Value<'v> = Option<K::Value<'v>>;
    const BUFFERS: usize = 1 + K::BUFFERS;
    fn sql_type() -> String {
        format!("Nullable({})", K::sql_type())
    }
    fn push(buffers: &mut [Vec<u8>], value: Self::Value<'_>) {
        let Some((nulls, inner)) = buffers.split_first_mut() else { return };
        nulls.push(u8::from(value.is_none()));
        match value {
            Some(value) => K::push(inner, value),
            None => K::push_default(inner),
        }
    }
    fn push_default(buffers: &mut [Vec<u8>]) {
        Self::push(buffers, None);
    }
}

/// Array of `K`.
#[derive(Debug)]
pub struct List<K>(PhantomData<K>);

impl<K: ColumnType> ColumnType for List<K> {
    type Value<'v> = &'v mut dyn Iterator<Item = K::Value<'v>>;
    const BUFFERS: usize = 1 + K::BUFFERS;
    fn sql_type() -> String {
        format!("Array({})", K::sql_type())
    }
    fn push(buffers: &mut [Vec<u8>], value: Self::Value<'_>) {
        let Some((ends, inner)) = buffers.split_first_mut() else { return };
        let mut end = ends.last_chunk().map_or(0, |last| u64::from_le_bytes(*last));
        for item in value {
            K::push(inner, item);
            end += 1;
        }
        ends.extend_from_slice(&end.to_le_bytes());
    }
    fn push_default(buffers: &mut [Vec<u8>]) {
        Self::push(buffers, &mut std::iter::empty());
    }
}

/// Column of a block.
#[derive(Debug)]
pub struct Column {
    name: &'static str,
    sql_type: String,
    buffers: Vec<Vec<u8>>,
    rows: usize,
}

impl Column {
    /// Creates an empty column.
    pub fn new<K: ColumnType>(name: &'static str) -> Self {
        Self { name, sql_type: K::sql_type(), buffers: vec![Vec::new(); K::BUFFERS], rows: 0 }
    }
}

/// Cells of a row, in the order of the block's columns.
#[derive(Debug)]
pub struct Cells<'b> {
    columns: std::slice::IterMut<'b, Column>,
    surplus: &'b mut usize,
}

impl Cells<'_> {
    /// Fills the next cell.
    pub fn put<K: ColumnType>(&mut self, value: K::Value<'_>) {
        self.fill(|buffers| K::push(buffers, value));
    }

    /// Fills the next cell with the default.
    pub fn skip<K: ColumnType>(&mut self) {
        self.fill(K::push_default);
    }

    fn fill(&mut self, push: impl FnOnce(&mut [Vec<u8>])) {
        match self.columns.next() {
            Some(column) => {
                push(&mut column.buffers);
                column.rows += 1;
            }
            // `encode` then fails.
            None => *self.surplus += 1,
        }
    }
}

/// Rows of one table, by column. Clearing it keeps its buffers.
#[derive(Debug)]
pub struct Block {
    columns: Vec<Column>,
    rows: usize,
    /// Cells beyond the last column of their row.
    surplus: usize,
}

/// Error of a row with another number of cells than columns: a bug.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellCountError {
    /// A row has too few cells.
    #[error("column {column}: expected {expected} rows, found {found}")]
    TooFew {
        /// First column with another number of rows.
        column: &'static str,
        /// Rows of the block.
        expected: usize,
        /// Rows of the column.
        found: usize,
    },
    /// Rows have too many cells.
    #[error("expected a cell for each of {columns} columns, found {surplus} more in {rows} rows")]
    TooMany {
        /// Columns of the block.
        columns: usize,
        /// Rows of the block.
        rows: usize,
        /// Cells without a column.
        surplus: usize,
    },
}

impl Block {
    /// Creates an empty block of these columns.
    pub const fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: 0, surplus: 0 }
    }

    /// Starts a row; every cell of it must be filled or skipped.
    pub fn row(&mut self) -> Cells<'_> {
        self.rows += 1;
        Cells { columns: self.columns.iter_mut(), surplus: &mut self.surplus }
    }

    /// Returns the number of rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the size of the encoded block in bytes, without some hundred bytes of column names.
    pub fn bytes(&self) -> usize {
        self.columns.iter().flat_map(|column| &column.buffers).map(Vec::len).sum()
    }

    /// Returns the names of the columns, for the column list of an INSERT.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.columns.iter().map(|column| column.name)
    }

    /// Encodes the block.
    ///
    /// # Errors
    /// Fails if a row has more or fewer cells than the block has columns.
    pub fn encode(&self) -> Result<Vec<u8>, CellCountError> {
        if self.surplus > 0 {
            let Self { rows, surplus, .. } = *self;
            return Err(CellCountError::TooMany { columns: self.columns.len(), rows, surplus });
        }
        let mut out = Vec::with_capacity(self.bytes() + 64 * self.columns.len());
        put_var_uint(self.columns.len(), &mut out);
        put_var_uint(self.rows, &mut out);
        for column in &self.columns {
            if column.rows != self.rows {
                return Err(CellCountError::TooFew {
                    column: column.name,
                    expected: self.rows,
                    found: column.rows,
                });
            }
            put_bytes(column.name.as_bytes(), &mut out);
            put_bytes(column.sql_type.as_bytes(), &mut out);
            column.buffers.iter().for_each(|buffer| out.extend_from_slice(buffer));
        }
        Ok(out)
    }

    /// Removes the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.rows = 0;
        self.surplus = 0;
        for column in &mut self.columns {
            column.rows = 0;
            column.buffers.iter_mut().for_each(Vec::clear);
        }
    }
}

#[cfg(test)]
mod tests;
