//! C interface of the engine's library, loaded once and never unloaded.
#![allow(
    unsafe_code,
    reason = "the engine is a C library; this file and `session.rs` are the only ones that call into it"
)]

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

use super::EngineError;

/// Open connection of the library.
pub(super) type RawConnection = *mut c_void;
/// Query result, owned by the caller until it is destroyed.
pub(super) type RawResult = *mut c_void;
/// INSERT in progress, owned by the caller until it is destroyed.
pub(super) type RawInsert = *mut c_void;

/// Declares the table of functions and its loader from one list of names.
macro_rules! functions {
    ($($name:ident => $symbol:literal : fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// Functions of the library that the server uses. Their contracts are in `chdb.h` of the library.
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }

        impl Functions {
            fn resolve(library: &libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the signatures are those of chdb.h of the version that stack.lock pins, and the
                    // pointers outlive their use because the library is never unloaded (`Library::load`).
                    $($name: *unsafe {
                        library.get::<unsafe extern "C" fn($($arg),*) $(-> $ret)?>($symbol.as_bytes())?
                    },)*
                })
            }
        }
    };
}

functions! {
    connect => "chdb_connect": fn(c_int, *mut *mut c_char) -> *mut RawConnection;
    close => "chdb_close_conn": fn(*mut RawConnection);
    set_signal_handlers => "chdb_set_signal_handlers_enabled": fn(c_int);
    query => "chdb_query_with_params_n": fn(
        RawConnection, *const c_char, usize, *const c_char, usize,
        *const *const c_char, *const usize, *const *const c_char, *const usize, usize
    ) -> RawResult;
    result_buffer => "chdb_result_buffer": fn(RawResult) -> *const c_char;
    result_length => "chdb_result_length": fn(RawResult) -> usize;
    result_error => "chdb_result_error": fn(RawResult) -> *const c_char;
    result_rows_read => "chdb_result_storage_rows_read": fn(RawResult) -> u64;
    result_rows_written => "chdb_result_rows_written": fn(RawResult) -> u64;
    destroy_result => "chdb_destroy_query_result": fn(RawResult);
    insert => "chdb_stream_insert_with_params_n": fn(
        RawConnection, *const c_char, usize, *const c_char, usize,
        *const *const c_char, *const usize, *const *const c_char, *const usize, usize
    ) -> RawInsert;
    insert_error => "chdb_stream_insert_error": fn(RawInsert) -> *const c_char;
    insert_append => "chdb_stream_append": fn(RawInsert, *const c_void, usize) -> c_int;
    insert_done => "chdb_stream_done": fn(RawInsert) -> RawResult;
    insert_cancel => "chdb_stream_cancel_insert": fn(RawInsert);
    destroy_insert => "chdb_destroy_insert_stream": fn(RawInsert);
}

/// Loaded engine. One per process, since the library has process-wide state.
pub(super) struct Library {
    pub(super) functions: Functions,
}

impl Library {
    /// Loads the library and leaves signal handling to this process. The library stays loaded, since its background threads
    /// run in its code.
    pub(super) fn load(path: &Path) -> Result<&'static Self, EngineError> {
        let unusable = |source| EngineError::Library {
            path: path.to_path_buf(),
            reason: libloading::Error::to_string(&source),
        };
        // SAFETY: loading runs the library's initialisers. stack.lock pins the file by digest.
        let library = unsafe { libloading::Library::new(path) }.map_err(unusable)?;
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        let functions = Functions::resolve(library).map_err(unusable)?;
        // SAFETY: takes a plain integer and is called before the first connection, as chdb.h requires.
        unsafe { (functions.set_signal_handlers)(0) };
        Ok(Box::leak(Box::new(Self { functions })))
    }
}
