//! INSERT whose rows are passed to the engine while the body arrives.
//!
//! ```text
//! network ──frames──► receive() ──pieces──► feed() ──append──► engine
//!                     async task            blocking thread
//! ```
//! Only [`Piece::End`] commits. If the body breaks off, or the client disconnects and the request's task is dropped, the
//! channel closes without it and the INSERT is cancelled.

use std::time::Duration;

use axum::body::BodyDataStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::EngineError;
use super::framing::Decoder;
use super::session::{Parameter, Session, StatementResult};

/// Capacity of the channel to the engine, before the client is throttled.
pub(super) const MAX_QUEUED_PIECES: usize = 4;

/// Message from the network task to the engine thread.
pub(super) enum Piece {
    /// Rows in the INSERT's format.
    Data(Vec<u8>),
    /// The body has arrived completely.
    End,
}

/// Reads the body to its end, decodes it and passes it on. Continues reading after the receiver is gone, so that the client
/// receives the response.
pub(super) async fn receive(
    mut body: BodyDataStream,
    framed: bool,
    receive_timeout: Duration,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), EngineError> {
    let mut decoder = Decoder::default();
    loop {
        let next = timeout(receive_timeout, body.next())
            .await
            .map_err(|_| EngineError::Stalled(receive_timeout.as_secs()))?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|error| EngineError::Truncated(error.to_string()))?;
        if pieces.is_closed() {
            continue;
        }
        if !framed {
            // A closed channel is detected at the next chunk; `feed` returns the engine's error.
            let _ = pieces.send(Piece::Data(chunk.to_vec())).await;
            continue;
        }
        decoder.push(&chunk);
        while let Some(block) = decoder.next_block()? {
            let _ = pieces.send(Piece::Data(block)).await;
        }
    }
    decoder.finish()?;
    let _ = pieces.send(Piece::End).await;
    Ok(())
}

/// Starts the INSERT immediately, so that it is visible to others, and feeds it until its end.
pub(super) fn feed(
    session: &mut Session,
    statement: &[u8],
    format: &str,
    parameters: &[Parameter],
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<StatementResult, EngineError> {
    let mut insert = session.insert(statement, format, parameters)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(bytes)) => insert.append(&bytes)?,
            Some(Piece::End) => return insert.finish(),
            None => return Err(EngineError::Truncated("the client disconnected".to_owned())),
        }
    }
}
