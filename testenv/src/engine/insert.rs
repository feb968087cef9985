//! An INSERT whose rows are handed to the engine while the body is still arriving.
//!
//! ```text
//! network ──frames──► receive() ──pieces──► feed() ──append──► engine
//!                     async task            blocking thread
//! ```
//! Only [`Piece::End`] commits. If the body breaks off, or the request's task is dropped because the client went
//! away, the channel closes without it and the INSERT is cancelled.

use std::time::Duration;

use axum::body::BodyDataStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::EngineError;
use super::framing::Decoder;
use super::session::{Answer, Parameter, Session};

/// How many pieces wait for the engine before the client is held back.
pub(super) const PIECES: usize = 4;

/// What goes from the network to the engine.
pub(super) enum Piece {
    /// More rows, in the INSERT's format.
    Data(Vec<u8>),
    /// The body arrived whole.
    End,
}

/// Reads the body to its end and passes it on, decoded. Goes on reading when nobody takes it any more, so that
/// the client gets to see the answer.
pub(super) async fn receive(
    mut body: BodyDataStream,
    framed: bool,
    patience: Duration,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), EngineError> {
    let mut decoder = Decoder::default();
    loop {
        let next =
            timeout(patience, body.next()).await.map_err(|_| EngineError::Stalled(patience.as_secs()))?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|error| EngineError::Cut(error.to_string()))?;
        if pieces.is_closed() {
            continue;
        }
        if !framed {
            // A closed channel is noticed at the next chunk; the engine's error is told by `feed`.
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

/// Starts the INSERT at once, so that others see it, and feeds it until its end.
pub(super) fn feed(
    session: &mut Session,
    statement: &[u8],
    format: &str,
    parameters: &[Parameter],
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Answer, EngineError> {
    let mut insert = session.insert(statement, format, parameters)?;
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(bytes)) => insert.append(&bytes)?,
            Some(Piece::End) => return insert.finish(),
            None => return Err(EngineError::Cut("its sender went away".to_owned())),
        }
    }
}
