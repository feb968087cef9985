//! Progress on a terminal as bars, elsewhere as plain lines.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentgov_schemas::escape::escape;
use agentgov_testenv::{Event, Part};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::print::{Text, note, style, text};

/// Shows steps of long work, on stderr.
pub struct Progress {
    bars: MultiProgress,
    terminal: bool,
    quiet: bool,
    parts: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Progress {
    /// `quiet`: for a program, so nothing at all.
    pub fn new(quiet: bool) -> Self {
        let terminal = console::user_attended_stderr();
        Self { bars: MultiProgress::new(), terminal, quiet, parts: Mutex::default() }
    }

    /// Begins a step without a known length.
    pub fn step(&self, what: impl Into<String>) -> Step<'_> {
        self.begin(what.into(), None)
    }

    /// Begins a step of `total` things.
    pub fn counted(&self, what: impl Into<String>, total: u64) -> Step<'_> {
        self.begin(what.into(), Some(total))
    }

    fn begin(&self, what: String, total: Option<u64>) -> Step<'_> {
        Step { bar: self.bar(&what, total, false), what, progress: self }
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
            note!("{}", text);
        }
    }

    /// Shows what a starting stack tells.
    pub fn stack(&self, event: &Event) {
        match event {
            Event::Chosen { backend, because } if because.is_empty() => {
                self.line(&text!("  stack: {}", backend));
            }
            Event::Chosen { backend, because } => {
                self.line(&text!("  stack: {}, set by {}", backend, because.join(", ")));
            }
            Event::Downloading { part, what, bytes } => {
                if let Some(bar) = self.bar(&format!("downloading {what}"), *bytes, true) {
                    self.parts().insert(part.to_string(), bar);
                } else {
                    self.line(&text!("  downloading {} (once; kept in the user's cache)", what));
                }
            }
            Event::Downloaded { part, bytes } => {
                if let Some(bar) = self.parts().get(&part.to_string()) {
                    bar.set_position(*bytes);
                }
            }
            Event::Installed { part } => self.finish_part(part, "downloaded"),
            Event::Starting { part } => {
                if let Some(bar) = self.bar(&format!("starting {part}"), None, false) {
                    self.parts().insert(part.to_string(), bar);
                }
            }
            Event::Ready { part, after } => {
                self.finish_part(part, &format!("up after {:.1} s", after.as_secs_f64()));
            }
        }
    }

    fn finish_part(&self, part: &Part, how: &str) {
        if let Some(bar) = self.parts().remove(&part.to_string()) {
            bar.finish_and_clear();
        }
        self.line(&text!("{} {} {}", style("✓").green(), part, how));
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ProgressBar>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step that has begun. Dropped without [`Step::done`], it failed.
pub struct Step<'p> {
    what: String,
    bar: Option<ProgressBar>,
    progress: &'p Progress,
}

impl Step<'_> {
    /// Says how far it is.
    pub fn at(&self, position: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(position);
        }
    }

    /// Ends it, with what came of it.
    pub fn done(self, outcome: impl AsRef<str>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.line(&text!("{} {}: {}", style("✓").green(), self.what, style(outcome.as_ref()).dim()));
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
