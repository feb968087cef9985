//! The log-sink's work alone: one topic into one table, by the log-sink and by competitors in turn.

use std::time::{Duration, Instant};

use crate::BenchError;
use crate::baseline::insert::{BareInsert, Blocks, InsertResult};
use crate::process::Process;
use crate::run::{Bench, Load, Run, parse_result, usage_between, wait_until_done};
use crate::worker::{PublishResult, WorkerTask};

/// Another program for the log-sink's work. Its environment contains the stack's addresses, as that of stages, and
/// `BENCH_TOPIC`, `BENCH_TABLE` and `BENCH_GROUP`: input, output and consumer group.
#[derive(Clone, Debug)]
pub struct Competitor {
    /// Name of the competitor.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// Filled topic without a producer, and its expected rows.
#[derive(Debug)]
pub struct Backlog {
    /// Number of records in the topic.
    pub rows: u64,
    /// Database of the log-sink's first run.
    database: String,
    /// Table of the records in it.
    table: String,
    /// Checksum of its rows, see [`Bench::checksum`].
    checksum: u64,
    blocks: Blocks,
}

/// Interval of the row counts.
const COUNT_INTERVAL: Duration = Duration::from_millis(20);

impl Bench<'_> {
    /// Publishes while no stage runs, then runs the log-sink once, for a table to copy and rows to insert from memory. This
    /// first run is warm-up and is not reported.
    ///
    /// # Errors
    /// If a process fails or the run misses its deadline.
    pub fn backlog(&mut self, load: Load) -> Result<Backlog, BenchError> {
        let mut publisher = self.start_publisher(load)?;
        publisher.read_line()?;
        publisher.write_line("go")?;
        let _: PublishResult = parse_result(&publisher.read_line()?)?;
        drop(publisher);
        // A stack with kept data has more records than were published now.
        let ends = self.kafka.end_offsets(self.names()?.actions)?;
        let rows = ends.values().sum::<i64>().try_into().unwrap_or_default();
        let (database, table) = self.next_names()?;
        self.log_sink_into(&database, rows)?;
        let first_table = format!("{database}.{table}");
        let checksum = self.checksum(&first_table)?;
        let blocks = self.save_blocks(&first_table, &format!("{first_table}_bare"))?;
        Ok(Backlog { rows, database, table, checksum, blocks })
    }

    /// Runs the log-sink from its start to the last row.
    ///
    /// # Errors
    /// If a process fails or the run misses its deadline.
    pub fn log_sink(&mut self, backlog: &Backlog) -> Result<Run, BenchError> {
        let (database, _) = self.next_names()?;
        let run = self.log_sink_into(&database, backlog.rows)?;
        self.store.run(format!("DROP DATABASE {database} SYNC"))?;
        Ok(run)
    }

    /// Runs a competitor from its start to the last row.
    ///
    /// # Errors
    /// As [`Self::log_sink`], and if its rows differ.
    pub fn run_competitor(&mut self, competitor: &Competitor, backlog: &Backlog) -> Result<Run, BenchError> {
        let (group, table) = self.next_names()?;
        let copy_name = format!("{table}_{group}");
        let copy_table = format!("{}.{copy_name}", backlog.database);
        self.create_unfenced_copy(&format!("{}.{}", backlog.database, backlog.table), &copy_table)?;
        let mut env = self.env();
        env.extend(
            [
                ("AGENTGOV_CLICKHOUSE_DATABASE", backlog.database.as_str()),
                ("BENCH_TOPIC", self.names()?.actions),
                ("BENCH_TABLE", &copy_name),
                ("BENCH_GROUP", &group),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let begin = |bench: &Self| bench.start_program(&competitor.name, &competitor.command, &env);
        let run = self.run_until_full(&copy_table, backlog.rows, begin)?;
        let rows = self.checksum(&copy_table)?;
        if rows != backlog.checksum {
            return Err(BenchError::Rows {
                name: competitor.name.clone(),
                expected: backlog.checksum,
                found: rows,
            });
        }
        self.store.run(format!("DROP TABLE {copy_table} SYNC"))?;
        Ok(run)
    }

    /// Inserts the same rows from memory with the log-sink's settings: the cost without reading, decoding and encoding.
    ///
    /// # Errors
    /// As [`Self::log_sink`].
    pub fn bare_insert(&mut self, backlog: &Backlog) -> Result<Run, BenchError> {
        self.store.run(format!("TRUNCATE TABLE {}", backlog.blocks.table))?;
        let insert = BareInsert { tables: vec![backlog.blocks.clone()] };
        let mut process = self.start_worker("insert", &WorkerTask::BareInsert(insert))?;
        process.read_line()?;
        let before = self.usage(&[&process])?;
        let began = Instant::now();
        process.write_line("go")?;
        let inserted: InsertResult = parse_result(&process.read_line()?)?;
        let seconds = began.elapsed().as_secs_f64();
        let usage = usage_between(&before, &self.usage(&[&process])?);
        Ok(Run { events: inserted.rows, seconds, usage, latency: None })
    }

    fn log_sink_into(&mut self, database: &str, rows: u64) -> Result<Run, BenchError> {
        let names = self.names()?;
        let table = format!("{database}.{}", self.table(names.actions)?);
        let mut env = self.env();
        env.insert("AGENTGOV_CLICKHOUSE_DATABASE".to_owned(), database.to_owned());
        self.run_until_full(&table, rows, |bench| bench.start_stage(names.sink, names.sink, &env))
    }

    /// Runs a process until a table has all rows.
    fn run_until_full(
        &mut self,
        table: &str,
        rows: u64,
        begin: impl FnOnce(&Self) -> Result<Process, BenchError>,
    ) -> Result<Run, BenchError> {
        let before = self.usage(&[])?;
        let began = Instant::now();
        let mut process = begin(self)?;
        wait_until_done(&format!("{} to catch up", process.name), COUNT_INTERVAL, || {
            process.check()?;
            // The log-sink creates its table at the start; until then counting fails.
            let rows_now = self.count_rows(table).unwrap_or_default();
            if rows_now > rows {
                return Err(BenchError::Doubled { table: table.to_owned(), rows: rows_now, records: rows });
            }
            Ok((rows_now < rows).then(|| format!("{rows_now} of {rows} rows")))
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let usage = usage_between(&before, &self.usage(&[&process])?);
        process.terminate()?;
        Ok(Run { events: rows, seconds, usage, latency: None })
    }

    /// Returns the order-independent sum of the rows' hashes over all columns except those of the log-sink's protocol.
    fn checksum(&self, table: &str) -> Result<u64, BenchError> {
        let row = "formatRow('RowBinary', * EXCEPT (claim, schema_fingerprint))";
        self.query_number(&format!("SELECT sum(cityHash64({row})) FROM {table}"))
    }

    /// Returns a name for a database or group that no run has used, and the table to write.
    fn next_names(&mut self) -> Result<(String, String), BenchError> {
        self.runs += 1;
        let table = self.table(self.names()?.actions)?;
        Ok((format!("bench_sink_{}_{}", std::process::id(), self.runs), table))
    }
}
