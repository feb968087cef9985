//! Output to stdout and stderr; no other module prints.
//!
//! [`outln!`] and [`errln!`] escape every argument of a type that may hold outside text, so that no record, file or server
//! can move the cursor, forge a line or hide text. Not escaped: numbers, [`Text`], and values that are [`style`]d or
//! wrapped in a type of [`agentgov_schemas::escape`]. The format string must not capture variables (`{name}`), because the
//! macros cannot escape them: pass them as arguments.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use agentgov_schemas::escape::{Escaped, EscapedBytes, EscapedLines, is_escaped};
use agentgov_service::ExitCode;
use console::{Alignment, StyledObject, pad_str};
use serde::Serialize;

use crate::failure::Failure;

/// Prints a line to stdout. See [`self`].
#[macro_export]
macro_rules! outln {
    () => { $crate::print::stdout_line(&$crate::print::Text::default()) };
    ($format:literal $(, $argument:expr)* $(,)?) => {
        $crate::print::stdout_line(&$crate::print::text!($format $(, $argument)*))
    };
}

/// Prints a line to stderr. See [`self`].
#[macro_export]
macro_rules! errln {
    ($format:literal $(, $argument:expr)* $(,)?) => {
        $crate::print::stderr_line(&$crate::print::text!($format $(, $argument)*))
    };
}

/// Formats a [`Text`], with the rules of [`outln!`].
#[macro_export]
macro_rules! text {
    ($format:literal $(, $argument:expr)* $(,)?) => {{
        #[allow(unused_imports, reason = "not needed where every argument is printable")]
        use $crate::print::Outside as _;
        // `concat!` prevents the format string from capturing variables.
        $crate::print::Text::from_escaped(format!(
            concat!($format, "")
            $(, $crate::print::Argument(&$argument).printed())*
        ))
    }};
}

pub use crate::{errln, outln, text};

/// Text whose outside parts are escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Wraps text that is already escaped; for [`text!`].
    pub fn from_escaped(text: String) -> Self {
        Self(text)
    }

    /// Appends a line.
    pub fn push_line(&mut self, line: &Self) {
        self.0.push_str(&line.0);
        self.0.push('\n');
    }

    /// Appends text.
    pub fn push(&mut self, text: &Self) {
        self.0.push_str(&text.0);
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Joins texts.
    pub fn join(texts: &[Self], between: &'static str) -> Self {
        Self(texts.iter().map(Self::as_str).collect::<Vec<_>>().join(between))
    }
}

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Escaped(text).to_string())
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl<T: Display> From<StyledObject<Escaped<T>>> for Text {
    fn from(styled: StyledObject<Escaped<T>>) -> Self {
        Self(styled.to_string())
    }
}

/// Styles a value and escapes its text.
pub fn style<T: Display>(value: T) -> StyledObject<Escaped<T>> {
    console::style(Escaped(value))
}

/// Styles text that is already escaped.
pub fn style_text(text: Text) -> StyledObject<Text> {
    console::style(text)
}

/// Pads to a width, text on the left.
pub fn left(text: impl Into<Text>, width: usize) -> Text {
    Text(pad_str(text.into().as_str(), width, Alignment::Left, None).into_owned())
}

/// Pads to a width, text on the right.
pub fn right(text: impl Into<Text>, width: usize) -> Text {
    Text(pad_str(text.into().as_str(), width, Alignment::Right, None).into_owned())
}

/// Types whose text never needs escaping.
pub trait Printable: Display {}

macro_rules! printable {
    ($($type:ty),*) => { $(impl Printable for $type {})* };
}

printable!(Text, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64, bool);
impl<T: Display> Printable for Escaped<T> {}
impl<T: Display> Printable for EscapedLines<T> {}
impl<T: AsRef<[u8]>> Printable for EscapedBytes<T> {}
impl<T: Printable> Printable for StyledObject<T> {}
impl<T: Printable + ?Sized> Printable for &T {}

/// Argument of [`text!`]. Its inherent method takes precedence over that of [`Outside`].
pub struct Argument<'a, T: ?Sized>(pub &'a T);

impl<'a, T: Printable + ?Sized> Argument<'a, T> {
    /// Returns the value unchanged.
    pub fn printed(&self) -> &'a T {
        self.0
    }
}

/// Arguments of [`text!`] that may hold outside text.
pub trait Outside {
    /// Returns the value, escaped.
    fn printed(&self) -> impl Display;
}

impl<T: Display + ?Sized> Outside for Argument<'_, T> {
    fn printed(&self) -> impl Display {
        Escaped(self.0)
    }
}

/// Set once a result was printed as JSON.
static JSON_PRINTED: AtomicBool = AtomicBool::new(false);

/// Prints a failure as JSON, unless a result was already printed: stdout must hold one JSON document.
pub fn json_failure(failure: &Failure) {
    if !JSON_PRINTED.load(Ordering::Relaxed) {
        // An error of stdout is reported by [`finish`].
        let _ = json(&failure.to_json());
    }
}

/// Prints a value as JSON and escapes characters that a terminal interprets.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value).map_err(|e| Failure::new(ExitCode::Failed, e))?;
    JSON_PRINTED.store(true, Ordering::Relaxed);
    stdout_line(&Text(escape_json(&json)));
    Ok(())
}

