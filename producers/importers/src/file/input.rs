//! Input of an import, which can be read several times.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use agentgov_schemas::Digest;
use flate2::bufread::GzDecoder;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// Maximum unpacked bytes of a gzip file. It bounds the work that a small file can cause; the bytes are not held in memory.
pub const MAX_UNPACKED_BYTES: u64 = 16 << 30;

const GZIP: &[u8] = &[0x1f, 0x8b];
const BUFFER: usize = 64 << 10;

/// A file to import. It is read several times, since the whole file is checked before any event is published.
#[derive(Debug)]
pub struct Input<'b> {
    name: String,
    from: From<'b>,
}

#[derive(Debug)]
enum From<'b> {
    Bytes(&'b [u8]),
    File(PathBuf),
    Copy(NamedTempFile),
}

impl<'b> Input<'b> {
    /// Creates an input from bytes in memory, with a name for messages.
    pub fn bytes(name: &str, bytes: &'b [u8]) -> Self {
        Self { name: name.to_owned(), from: From::Bytes(bytes) }
    }

    /// Opens a file, or standard input for `-`. Copies input that can be read only once (a pipe, a socket) to a temporary file,
    /// which is removed when the value is dropped.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::copy("standard input", &mut io::stdin().lock());
        }
        let name = path.display().to_string();
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "expected a file, found a folder"));
        }
        if metadata.is_file() {
            return Ok(Self { name, from: From::File(path.to_owned()) });
        }
        Self::copy(&name, &mut file)
    }

    fn copy(name: &str, from: &mut dyn Read) -> io::Result<Self> {
        let folder = std::env::temp_dir();
        let failed = |error: io::Error| {
            let text = format!("cannot be copied to a temporary file in {}: {error}", folder.display());
            io::Error::new(error.kind(), text)
        };
        let mut copy = NamedTempFile::new().map_err(failed)?;
        io::copy(from, copy.as_file_mut()).and_then(|_| copy.as_file_mut().flush()).map_err(failed)?;
        Ok(Self { name: name.to_owned(), from: From::Copy(copy) })
    }

    /// Returns the name for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens a reader at the start. Unpacks gzip.
    pub(crate) fn reader(&self) -> io::Result<Reader<'_>> {
        let raw: Box<dyn Read + '_> = match &self.from {
            From::Bytes(bytes) => Box::new(*bytes),
            From::File(path) => Box::new(File::open(path)?),
            From::Copy(copy) => {
                let mut file = copy.reopen()?;
                file.seek(SeekFrom::Start(0))?;
                Box::new(file)
            }
        };
        let mut raw = BufReader::with_capacity(BUFFER, raw);
        let gzip = raw.fill_buf()?.starts_with(GZIP);
        let unpacked: Box<dyn Read + '_> =
            if gzip { Box::new(Members(Some(GzDecoder::new(raw)))) } else { Box::new(raw) };
        let bytes = Digesting {
            unpacked,
            gzip,
            limit: MAX_UNPACKED_BYTES,
            count: 0,
            sha256: Sha256::new(),
            ending: None,
        };
        Ok(BufReader::with_capacity(BUFFER, bytes))
    }
}

/// Unpacks gzip with several members. Skips zeros after the last member, as gzip(1) does, since tapes and block devices pad
/// with zeros.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(member) = &mut self.0 else { return Ok(0) };
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let raw = member.get_mut();
            let mut padded = false;
            loop {
                let rest = raw.fill_buf()?;
                let zeros = rest.iter().take_while(|byte| **byte == 0).count();
                if rest.is_empty() {
                    return Ok(0);
                }
                if zeros < rest.len() {
                    padded |= zeros > 0;
                    break;
                }
                padded = true;
                raw.consume(zeros);
            }
            if padded {
                let text = "bytes behind the zeros that follow a member";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            self.0 = self.0.take().map(|member| GzDecoder::new(member.into_inner()));
        }
    }
}

/// Reader of an [`Input`].
pub(crate) type Reader<'i> = BufReader<Digesting<'i>>;

/// End of the bytes.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The end of the file, with the digest of all unpacked bytes.
    Whole(Digest),
    /// The gzip data is damaged, or above the limit when unpacked.
    Damaged(String),
    /// A read error.
    Failed(io::Error),
}

/// Computes the digest of the read bytes. An error ends the bytes; [`Digesting::ending`] returns it.
pub(crate) struct Digesting<'i> {
    unpacked: Box<dyn Read + 'i>,
    gzip: bool,
    limit: u64,
    count: u64,
    sha256: Sha256,
    ending: Option<Ending>,
}

impl Digesting<'_> {
    /// Reads the rest, and returns how the bytes ended.
    pub(crate) fn ending(mut self) -> Ending {
        let mut rest = vec![0; BUFFER];
        while let Ok(1..) = self.read(&mut rest) {}
        self.ending.unwrap_or_else(|| Ending::Whole(Digest::from_bytes(self.sha256.finalize().into())))
    }

    fn end(&mut self, ending: Ending) -> io::Result<usize> {
        self.ending = Some(ending);
        Ok(0)
    }
}

impl Read for Digesting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use io::ErrorKind::{Interrupted, InvalidData, InvalidInput, UnexpectedEof};
        if self.ending.is_some() {
            return Ok(0);
        }
        match self.unpacked.read(buffer) {
            Ok(count) => {
                self.sha256.update(buffer.get(..count).unwrap_or_default());
                self.count += count as u64;
                if self.gzip && self.count > self.limit {
                    let text =
                        format!("gzip that unpacks to more than {} bytes; unpack and split it", self.limit);
                    return self.end(Ending::Damaged(text));
                }
                Ok(count)
            }
            Err(error) if error.kind() == Interrupted => Err(error),
            Err(error) if self.gzip && matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof) => {
                let text =
                    format!("gzip that is damaged or cut off behind {} unpacked bytes: {error}", self.count);
                self.end(Ending::Damaged(text))
            }
            Err(error) => self.end(Ending::Failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_beyond_the_limit_is_refused() {
        let bytes = Digesting {
            unpacked: Box::new(io::repeat(b' ')),
            gzip: true,
            limit: 1 << 20,
            count: 0,
            sha256: Sha256::new(),
            ending: None,
        };
        let Ending::Damaged(text) = bytes.ending() else { panic!() };
        assert!(text.contains("more than 1048576 bytes"), "{text}");
    }
}
