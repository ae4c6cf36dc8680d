//! Bodies of requests as they arrive.

use std::future::poll_fn;
use std::mem::take;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{self, Body, Bytes, HttpBody};
use axum::http::StatusCode;
use tokio::time::timeout;

use super::refusal::{Answer, Refusal};
use super::routes::blocking;
use crate::database::body::{Body as Kept, MEMORY_BYTES};
use crate::database::host::Spool;
use crate::database::pages::Room;
use crate::error::Result;

/// The longest body of a request that fits in one message.
pub(super) const REQUEST_BYTES: usize = 1 << 20;

/// How long it may take to arrive; of a long one, its next piece.
const ARRIVING: Duration = Duration::from_secs(30);

/// A body of at most `limit` bytes, whole.
pub(super) async fn short(body: Body, limit: usize) -> Answer<Bytes> {
    let too_long = || {
        let sentence = format!("the request is cut off, or longer than {limit} bytes");
        Refusal(StatusCode::PAYLOAD_TOO_LARGE, sentence)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_long());
    }
    match timeout(ARRIVING, body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(too_long()),
        Err(_) => Err(too_slow()),
    }
}

/// A body of any length, whole: what is too long for memory goes to a file that `scratch` makes.
pub(super) async fn long(
    mut body: Body,
    scratch: impl Fn() -> Result<Box<dyn Spool>> + Send + Sync + 'static,
) -> Answer<Kept> {
    let (mut kept, mut room) = (Kept::new(), Scratch(scratch));
    let mut pieces = Vec::new();
    loop {
        let piece = next(&mut body).await?;
        let ended = piece.is_none();
        pieces.extend_from_slice(&piece.unwrap_or_default());
        if ended && kept.is_empty() {
            // In memory: that does not block.
            kept.add(&room, &pieces)?;
            return Ok(kept);
        }
        if ended || pieces.len() >= MEMORY_BYTES {
            let pieces = take(&mut pieces);
            (kept, room) = blocking(move || {
                kept.add(&room, &pieces)?;
                Ok((kept, room))
            })
            .await?;
        }
        if ended {
            return Ok(kept);
        }
    }
}

/// The next piece of a body; `None` at its end.
async fn next(body: &mut Body) -> Answer<Option<Bytes>> {
    loop {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        match timeout(ARRIVING, frame).await {
            Err(_) => return Err(too_slow()),
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => {
                // Trailers are passed over.
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(Some(Err(_))) => {
                let sentence = "the request is cut off".to_owned();
                return Err(Refusal(StatusCode::BAD_REQUEST, sentence));
            }
        }
    }
}

fn too_slow() -> Refusal {
    let sentence = "the request took too long to arrive".to_owned();
    Refusal(StatusCode::REQUEST_TIMEOUT, sentence)
}

/// Where a long body goes.
struct Scratch<F>(F);

impl<F: Fn() -> Result<Box<dyn Spool>>> Room for Scratch<F> {
    fn scratch(&self) -> Result<Box<dyn Spool>> {
        (self.0)()
    }
}
