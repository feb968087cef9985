//! Minimal HTTP client for requests that ordinary clients do not send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Response with its body.
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request with a body of known length.
pub fn request(method: &str, url: &str, headers: &str, body: &[u8]) -> Response {
    let mut stream = open(method, url, &format!("{headers}Content-Length: {}\r\n", body.len()));
    stream.write_all(body).unwrap();
    read_response(stream)
}

/// Sends the head of a request and leaves the body to the caller.
pub fn open(method: &str, url: &str, headers: &str) -> TcpStream {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n")
        .unwrap();
    stream
}

/// Sends one chunk of a chunked body.
pub fn chunk(stream: &mut TcpStream, bytes: &[u8]) {
    write!(stream, "{:x}\r\n", bytes.len()).unwrap();
    stream.write_all(bytes).unwrap();
    stream.write_all(b"\r\n").unwrap();
}

/// Reads the response to its end.
pub fn read_response(mut stream: TcpStream) -> Response {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = bytes[end + 4..].to_vec();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        return Response { status, body: join_chunks(&body) };
    }
    Response { status, body }
}

fn join_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut joined = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        joined.extend(&body[end + 2..end + 2 + size]);
        body = &body[(end + size + 4).min(body.len())..];
    }
    joined
}
