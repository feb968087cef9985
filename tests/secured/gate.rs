//! TLS and a login in front of a server without either, as a reverse proxy does for registry and ClickHouse.

use std::net::TcpListener;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_native_tls::native_tls::{Identity, TlsAcceptor};

use crate::authority::Signed;

/// Listens on 127.0.0.1 and forwards connections whose first request has a header that contains `login`. Returns the URL
/// that replaces `server`.
pub fn open(server: &str, signed: &Signed, login: &'static str) -> String {
    let (target, path) = match server.trim_start_matches("http://").split_once('/') {
        Some((target, path)) => (target.to_owned(), format!("/{path}")),
        None => (server.trim_start_matches("http://").to_owned(), String::new()),
    };
    let identity = Identity::from_pkcs8(&signed.certificate_pem, &signed.key_pem).unwrap();
    let acceptor = tokio_native_tls::TlsAcceptor::from(TlsAcceptor::new(identity).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, target) = (acceptor.clone(), target.clone());
                // Disconnects and distrust of a client are the client's problem.
                tokio::spawn(async move { serve(stream, acceptor, &target, login).await.ok() });
            }
        })
    });
    format!("https://{address}{path}")
}

async fn serve(
    stream: TcpStream,
    acceptor: tokio_native_tls::TlsAcceptor,
    target: &str,
    login: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut client = acceptor.accept(stream).await?;
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    if !String::from_utf8_lossy(&head).to_ascii_lowercase().contains(&login.to_ascii_lowercase()) {
        client
            .write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .await?;
        return Ok(client.shutdown().await?);
    }
    let mut server = TcpStream::connect(target).await?;
    server.write_all(&head).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
