//! Progress of a starting stack.

use agentgov_testenv::{Event, Part};

use super::{Progress, lock};
use crate::print::{style, text};

impl Progress {
    /// Shows an event of a starting stack.
    pub fn show_stack_event(&self, event: &Event) {
        match event {
            Event::Chosen { backend, because } if because.is_empty() => {
                self.line(&text!("  stack: {}", backend));
            }
            Event::Chosen { backend, because } => {
                self.line(&text!("  stack: {}, set by {}", backend, because.join(", ")));
            }
            Event::Warning { message } => self.line(&text!("  warning: {}", message)),
            Event::Downloading { part, what, bytes } => {
                if !self.terminal {
                    self.line(&text!("  downloading {} (once; kept in the user's cache)", what));
                }
                self.add_part(part, &format!("downloading {what}"), *bytes, true);
            }
            Event::Downloaded { part, bytes } => {
                let mut running = lock(&self.running);
                if let Some(id) = running.parts.get(&part.to_string()).copied() {
                    running.at(id, *bytes, None);
                }
            }
            Event::Installed { part } => self.finish_part(part, "downloaded"),
            Event::Starting { part } => self.add_part(part, &format!("starting {part}"), None, false),
            Event::Ready { part, after } => {
                self.finish_part(part, &format!("up after {:.1} s", after.as_secs_f64()));
            }
        }
    }

    fn add_part(&self, part: &Part, what: &str, total: Option<u64>, bytes: bool) {
        let id = self.add(what, total, bytes);
        lock(&self.running).parts.insert(part.to_string(), id);
    }

    fn finish_part(&self, part: &Part, how: &str) {
        let id = lock(&self.running).parts.remove(&part.to_string());
        if let Some(id) = id {
            self.remove(id);
        }
        self.line(&text!("{} {} {}", style("✓").green(), part, how));
    }
}
