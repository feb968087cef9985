//! ClickHouse's Native format, built by column: what goes over the wire is what is gathered, without a row in between.
//!
//! Source: "Native" in ClickHouse's documentation of formats, and its NativeReader (client protocol version 0, as over
//! HTTP): number of columns and of rows as VarUInt; then per column its name, its type, its data. All integers are
//! little-endian. A nullable column has its null map first, an array column its cumulative lengths. `LowCardinality`
//! columns are sent as what they hold: the server converts.

use std::marker::PhantomData;

use agentgov_schemas::{Digest, Micros, Millis};

/// How values of one SQL type are laid out in a column.
pub trait ColumnType {
    /// What is put into the column.
    type Value<'v>: 'v;
    /// How many separate runs of bytes the column consists of.
    const BUFFERS: usize;
    /// The SQL type, as ClickHouse writes it.
    fn sql_type() -> String;
    /// Appends a value to the [`Self::BUFFERS`] runs.
    fn push(buffers: &mut [Vec<u8>], value: Self::Value<'_>);
    /// Appends the value that stands for "not known".
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
    /// Text; not known: empty.
    Text = "String": &'v str, default "", |v, out| put_bytes(v.as_bytes(), out);
    /// Bytes, whatever they are; not known: empty.
    Bytes = "String": &'v [u8], default b"", |v, out| put_bytes(v, out);
    /// A SHA-256 digest; not known: 32 zeros.
    Sha256 = "FixedString(32)": Digest, default Digest::from_bytes([0; 32]), |v, out| out.extend_from_slice(v.as_bytes());
    /// True or false; not known: false.
    Flag = "Bool": bool, default false, |v, out| out.push(u8::from(v));
    /// A signed number of 32 bits.
    Int32 = "Int32": i32, default 0, |v, out| out.extend_from_slice(&v.to_le_bytes());
    /// A signed number of 64 bits.
    Int64 = "Int64": i64, default 0, |v, out| out.extend_from_slice(&v.to_le_bytes());
    /// An unsigned number of 32 bits.
    UInt32 = "UInt32": u32, default 0, |v, out| out.extend_from_slice(&v.to_le_bytes());
    /// An unsigned number of 64 bits.
    UInt64 = "UInt64": u64, default 0, |v, out| out.extend_from_slice(&v.to_le_bytes());
    /// The broker's clock.
    LoggedAt = "DateTime64(3, 'UTC')": Millis, default Millis(0), |v, out| out.extend_from_slice(&v.0.to_le_bytes());
    /// A producer's clock. DateTime64(6) shows the years 1900 to 2299: earlier and later claims are moved to the ends of
    /// that range, so a table keeps the claim itself in a column beside.
    OccurredAt = "DateTime64(6, 'UTC')": Micros, default Micros(0),
        |v, out| out.extend_from_slice(&v.0.clamp(FIRST_MICROS, LAST_MICROS).to_le_bytes());
}

/// 1900-01-01 00:00:00 UTC, the first moment of a DateTime64.
const FIRST_MICROS: i64 = -2_208_988_800_000_000;
/// 2299-12-31 23:59:59.999999 UTC, the last moment of a DateTime64(6).
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

/// Any number of `K`.
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

/// One column of a block.
#[derive(Debug)]
pub struct Column {
    name: &'static str,
    sql_type: String,
    buffers: Vec<Vec<u8>>,
    rows: usize,
}

impl Column {
    /// An empty column.
    pub fn new<K: ColumnType>(name: &'static str) -> Self {
        Self { name, sql_type: K::sql_type(), buffers: vec![Vec::new(); K::BUFFERS], rows: 0 }
    }
}

/// The cells of a row, in the order of the block's columns.
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

    /// Leaves the next cell at what stands for "not known".
    pub fn skip<K: ColumnType>(&mut self) {
        self.fill(K::push_default);
    }

    fn fill(&mut self, push: impl FnOnce(&mut [Vec<u8>])) {
        match self.columns.next() {
            Some(column) => {
                push(&mut column.buffers);
                column.rows += 1;
            }
            // The block can no longer be encoded.
            None => *self.surplus += 1,
        }
    }
}

/// Rows of one table, by column. Keeps its buffers when it is cleared.
#[derive(Debug)]
pub struct Block {
    columns: Vec<Column>,
    rows: usize,
    /// Cells put into rows that were full.
    surplus: usize,
}

/// A row that does not have one cell for each column: a mistake of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellCountError {
    /// A row has too few cells.
    #[error("column {column}: expected {expected} rows, found {found}")]
    TooFew {
        /// The first column that has another number of rows.
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
    /// An empty block of these columns.
    pub const fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: 0, surplus: 0 }
    }

    /// Begins a row; every cell of it must be filled or skipped.
    pub fn row(&mut self) -> Cells<'_> {
        self.rows += 1;
        Cells { columns: self.columns.iter_mut(), surplus: &mut self.surplus }
    }

    /// Rows gathered.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes gathered: the size of the encoded block, but for its few hundred bytes of names.
    pub fn bytes(&self) -> usize {
        self.columns.iter().flat_map(|column| &column.buffers).map(Vec::len).sum()
    }

    /// Names of the columns, for the INSERT's list.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.columns.iter().map(|column| column.name)
    }

    /// The block as it goes over the wire.
    ///
    /// # Errors
    /// If a row has more or fewer cells than the block has columns.
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

    /// Forgets the rows, keeps the memory.
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
