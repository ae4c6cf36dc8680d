//! Running the requests of a pipeline, and what they are answered.

use super::Outcome;
use super::session::Session;
use crate::wire::hrana::{
    self, CursorEntry, CursorRequest, CursorResponse, PipelineRequest, PipelineResponse,
    StreamRequest, StreamResponse, StreamResult,
};

/// Requests in a pipeline.
pub const REQUESTS: usize = 10_000;

impl Session {
    /// Runs all requests, whether those before succeed or not.
    pub(super) fn pipeline(&mut self, request: PipelineRequest) -> Vec<StreamResult> {
        let result = |request| match self.request(request) {
            Ok(response) => StreamResult::Ok { response },
            Err(error) => StreamResult::Error { error },
        };
        request.requests.into_iter().map(result).collect()
    }

    fn request(&mut self, request: StreamRequest) -> Outcome<StreamResponse> {
        if self.closed {
            let sentence = "the stream is closed";
            return Err(hrana::Error::new("STREAM_CLOSED", sentence));
        }
        Ok(match request {
            StreamRequest::Close => {
                self.close();
                StreamResponse::Close
            }
            StreamRequest::Execute(stmt) => StreamResponse::Execute {
                result: self.execute(&stmt)?,
            },
            StreamRequest::Batch(batch) => StreamResponse::Batch {
                result: self.batch(&batch)?,
            },
            StreamRequest::Sequence(text) => {
                self.sequence(&text)?;
                StreamResponse::Sequence
            }
            StreamRequest::Describe(text) => StreamResponse::Describe {
                result: self.describe(&text)?,
            },
            StreamRequest::StoreSql(id, text) => {
                self.store(id, text)?;
                StreamResponse::StoreSql
            }
            StreamRequest::CloseSql(id) => {
                self.forget(id);
                StreamResponse::CloseSql
            }
            StreamRequest::GetAutocommit => StreamResponse::GetAutocommit {
                is_autocommit: self.connection.is_autocommit(),
            },
        })
    }

    /// Runs the batch of a cursor; the lines that follow the first.
    pub(super) fn cursor(&mut self, request: &CursorRequest) -> Vec<CursorEntry> {
        match self.batch(&request.batch) {
            Ok(result) => CursorEntry::of(result).collect(),
            Err(error) => vec![CursorEntry::Error { error }],
        }
    }
}

/// The body that answers a pipeline.
pub fn body(
    baton: Option<String>,
    results: Vec<StreamResult>,
    position: Option<String>,
) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&PipelineResponse {
        baton,
        base_url: None,
        results,
        position,
    })
}

/// The body that answers a cursor: a line for each structure.
pub fn lines(baton: Option<String>, entries: &[CursorEntry]) -> serde_json::Result<Vec<u8>> {
    let first = CursorResponse {
        baton,
        base_url: None,
    };
    let mut body = serde_json::to_vec(&first)?;
    body.push(b'\n');
    for entry in entries {
        serde_json::to_writer(&mut body, entry)?;
        body.push(b'\n');
    }
    Ok(body)
}
