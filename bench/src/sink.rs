//! The sink's work alone: what one topic holds into one table, by the log sink and by others, each in its turn.

use std::time::{Duration, Instant};

use crate::BenchError;
use crate::floor::insert::{BareInsert, Blocks, Inserted};
use crate::part::{Part, Published};
use crate::process::Process;
use crate::run::{Bench, Load, Run, difference, parsed, wait};

/// Somebody else's program that does the same work: told by the environment where the stack is (as stages are), and in
/// `BENCH_TOPIC`, `BENCH_TABLE` and `BENCH_GROUP` what to read, where to write, and as whom.
#[derive(Clone, Debug)]
pub struct Rival {
    /// Its name.
    pub name: String,
    /// The program, with its arguments.
    pub command: Vec<String>,
}

/// The work of all: a topic that is full and that nobody writes to, and its rows.
#[derive(Debug)]
pub struct Backlog {
    /// Records of the topic.
    pub rows: u64,
    /// The database that the log sink made first.
    database: String,
    /// Its table of them.
    table: String,
    /// Of its rows, see [`Bench::checksum`].
    checksum: u64,
    blocks: Blocks,
}

/// How often the rows are counted.
const COUNT: Duration = Duration::from_millis(20);

impl Bench<'_> {
    /// Publishes with no stage running, and has the log sink write it all once: to have a table to copy, and rows to insert
    /// from memory. That run is the first one, warm-up, and not reported.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn backlog(&mut self, load: Load) -> Result<Backlog, BenchError> {
        let mut publisher = self.publisher(load)?;
        publisher.line()?;
        publisher.say("go")?;
        let _: Published = parsed(&publisher.line()?)?;
        drop(publisher);
        // A stack whose data was kept has more than what was published now.
        let ends = self.kafka.ends(self.names()?.actions)?;
        let rows = ends.values().sum::<i64>().try_into().unwrap_or_default();
        let (database, table) = self.fresh()?;
        self.log_sink_into(&database, rows)?;
        let made = format!("{database}.{table}");
        let checksum = self.checksum(&made)?;
        let blocks = self.blocks(&made, &format!("{made}_bare"))?;
        Ok(Backlog { rows, database, table, checksum, blocks })
    }

    /// The log sink, from its start to the last row.
    ///
    /// # Errors
    /// If it cannot be run, or does not come to its end.
    pub fn log_sink(&mut self, backlog: &Backlog) -> Result<Run, BenchError> {
        let (database, _) = self.fresh()?;
        let run = self.log_sink_into(&database, backlog.rows)?;
        self.store.run(format!("DROP DATABASE {database} SYNC"))?;
        Ok(run)
    }

    /// A rival, the same way.
    ///
    /// # Errors
    /// As [`Self::log_sink`].
    pub fn rival(&mut self, rival: &Rival, backlog: &Backlog) -> Result<Run, BenchError> {
        let (group, table) = self.fresh()?;
        let copy = format!("{table}_{group}");
        let there = format!("{}.{copy}", backlog.database);
        self.open_copy(&format!("{}.{}", backlog.database, backlog.table), &there)?;
        let mut env = self.env();
        env.extend(
            [
                ("AGENTGOV_CLICKHOUSE_DATABASE", backlog.database.as_str()),
                ("BENCH_TOPIC", self.names()?.actions),
                ("BENCH_TABLE", &copy),
                ("BENCH_GROUP", &group),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let begin = |bench: &Self| bench.start_program(&rival.name, &rival.command, &env);
        let run = self.drain(&there, backlog.rows, begin)?;
        let rows = self.checksum(&there)?;
        if rows != backlog.checksum {
            return Err(BenchError::Rows {
                who: rival.name.clone(),
                expected: backlog.checksum,
                found: rows,
            });
        }
        self.store.run(format!("DROP TABLE {there} SYNC"))?;
        Ok(run)
    }

    /// The same rows out of memory, as the log sink would send them: what is left when nothing is read, decoded or encoded.
    ///
    /// # Errors
    /// As [`Self::log_sink`].
    pub fn bare_insert(&mut self, backlog: &Backlog) -> Result<Run, BenchError> {
        self.store.run(format!("TRUNCATE TABLE {}", backlog.blocks.table))?;
        let insert = BareInsert { tables: vec![backlog.blocks.clone()] };
        let mut process = self.part("insert", &Part::BareInsert(insert))?;
        process.line()?;
        let before = self.usage(&[&process])?;
        let began = Instant::now();
        process.say("go")?;
        let inserted: Inserted = parsed(&process.line()?)?;
        let seconds = began.elapsed().as_secs_f64();
        let usage = difference(&before, &self.usage(&[&process])?);
        Ok(Run { events: inserted.rows, seconds, usage, latency: None })
    }

    fn log_sink_into(&mut self, database: &str, rows: u64) -> Result<Run, BenchError> {
        let names = self.names()?;
        let table = format!("{database}.{}", self.table(names.actions)?);
        let mut env = self.env();
        env.insert("AGENTGOV_CLICKHOUSE_DATABASE".to_owned(), database.to_owned());
        self.drain(&table, rows, |bench| bench.stage(names.sink, names.sink, &env))
    }

    /// Runs a process from its start until a table has all rows.
    fn drain(
        &mut self,
        table: &str,
        rows: u64,
        begin: impl FnOnce(&Self) -> Result<Process, BenchError>,
    ) -> Result<Run, BenchError> {
        let before = self.usage(&[])?;
        let began = Instant::now();
        let mut process = begin(self)?;
        wait(&format!("{} to be through", process.name), COUNT, || {
            process.check()?;
            // The log sink makes its table when it starts: until then it cannot be counted.
            let there = self.count(table).unwrap_or_default();
            if there > rows {
                return Err(BenchError::Doubled { table: table.to_owned(), rows: there, records: rows });
            }
            Ok((there < rows).then(|| format!("{there} of {rows} rows")))
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let usage = difference(&before, &self.usage(&[&process])?);
        process.end()?;
        Ok(Run { events: rows, seconds, usage, latency: None })
    }

    /// Sum of the rows' hashes, in whatever order: of all columns but those of the log sink's protocol. Equal for equal rows.
    fn checksum(&self, table: &str) -> Result<u64, BenchError> {
        let row = "formatRow('RowBinary', * EXCEPT (claim, schema_fingerprint))";
        self.number(&format!("SELECT sum(cityHash64({row})) FROM {table}"))
    }

    /// A database, or group, that no run has had, and the table that is written.
    fn fresh(&mut self) -> Result<(String, String), BenchError> {
        self.runs += 1;
        let table = self.table(self.names()?.actions)?;
        Ok((format!("bench_sink_{}_{}", std::process::id(), self.runs), table))
    }
}
