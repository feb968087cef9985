//! A bare insert of the pipeline's rows, out of memory.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::part::{Places, done, ready};

/// What it inserts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BareInsert {
    /// Blocks in Native format, by the table that they go to.
    pub tables: Vec<Blocks>,
}

/// Blocks of one table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Blocks {
    /// The table.
    pub table: String,
    /// The blocks' files, with their rows; they are repeated.
    pub files: Vec<(String, u64)>,
    /// How many rows to insert; the last block may bring more.
    pub rows: u64,
}

/// What it did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Inserted {
    /// Rows of all tables.
    pub rows: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Inserts, the tables side by side, one insert in flight for each.
pub(crate) fn insert(what: &BareInsert, places: &Places) -> Result<(), BenchError> {
    let mut tables = Vec::new();
    for Blocks { table, files, rows } in &what.tables {
        let mut blocks = Vec::new();
        for (file, rows) in files {
            let bytes = std::fs::read(places.tapes.join(file)).map_err(BenchError::io("reading a block"))?;
            blocks.push((bytes, *rows));
        }
        tables.push((table.as_str(), blocks, *rows));
    }
    ready()?;
    let began = Instant::now();
    let rows = std::thread::scope(|scope| {
        let inserting: Vec<_> = tables
            .iter()
            .map(|(table, blocks, rows)| {
                scope.spawn(move || -> Result<u64, BenchError> {
                    let mut inserted = 0;
                    for (block, of_block) in blocks.iter().cycle() {
                        if inserted >= *rows {
                            break;
                        }
                        places.clickhouse.insert(table, block)?;
                        inserted += of_block;
                    }
                    Ok(inserted)
                })
            })
            .collect();
        let mut rows = 0;
        for thread in inserting {
            rows += thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(rows)
    })?;
    done(&Inserted { rows, seconds: began.elapsed().as_secs_f64() })
}