/// Prints a value as one line of JSON.
pub fn json_line<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let json = serde_json::to_string(value).map_err(|e| Failure::new(ExitCode::Failed, e))?;
    JSON_PRINTED.store(true, Ordering::Relaxed);
    stdout_line(&Text(escape_json(&json)));
    Ok(())
}

/// Escapes characters that a terminal interprets. Outside of JSON strings only line feeds occur.
pub fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_escaped(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// First error of stdout; nothing is written after it.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Writes a line to stdout. [`finish`] returns the first error.
pub fn stdout_line(line: &Text) {
    #[cfg(test)]
    if capture::line(line) {
        return;
    }
    write_stdout(|out| writeln!(out, "{}", line.0));
}

/// Clears the screen if stdout is a terminal.
pub fn clear_screen() {
    let terminal = console::Term::stdout();
    if terminal.is_term() {
        write_stdout(|_| terminal.clear_screen());
    }
}

#[allow(clippy::disallowed_methods, reason = "here stdout is written")]
fn write_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    if FAILED.get().is_none()
        && let Err(error) = write(&mut io::stdout()).and_then(|()| io::stdout().flush())
    {
        let _ = FAILED.set(error);
    }
}

/// Writes a line to stderr. Errors are ignored: there is no other channel to report them.
#[allow(clippy::disallowed_methods, reason = "here stderr is written")]
pub fn stderr_line(line: &Text) {
    #[cfg(test)]
    if capture::line(line) {
        return;
    }
    let _ = writeln!(io::stderr(), "{}", line.0);
}

/// Prints a panic and escapes its message, which may quote a record.
pub fn panicked(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    errln!(
        "agentgov: thread `{}` panicked at {}: {}",
        thread.name().unwrap_or("without a name"),
        place,
        message.unwrap_or("no message")
    );
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        errln!("{}", EscapedLines(backtrace));
    }
}

/// Prints clap's help, version or usage error, and returns the exit code.
pub fn clap(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    let usage = if error.use_stderr() { ExitCode::Usage } else { ExitCode::Done };
    match printed {
        Err(e) if !error.use_stderr() && e.kind() != io::ErrorKind::BrokenPipe => {
            errln!("agentgov: standard output cannot be written: {}", e);
            ExitCode::Failed
        }
        _ => usage,
    }
}

/// Returns true once writing to stdout has failed, so that repeating commands can end.
pub fn is_stdout_gone() -> bool {
    FAILED.get().is_some()
}

/// Returns the first error of stdout. A closed pipe, as with `head`, is not an error.
pub fn finish() -> Result<(), Failure> {
    match FAILED.get() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(ExitCode::Failed, format!("standard output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Captures the output of a test's thread.
#[cfg(test)]
pub mod capture {
    use std::cell::RefCell;

    use super::Text;

    thread_local! {
        static CAPTURED: RefCell<Option<String>> = const { RefCell::new(None) };
    }

    /// Returns the lines that `print` prints in this thread.
    pub fn lines(print: impl FnOnce()) -> String {
        CAPTURED.set(Some(String::new()));
        print();
        CAPTURED.take().unwrap_or_default()
    }

    pub(super) fn line(line: &Text) -> bool {
        CAPTURED.with_borrow_mut(|captured| {
            if let Some(text) = captured {
                text.push_str(line.as_str());
                text.push('\n');
            }
            captured.is_some()
        })
    }
}

/// Held by tests that set the panic hook or watch for panics.
#[cfg(test)]
pub static HOOK: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_text_in_arguments_is_escaped() {
        let hostile = "a\n\u{1b}[2Kb";
        let shown = r"a\u{a}\u{1b}[2Kb";
        let styled = console::style(hostile).red().force_styling(true);
        let io = io::Error::other(hostile);
        let printed = capture::lines(|| {
            outln!("{} {}", hostile, String::from(hostile));
            outln!("{:<3}|{}", &hostile, io);
            outln!("{}", text!("{}{}", hostile, 7));
            errln!("{}", left(hostile, 3));
        });
        assert_eq!(printed, format!("{shown} {shown}\n{shown}|{shown}\n{shown}7\n{shown}\n"));
        // Our own colour codes pass; colour codes around unescaped outside text are shown as text.
        assert!(text!("{}", styled).as_str().starts_with(r"\u{1b}[31m"));
        let red = text!("{}", style(hostile).red().force_styling(true));
        assert_eq!(red.as_str(), format!("\u{1b}[31m{shown}\u{1b}[0m"));
    }

    #[test]
    fn panic_message_is_escaped() {
        let _alone = HOOK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(panicked));
        let printed = capture::lines(|| {
            assert!(std::panic::catch_unwind(|| panic!("{}", "row\n\u{1b}[2K")).is_err());
        });
        std::panic::set_hook(before);
        assert!(printed.contains(r"print.rs") && printed.contains(r": row\u{a}\u{1b}[2K"), "{printed}");
    }

    #[test]
    fn json_keeps_its_value_without_terminal_escapes() {
        let hostile = "\u{9b}2K\u{202e}\u{e0041}\u{7f}\n\"";
        let value = serde_json::json!({ hostile: [hostile, 1] });
        let printed = capture::lines(|| json(&value).unwrap());
        assert!(!printed.contains(|c| c != '\n' && is_escaped(c)), "{printed:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap(), value);
    }
}
