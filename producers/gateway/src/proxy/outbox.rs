//! Frames to the server, written by a thread of their own: a server that stops reading its input must not stop the gateway, nor keep
//! itself from being ended.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::envelope::RequestId;
use crate::frame::MAX_FRAME_BYTES;

/// Bounds of the frames that wait for the server to read them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub frames: usize,
    pub bytes: usize,
    /// Time that a frame waits for room.
    pub timeout: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { frames: 1_024, bytes: 2 * MAX_FRAME_BYTES, timeout: Duration::from_secs(5) }
    }
}

/// Frame that waits for the server to read it.
#[derive(Debug)]
struct Waiting {
    /// The request, if the frame is one.
    id: Option<RequestId>,
    line: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// No frame is accepted any more.
    is_closed: bool,
    /// A frame has waited in vain for room, and the server has read none since.
    is_stalled: bool,
}

/// The frames that wait.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
    bounds: Bounds,
}

impl Outbox {
    /// Starts the thread that writes to `stream`. It ends once the outbox is closed, or the stream fails; then it calls `on_unsent` with
    /// each request that the server does not have.
    pub fn start(
        stream: Box<dyn Write + Send>,
        bounds: Bounds,
        on_unsent: impl Fn(&RequestId) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let outbox = Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), bounds });
        let to_write = Arc::clone(&outbox);
        std::thread::Builder::new()
            .name("to-server".into())
            .spawn(move || to_write.write(stream, on_unsent))?;
        Ok(outbox)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is usable: no code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame; `id` is that of a request.
    ///
    /// # Errors
    /// If the server has ended, or does not read.
    pub fn send(&self, id: Option<&RequestId>, frame: &[u8]) -> Result<(), &'static str> {
        let until = Instant::now() + self.bounds.timeout;
        let mut state = self.state();
        loop {
            if state.is_closed {
                return Err("the server has ended");
            }
            let has_room =
                state.waiting.len() < self.bounds.frames && state.bytes + frame.len() < self.bounds.bytes;
            if has_room {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.is_stalled || left.is_zero() {
                state.is_stalled = true;
                return Err("the server does not read its input");
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let line = [frame, b"\n"].concat();
        state.bytes += line.len();
        state.waiting.push_back(Waiting { id: id.cloned(), line });
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Accepts no further frame. The waiting ones are written if the server reads them; then its input ends.
    pub fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits until no frame waits.
    #[cfg(test)]
    pub fn wait_until_written(&self) {
        let mut state = self.state();
        while state.bytes > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, mut stream: Box<dyn Write + Send>, on_unsent: impl Fn(&RequestId)) {
        while let Some(next) = self.next() {
            let written = stream.write_all(&next.line).and_then(|()| stream.flush());
            let mut state = self.state();
            state.bytes = state.bytes.saturating_sub(next.line.len());
            state.is_stalled = false;
            let unsent = match &written {
                Ok(()) => VecDeque::new(),
                Err(_) => {
                    // A part of the frame may be written, so nothing may follow.
                    state.is_closed = true;
                    state.bytes = 0;
                    std::mem::take(&mut state.waiting)
                }
            };
            drop(state);
            self.changed.notify_all();
            if let Err(error) = written {
                tracing::debug!(%error, "gateway: a peer has gone");
                for unsent in std::iter::once(next).chain(unsent) {
                    unsent.id.iter().for_each(&on_unsent);
                }
            }
        }
    }

    /// Waits for a frame; `None` if there will be none.
    fn next(&self) -> Option<Waiting> {
        let mut state = self.state();
        loop {
            // Its bytes count until they are written.
            if let Some(next) = state.waiting.pop_front() {
                return Some(next);
            }
            if state.is_closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::mpsc::channel;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn frame_for_a_server_that_does_not_read_is_refused_and_the_queue_closes_at_once() {
        let (mut server, pipe) = io::pipe().unwrap();
        let bounds = Bounds { bytes: 200_000, timeout: Duration::from_millis(50), ..Bounds::default() };
        let (unsent, received) = channel();
        let outbox = Outbox::start(Box::new(pipe), bounds, move |id| unsent.send(id.clone()).unwrap());
        let outbox = outbox.unwrap();
        let (id, frame) = (RequestId::Text("a".to_owned()), vec![b'x'; 90_000]);
        // More than the pipe holds.
        assert_eq!([(); 3].map(|()| outbox.send(Some(&id), &frame).is_ok()), [true, true, false]);
        assert_eq!(outbox.send(None, &frame), Err("the server does not read its input"));
        // One that reads again gets them in order.
        server.read_exact(&mut vec![0; 90_001]).unwrap();
        let until = Instant::now() + DEADLINE;
        while outbox.send(None, b"last").is_err() {
            assert!(Instant::now() < until, "expected room");
        }
        outbox.close();
        assert_eq!(outbox.send(None, b"later"), Err("the server has ended"));
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).unwrap();
        assert_eq!((rest.len(), rest.ends_with(b"x\nlast\n")), (90_001 + 5, true));
        assert!(received.try_recv().is_err());
    }

    #[test]
    fn requests_that_a_server_does_not_have_are_named_once_its_input_is_closed() {
        let (server, pipe) = io::pipe().unwrap();
        let (unsent, received) = channel();
        let outbox =
            Outbox::start(Box::new(pipe), Bounds::default(), move |id| unsent.send(id.clone()).unwrap())
                .unwrap();
        let id = |id: &str| RequestId::Text(id.to_owned());
        for name in ["a", "b"] {
            outbox.send(Some(&id(name)), &[b'x'; 90_000]).unwrap();
        }
        drop(server);
        let named = [received.recv_timeout(DEADLINE).unwrap(), received.recv_timeout(DEADLINE).unwrap()];
        assert_eq!(named, [id("a"), id("b")]);
        assert_eq!(outbox.send(None, b"later"), Err("the server has ended"));
    }
}
