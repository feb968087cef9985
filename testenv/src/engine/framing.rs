//! Decoder of ClickHouse's framing of compressed bodies (`decompress=1`).
//!
//! A frame: CityHash128 (v1.0.2) of the rest, 16 bytes · method, 1 byte · compressed size including these nine header
//! bytes, u32 · uncompressed size, u32 · compressed bytes. Integers are little-endian.

use thiserror::Error;

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
const METHOD_LZ4: u8 = 0x82;
const METHOD_NONE: u8 = 0x02;
/// ClickHouse's limit of both sizes.
const MAX_SIZE: u32 = 0x4000_0000;

/// Error in a framed body.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FramingError {
    #[error("frame {frame}: expected checksum {expected:032x}, found {found:032x}")]
    Checksum { frame: usize, expected: u128, found: u128 },
    #[error("frame {frame}: expected compression method 0x82 (LZ4) or 0x02 (none), found {found:#04x}")]
    Method { frame: usize, found: u8 },
    #[error("frame {frame}: impossible sizes, {compressed} bytes compressed and {uncompressed} uncompressed")]
    Sizes { frame: usize, compressed: u32, uncompressed: u32 },
    #[error("frame {frame}: cannot decode its LZ4 block: {reason}")]
    Block { frame: usize, reason: String },
    #[error("the body ends inside frame {frame}, {bytes} bytes after its start")]
    Truncated { frame: usize, bytes: usize },
}

/// Decodes blocks from bytes that arrive in chunks of any size.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    frame: usize,
}

impl Decoder {
    /// Appends bytes from the network.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next decoded block, or `None` until more bytes arrive.
    pub(super) fn next_block(&mut self) -> Result<Option<Vec<u8>>, FramingError> {
        let Some((checksum, rest)) = self.buffer.split_first_chunk::<CHECKSUM_BYTES>() else {
            return Ok(None);
        };
        let Some((&[method, c0, c1, c2, c3, u0, u1, u2, u3], _)) = rest.split_first_chunk::<HEADER_BYTES>()
        else {
            return Ok(None);
        };
        let (compressed, uncompressed) =
            (u32::from_le_bytes([c0, c1, c2, c3]), u32::from_le_bytes([u0, u1, u2, u3]));
        let size = compressed as usize;
        if size < HEADER_BYTES || compressed > MAX_SIZE || uncompressed > MAX_SIZE {
            return Err(FramingError::Sizes { frame: self.frame, compressed, uncompressed });
        }
        let Some(hashed) = rest.get(..size) else { return Ok(None) };
        let (expected, found) = (checksum_of(hashed), read_checksum(checksum));
        if expected != found {
            return Err(FramingError::Checksum { frame: self.frame, expected, found });
        }
        let payload = hashed.get(HEADER_BYTES..).unwrap_or_default();
        let block = match method {
            METHOD_LZ4 => lz4_flex::block::decompress(payload, uncompressed as usize)
                .map_err(|error| FramingError::Block { frame: self.frame, reason: error.to_string() })?,
            METHOD_NONE => payload.to_vec(),
            found => return Err(FramingError::Method { frame: self.frame, found }),
        };
        self.buffer.drain(..CHECKSUM_BYTES + size);
        self.frame += 1;
        Ok(Some(block))
    }

    /// Checks at the end of the body that no incomplete frame remains.
    pub(super) fn finish(&self) -> Result<(), FramingError> {
        match self.buffer.len() {
            0 => Ok(()),
            bytes => Err(FramingError::Truncated { frame: self.frame, bytes }),
        }
    }
}

/// Reads a checksum: the high half first, each half little-endian.
fn read_checksum(bytes: &[u8; CHECKSUM_BYTES]) -> u128 {
    u128::from_le_bytes(*bytes).rotate_left(64)
}

fn checksum_of(bytes: &[u8]) -> u128 {
    cityhash_rs::cityhash_102_128(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Encodes a frame as a client does.
    fn frame(block: &[u8], method: u8) -> Vec<u8> {
        let payload = if method == METHOD_LZ4 { lz4_flex::block::compress(block) } else { block.to_vec() };
        let mut hashed = vec![method];
        hashed.extend(u32::try_from(payload.len() + HEADER_BYTES).unwrap().to_le_bytes());
        hashed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        hashed.extend(payload);
        let mut framed = checksum_of(&hashed).rotate_left(64).to_le_bytes().to_vec();
        framed.extend(hashed);
        framed
    }

    proptest! {
        #[test]
        fn blocks_survive_any_split(
            blocks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), prop::sample::select(vec![METHOD_LZ4, METHOD_NONE])), 0..5),
            step in 1_usize..64,
        ) {
            let body: Vec<u8> = blocks.iter().flat_map(|(block, method)| frame(block, *method)).collect();
            let mut decoder = Decoder::default();
            let mut decoded = Vec::new();
            for piece in body.chunks(step) {
                decoder.push(piece);
                while let Some(block) = decoder.next_block().unwrap() {
                    decoded.push(block);
                }
            }
            decoder.finish().unwrap();
            prop_assert_eq!(decoded, blocks.into_iter().map(|(block, _)| block).collect::<Vec<_>>());
        }

        #[test]
        fn flipped_bit_is_detected(block in prop::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut body = frame(&block, METHOD_LZ4);
            let at = at.index(body.len());
            body[at] ^= 1 << bit;
            let mut decoder = Decoder::default();
            decoder.push(&body);
            let undetected = matches!((decoder.next_block(), decoder.finish()), (Ok(_), Ok(())));
            prop_assert!(!undetected);
        }

        #[test]
        fn truncated_body_is_an_error(block in prop::collection::vec(any::<u8>(), 1..200), cut in any::<prop::sample::Index>()) {
            let body = frame(&block, METHOD_LZ4);
            let mut decoder = Decoder::default();
            decoder.push(&body[..1 + cut.index(body.len() - 1)]);
            prop_assert_eq!(decoder.next_block(), Ok(None));
            let is_truncated = matches!(decoder.finish(), Err(FramingError::Truncated { frame: 0, .. }));
            prop_assert!(is_truncated);
        }
    }

    #[test]
    fn unknown_method_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.push(&frame(b"rows", 0x90));
        assert_eq!(decoder.next_block(), Err(FramingError::Method { frame: 0, found: 0x90 }));
    }
}
