//! Connection to the engine, which runs queries and streams INSERTs.
#![allow(
    unsafe_code,
    reason = "the engine is a C library; this file and `library.rs` are the only ones that call into it"
)]

use std::ffi::{CStr, CString, c_char};
use std::path::Path;

use super::EngineError;
use super::library::{Library, RawConnection, RawInsert, RawResult};

/// Query parameter, `{name:Type}` in the SQL, with its value in escaped text form.
pub(super) type Parameter = (String, String);

/// Result of a statement.
#[derive(Debug, Default)]
pub(super) struct StatementResult {
    /// Result in the requested format.
    pub(super) body: Vec<u8>,
    /// Rows read from storage.
    pub(super) rows_read: u64,
    /// Rows written.
    pub(super) rows_written: u64,
}

/// Connection with its own settings and current database; each request has its own.
pub(super) struct Session {
    library: &'static Library,
    handle: *mut RawConnection,
}

// SAFETY: the library binds a connection to no thread. It only forbids two concurrent statements on one connection, which
// `&mut self` rules out.
unsafe impl Send for Session {}

impl Session {
    /// Opens a connection. The first one opens the storage in `path`. A process has one path, always spelled the same.
    pub(super) fn open(library: &'static Library, path: &Path) -> Result<Self, EngineError> {
        let failed = || EngineError::Open { path: path.to_path_buf() };
        let mut arguments = vec![CString::new("clickhouse").map_err(|_| failed())?];
        arguments.push(CString::new(format!("--path={}", path.display())).map_err(|_| failed())?);
        let mut pointers: Vec<*mut c_char> = arguments.iter().map(|text| text.as_ptr().cast_mut()).collect();
        let count = i32::try_from(pointers.len()).map_err(|_| failed())?;
        // SAFETY: `pointers` holds `count` NUL-terminated strings that outlive the call; the library copies them.
        let handle = unsafe { (library.functions.connect)(count, pointers.as_mut_ptr()) };
        // SAFETY: a non-null return value points to a connection, which may itself be null if opening failed.
        if handle.is_null() || unsafe { *handle }.is_null() {
            return Err(failed());
        }
        Ok(Self { library, handle })
    }

    fn connection(&self) -> RawConnection {
        // SAFETY: `open` checked the pointer, and it stays valid until `drop` closes the connection.
        unsafe { *self.handle }
    }

    /// Runs a statement and returns the complete result.
    pub(super) fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[Parameter],
    ) -> Result<StatementResult, EngineError> {
        let bound = BoundParameters::new(parameters);
        // SAFETY: every pointer comes with the length of the memory behind it, which outlives the call.
        let result = unsafe {
            (self.library.functions.query)(
                self.connection(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                bound.names.as_ptr(),
                bound.name_lengths.as_ptr(),
                bound.values.as_ptr(),
                bound.value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        take_result(self.library, result)
    }

    /// Starts an INSERT whose rows follow in pieces. It is listed in `system.processes` from then on.
    pub(super) fn insert(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[Parameter],
    ) -> Result<Insert<'_>, EngineError> {
        let bound = BoundParameters::new(parameters);
        // SAFETY: every pointer comes with the length of the memory behind it, which outlives the call.
        let stream = unsafe {
            (self.library.functions.insert)(
                self.connection(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                bound.names.as_ptr(),
                bound.name_lengths.as_ptr(),
                bound.values.as_ptr(),
                bound.value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        let insert = Insert { session: self, stream, finished: false };
        match insert.error() {
            None => Ok(insert),
            Some(error) => Err(error),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: the handle came from `connect`, is closed once, and no statement borrows the session any longer.
        unsafe { (self.library.functions.close)(self.handle) };
    }
}

/// INSERT in progress. Dropping it before [`Insert::finish`] cancels it.
pub(super) struct Insert<'a> {
    session: &'a mut Session,
    stream: RawInsert,
    finished: bool,
}

impl Insert<'_> {
    /// Appends bytes; blocks while the engine is busy.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let functions = &self.session.library.functions;
        // SAFETY: the stream is open, and the library copies `bytes` before it returns.
        let state = unsafe { (functions.insert_append)(self.stream, bytes.as_ptr().cast(), bytes.len()) };
        if state == 0 {
            return Ok(());
        }
        // The reason of a parse error is in the result of `done`; other errors are in the stream.
        Err(self.error().or_else(|| self.done().err()).unwrap_or(EngineError::NoOutcome))
    }

    /// Ends the data and commits.
    pub(super) fn finish(mut self) -> Result<StatementResult, EngineError> {
        self.done()
    }

    fn done(&mut self) -> Result<StatementResult, EngineError> {
        self.finished = true;
        // SAFETY: the stream is open; `finished` prevents `drop` from cancelling it.
        let result = unsafe { (self.session.library.functions.insert_done)(self.stream) };
        take_result(self.session.library, result)
    }

    fn error(&self) -> Option<EngineError> {
        // SAFETY: the stream handle is valid until `drop`; the text is copied at once.
        unsafe { message((self.session.library.functions.insert_error)(self.stream)) }
            .map(EngineError::Statement)
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        let functions = &self.session.library.functions;
        // SAFETY: the handle is valid, cancelled at most once and only when unfinished, and destroyed once.
        unsafe {
            if !self.finished {
                (functions.insert_cancel)(self.stream);
            }
            (functions.destroy_insert)(self.stream);
        }
    }
}

/// Parameters as the parallel arrays of the library. Borrows the texts.
struct BoundParameters {
    names: Vec<*const c_char>,
    name_lengths: Vec<usize>,
    values: Vec<*const c_char>,
    value_lengths: Vec<usize>,
}

impl BoundParameters {
    fn new(parameters: &[Parameter]) -> Self {
        Self {
            names: parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect(),
            name_lengths: parameters.iter().map(|(name, _)| name.len()).collect(),
            values: parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect(),
            value_lengths: parameters.iter().map(|(_, value)| value.len()).collect(),
        }
    }
}

fn take_result(library: &Library, result: RawResult) -> Result<StatementResult, EngineError> {
    if result.is_null() {
        return Err(EngineError::NoOutcome);
    }
    let functions = &library.functions;
    // SAFETY: `result` is a valid result until it is destroyed below; texts and bytes are copied before that.
    unsafe {
        let outcome = match message((functions.result_error)(result)) {
            Some(text) => Err(EngineError::Statement(text)),
            None => {
                let (buffer, length) = ((functions.result_buffer)(result), (functions.result_length)(result));
                let body = if buffer.is_null() || length == 0 {
                    Vec::new()
                } else {
                    std::slice::from_raw_parts(buffer.cast::<u8>(), length).to_vec()
                };
                Ok(StatementResult {
                    body,
                    rows_read: (functions.result_rows_read)(result),
                    rows_written: (functions.result_rows_written)(result),
                })
            }
        };
        (functions.destroy_result)(result);
        outcome
    }
}

/// Copies an error text; null and the empty text mean no error.
///
/// # Safety
/// `text` is null or a NUL-terminated string that is valid during the call.
unsafe fn message(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and NUL-terminated as required of the caller.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned();
    (!text.is_empty()).then_some(text)
}
