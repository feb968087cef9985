//! A bare insert of the pipeline's rows from memory.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::worker::{WorkerContext, await_start, report_result};

/// Task of an inserting worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BareInsert {
    /// Blocks in Native format, by table.
    pub tables: Vec<Blocks>,
}

/// Blocks of one table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Blocks {
    /// Table name.
    pub table: String,
    /// Files of the blocks with their row counts; they are repeated.
    pub files: Vec<(String, u64)>,
    /// Rows to insert; the last block may exceed the number.
    pub rows: u64,
}

/// Result of an inserting worker.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct InsertResult {
    /// Rows inserted into all tables.
    pub rows: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// Inserts into all tables concurrently, with one insert in flight per table.
pub(crate) fn insert(task: &BareInsert, context: &WorkerContext) -> Result<(), BenchError> {
    let mut tables = Vec::new();
    for Blocks { table, files, rows } in &task.tables {
        let mut blocks = Vec::new();
        for (file, rows) in files {
            let bytes =
                std::fs::read(context.recordings.join(file)).map_err(BenchError::io("reading a block"))?;
            blocks.push((bytes, *rows));
        }
        tables.push((table.as_str(), blocks, *rows));
    }
    await_start()?;
    let began = Instant::now();
    let rows = std::thread::scope(|scope| {
        let inserting: Vec<_> = tables
            .iter()
            .map(|(table, blocks, rows)| {
                scope.spawn(move || -> Result<u64, BenchError> {
                    let mut inserted = 0;
                    for (block, block_rows) in blocks.iter().cycle() {
                        if inserted >= *rows {
                            break;
                        }
                        context.clickhouse.insert(table, block)?;
                        inserted += block_rows;
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
    report_result(&InsertResult { rows, seconds: began.elapsed().as_secs_f64() })
}
