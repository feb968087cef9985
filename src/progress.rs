//! Progress of long steps: bars on a terminal, otherwise one line at the end of a step and one every few seconds during it.

#[cfg(feature = "local-stack")]
mod stack;

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentgov_schemas::escape::escape;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::print::{Text, errln, style, text};

/// Interval of progress lines without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the progress of long steps on stderr.
pub struct Progress {
    bars: MultiProgress,
    terminal: bool,
    quiet: bool,
    running: Arc<Mutex<RunningSteps>>,
    /// Ends the thread that prints progress lines when dropped.
    _lines: Option<Sender<()>>,
}

/// Steps in progress.
#[derive(Default)]
struct RunningSteps {
    steps: BTreeMap<u64, RunningStep>,
    #[cfg(feature = "local-stack")]
    parts: BTreeMap<String, u64>,
    next: u64,
}

/// Step in progress.
struct RunningStep {
    what: String,
    position: u64,
    total: Option<u64>,
    bytes: bool,
    began: Instant,
    /// Time of the last progress line.
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Creates the progress display. `quiet` prints nothing, for JSON output.
    pub fn new(quiet: bool) -> Self {
        let terminal = console::user_attended_stderr();
        let running = Arc::default();
        let lines = if quiet || terminal { None } else { spawn_line_printer(&running) };
        Self { bars: MultiProgress::new(), terminal, quiet, running, _lines: lines }
    }

    /// Begins a step of unknown length.
    pub fn step(&self, what: impl Into<String>) -> Step<'_> {
        self.begin(what.into(), None)
    }

    /// Begins a step of `total` units.
    pub fn counted(&self, what: impl Into<String>, total: u64) -> Step<'_> {
        self.begin(what.into(), Some(total))
    }

    fn begin(&self, what: String, total: Option<u64>) -> Step<'_> {
        Step { id: self.add(&what, total, false), what, progress: self }
    }

    fn add(&self, what: &str, total: Option<u64>, bytes: bool) -> u64 {
        let (began, bar) = (Instant::now(), self.bar(what, total, bytes));
        let mut running = lock(&self.running);
        let id = running.next;
        running.next += 1;
        let step =
            RunningStep { what: what.to_owned(), position: 0, total, bytes, began, last_line: began, bar };
        running.steps.insert(id, step);
        id
    }

    fn remove(&self, id: u64) {
        if let Some(bar) = lock(&self.running).steps.remove(&id).and_then(|step| step.bar) {
            bar.finish_and_clear();
        }
    }

    fn bar(&self, what: &str, total: Option<u64>, bytes: bool) -> Option<ProgressBar> {
        if self.quiet || !self.terminal {
            return None;
        }
        let bar = match total {
            Some(total) => self.bars.add(ProgressBar::new(total)),
            None => self.bars.add(ProgressBar::new_spinner()),
        };
        let template = match (total, bytes) {
            (Some(_), true) => "  {msg:<34} {bar:24.cyan/dim} {bytes}/{total_bytes}",
            (Some(_), false) => "  {msg:<34} {bar:24.cyan/dim} {pos}/{len}",
            (None, _) => "{spinner:.cyan} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(escape(what).into_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Some(bar)
    }

    fn line(&self, text: &Text) {
        if self.quiet {
            return;
        }
        if self.terminal {
            let _ = self.bars.println(text.as_str());
        } else {
            errln!("{}", text);
        }
    }
}

/// Starts the thread that prints progress lines. If the thread cannot be started, only final lines are printed.
fn spawn_line_printer(running: &Arc<Mutex<RunningSteps>>) -> Option<Sender<()>> {
    let (sender, ended) = mpsc::channel();
    let running = Arc::clone(running);
    let print = move || {
        while ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            let due = lock(&running).due(Instant::now());
            due.iter().for_each(|line| errln!("{}", line));
        }
    };
    std::thread::Builder::new().name("progress".to_owned()).spawn(print).ok().map(|_| sender)
}

fn lock(running: &Mutex<RunningSteps>) -> MutexGuard<'_, RunningSteps> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RunningSteps {
    fn at(&mut self, id: u64, position: u64, total: Option<u64>) {
        let Some(step) = self.steps.get_mut(&id) else { return };
        step.position = position;
        step.total = total.or(step.total);
        if let Some(bar) = &step.bar {
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(position);
        }
    }

    /// Returns a line for each step whose last line is older than [`LINE_INTERVAL`].
    fn due(&mut self, now: Instant) -> Vec<Text> {
        let due = |step: &&mut RunningStep| now.saturating_duration_since(step.last_line) >= LINE_INTERVAL;
        self.steps
            .values_mut()
            .filter(due)
            .map(|step| {
                step.last_line = now;
                step.line(now)
            })
            .collect()
    }
}

impl RunningStep {
    fn line(&self, now: Instant) -> Text {
        let amount = |n: u64| if self.bytes { format!("{} MB", n / 1_000_000) } else { n.to_string() };
        let so_far = match self.total {
            Some(total) => format!("{} of {}, ", amount(self.position), amount(total)),
            None if self.position > 0 => format!("{}, ", amount(self.position)),
            None => String::new(),
        };
        let seconds = now.saturating_duration_since(self.began).as_secs();
        text!("  … {}: {}{} s so far", self.what, so_far, seconds)
    }
}

/// Step in progress. Dropping it without [`Step::done`] marks it as failed.
pub struct Step<'p> {
    what: String,
    id: u64,
    progress: &'p Progress,
}

impl Step<'_> {
    /// Updates the position.
    pub fn at(&self, position: u64, total: u64) {
        lock(&self.progress.running).at(self.id, position, Some(total));
    }

    /// Ends the step and prints its outcome.
    pub fn done(self, outcome: impl AsRef<str>) {
        self.progress.remove(self.id);
        self.progress.line(&text!("{} {}: {}", style("✓").green(), self.what, style(outcome.as_ref()).dim()));
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.progress.remove(self.id);
    }
}

#[cfg(test)]
#[cfg(feature = "local-stack")]
mod tests {
    use agentgov_testenv::{Event, Part};

    use super::*;

    #[test]
    fn long_step_prints_a_line_at_each_interval() {
        let progress = Progress::new(true);
        let (step, other) = (progress.counted("publishing", 10), progress.step("waiting\n"));
        let download =
            Event::Downloading { part: Part::Broker, what: "it".to_owned(), bytes: Some(9_000_000) };
        progress.show_stack_event(&download);
        progress.show_stack_event(&Event::Downloaded { part: Part::Broker, bytes: 2_000_000 });
        step.at(4, 12);
        let began = Instant::now();
        let lines = |seconds| {
            let due = lock(&progress.running).due(began + Duration::from_secs(seconds));
            due.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(lines(1).is_empty());
        let expected = [
            "  … publishing: 4 of 12, 6 s so far",
            r"  … waiting\u{a}: 6 s so far",
            "  … downloading it: 2 MB of 9 MB, 6 s so far",
        ];
        assert_eq!(lines(6), expected);
        assert!(lines(7).is_empty(), "one in five seconds");
        step.done("done");
        drop(other);
        assert_eq!(lines(12), ["  … downloading it: 2 MB of 9 MB, 12 s so far"]);
        progress.show_stack_event(&Event::Installed { part: Part::Broker });
        assert!(lines(60).is_empty());
    }
}
