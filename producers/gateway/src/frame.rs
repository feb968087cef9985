//! Frames of MCP over stdio: one JSON text a line, read within a bound on memory.

use std::io::{self, BufRead};

/// Maximum bytes of a frame. A peer that sends more without a line feed costs no more memory than this.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// One line of a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The line, without its line feed.
    Whole(Vec<u8>),
    /// The line is longer than the bound. Its rest is not read yet.
    TooLong,
}

/// Reads lines within a bound.
#[derive(Debug)]
pub struct FrameReader<R> {
    input: R,
    max_bytes: usize,
}

impl<R: BufRead> FrameReader<R> {
    /// Creates a reader of lines of at most `max_bytes`.
    pub const fn new(input: R, max_bytes: usize) -> Self {
        Self { input, max_bytes }
    }

    /// Returns the next line that is not blank; `None` at the end of the input.
    ///
    /// # Errors
    /// If reading fails.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let mut line = Vec::new();
            match self.read_line(&mut line)? {
                LineEnd::TooLong => return Ok(Some(Frame::TooLong)),
                _ if !line.iter().all(u8::is_ascii_whitespace) => return Ok(Some(Frame::Whole(line))),
                LineEnd::Newline => {}
                LineEnd::EndOfInput => return Ok(None),
            }
        }
    }

    /// Reads and drops the rest of the current line, in constant memory.
    ///
    /// # Errors
    /// If reading fails.
    pub fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let chunk = self.input.fill_buf()?;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let len = chunk.len();
            self.input.consume(end.map_or(len, |end| end + 1));
            if end.is_some() || len == 0 {
                return Ok(());
            }
        }
    }

    fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<LineEnd> {
        loop {
            let chunk = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                chunk => chunk?,
            };
            if chunk.is_empty() {
                return Ok(LineEnd::EndOfInput);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
            if line.len() + part.len() > self.max_bytes {
                return Ok(LineEnd::TooLong);
            }
            line.extend_from_slice(part);
            let consumed = part.len() + usize::from(end.is_some());
            self.input.consume(consumed);
            if end.is_some() {
                return Ok(LineEnd::Newline);
            }
        }
    }
}

enum LineEnd {
    Newline,
    EndOfInput,
    TooLong,
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use super::*;

    fn frames(input: impl Read, max_bytes: usize) -> Vec<Frame> {
        let mut reader = FrameReader::new(BufReader::with_capacity(3, input), max_bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            if frame == Frame::TooLong {
                reader.skip_line().unwrap();
            }
            frames.push(frame);
        }
        frames
    }

    fn whole(line: &str) -> Frame {
        Frame::Whole(line.as_bytes().to_vec())
    }

    #[test]
    fn lines_keep_their_bytes_and_blank_ones_are_skipped() {
        let found = frames(&b"{\"a\": 1}\r\n\n \t\r\n{}\nlast"[..], 100);
        assert_eq!(found, [whole("{\"a\": 1}\r"), whole("{}"), whole("last")]);
    }

    #[test]
    fn line_above_the_bound_is_skipped_and_the_next_one_is_read() {
        let found = frames(&b"12345\n123456\n1234567890123\nab\n"[..], 5);
        assert_eq!(found, [whole("12345"), Frame::TooLong, Frame::TooLong, whole("ab")]);
    }

    #[test]
    fn endless_line_is_too_long_within_the_bound() {
        let mut reader = FrameReader::new(BufReader::new(io::repeat(b'a')), 1_000);
        assert_eq!(reader.next_frame().unwrap(), Some(Frame::TooLong));
    }
}
