//! Detects the format of a file without JSON.

/// Formats by first bytes: name, and advice.
const MAGIC: &[(&[u8], &str, &str)] = &[
    (b"\xff\xfe\0\0", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\x1f\x8b", "gzip within gzip", "unpack it once"),
    (b"PK\x03\x04", "a zip archive (or an Office document)", "unzip it"),
    (b"PK\x05\x06", "an empty zip archive", "import the file that belongs in it"),
    (b"\x28\xb5\x2f\xfd", "a file packed with zstd", "unpack it: zstd -d"),
    (b"\xfd7zXZ\0", "a file packed with xz", "unpack it: xz -d"),
    (b"BZh", "a file packed with bzip2", "unpack it: bzip2 -d"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"%PDF", "a PDF document", "export the runs as JSON"),
    (b"PAR1", "a Parquet file", "export the runs as JSON"),
    (b"ARROW1", "an Arrow file", "export the runs as JSON"),
    (b"Obj\x01", "an Avro file", "export the runs as JSON"),
    (b"SQLite format 3\0", "an SQLite database", "export the runs as JSON"),
    (b"\x89PNG", "a PNG image", "import the file with the runs"),
    (b"\xff\xd8\xff", "a JPEG image", "import the file with the runs"),
    (b"\x7fELF", "a program", "import the file with the runs"),
    (b"\x80\x02", "a Python pickle", "export the runs as JSON"),
    (b"\x80\x03", "a Python pickle", "export the runs as JSON"),
    (b"\x80\x04", "a Python pickle", "export the runs as JSON"),
    (b"\x80\x05", "a Python pickle", "export the runs as JSON"),
];

/// Returns the format of a file that begins with `head` and cannot be JSON, with advice.
pub(super) fn foreign(head: &[u8]) -> Option<String> {
    let named = |what: &str, then: &str| Some(format!("{what}; {then}"));
    if let Some((_, what, then)) = MAGIC.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return named(what, then);
    }
    if head.get(257..262) == Some(b"ustar") {
        return named("a tar archive", "unpack it and import the file with the runs");
    }
    // In UTF-16, every second byte of ASCII text is zero.
    let zeros = |odd: usize| head.iter().skip(odd).step_by(2).take(32).filter(|byte| **byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    let pairs = (head.len() / 2).min(32);
    if pairs > 1 && (even == 0 && odd * 2 > pairs || odd == 0 && even * 2 > pairs) {
        return named("UTF-16 text", "convert it: iconv -f UTF-16LE -t UTF-8 (or UTF-16BE)");
    }
    if head.iter().take(512).any(|byte| *byte == 0) {
        return named("binary data", "import the file with the runs");
    }
    let text = head.trim_ascii_start();
    if text.first() == Some(&b'<') {
        let lower = text.get(..text.len().min(512)).unwrap_or_default().to_ascii_lowercase();
        let html = [b"<!doctype html".as_slice(), b"<html", b"<head", b"<body"];
        let what = if html.iter().any(|tag| lower.starts_with(tag)) { "an HTML page" } else { "XML or HTML" };
        return named(what, "a download may have been answered with a page; fetch the file itself");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_detected_by_their_first_bytes() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let big = "{\"messages\": []}".encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        let mut tar = vec![b'a'; 257];
        tar.extend(b"ustar\0");
        for (head, expected) in [
            (utf16("\u{feff}{}"), "UTF-16"),
            (utf16("{\"messages\": []}"), "UTF-16"),
            (big, "UTF-16"),
            (b"PK\x03\x04\x14\0".to_vec(), "zip"),
            (b"%PDF-1.7\n".to_vec(), "PDF"),
            (tar, "tar"),
            (b"\n<!DOCTYPE html><html>".to_vec(), "HTML page"),
            (b"<?xml version=\"1.0\"?>".to_vec(), "XML"),
            (b"abc\0def".to_vec(), "binary"),
        ] {
            let found = foreign(&head).unwrap_or_default();
            assert!(found.contains(expected), "{found}, not {expected}");
        }
        for head in [b"{\"a\": 1}".as_slice(), b"", b" ", b"[", b"hello", "{\"é\":\"日本\"}".as_bytes()] {
            assert_eq!(foreign(head), None, "{head:?}");
        }
    }
}
