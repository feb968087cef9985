//! Headers of a record, as Kafka holds them. rdkafka 0.39 unwraps the name of a header as UTF-8 and panics if it is
//! not, and any client can write such a name. This module reads the names from librdkafka directly.
//!
//! librdkafka returns a name as a C string, so a NUL cuts a name short. It returns no headers for a record with more
//! than 100,000.
#![allow(
    unsafe_code,
    reason = "librdkafka's own headers have no safe wrapper that takes a name as bytes; each pointer lives as long as the message"
)]

use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::{null, null_mut};

use rdkafka::bindings::{rd_kafka_header_get_all, rd_kafka_headers_t, rd_kafka_message_headers};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;

/// Name and value of a header; a value can be absent.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// Headers of a record, in order.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// Null if there are no headers.
    native: *const rd_kafka_headers_t,
    next: usize,
    /// Lifetime of the message, which owns the headers.
    message: PhantomData<&'a ()>,
}

impl<'a> Headers<'a> {
    /// Creates an empty iterator.
    pub const fn none() -> Self {
        Self { native: null(), next: 0, message: PhantomData }
    }

    /// Returns the headers of a message.
    pub fn of(message: &'a BorrowedMessage<'_>) -> Self {
        let mut native = null_mut();
        // SAFETY: `message` keeps the native message alive while it is borrowed, and no other thread parses its
        // headers: a stage reads a message in the thread that polled it. librdkafka writes a pointer to headers that
        // the message owns, or nothing.
        let code = unsafe { rd_kafka_message_headers(message.ptr(), &raw mut native) };
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Self { native, ..Self::none() },
            _ => Self::none(),
        }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        if self.native.is_null() {
            return None;
        }
        let (mut name, mut value, mut size) = (null(), null(), 0);
        // SAFETY: `native` points to headers that live and do not change for 'a. The other pointers point to locals of
        // the types that the function writes. For an index after the last header the function returns an error code.
        let code = unsafe {
            rd_kafka_header_get_all(self.native, self.next, &raw mut name, &raw mut value, &raw mut size)
        };
        if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return None;
        }
        self.next += 1;
        // SAFETY: librdkafka ends each name with a NUL, and stores it with the headers, which live for 'a.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        let value = match size {
            _ if value.is_null() => None,
            0 => Some(&[][..]),
            // SAFETY: a value that is not null has `size` bytes, stored with the headers, which live for 'a.
            size => Some(unsafe { std::slice::from_raw_parts(value.cast::<u8>(), size) }),
        };
        Some((name, value))
    }
}
