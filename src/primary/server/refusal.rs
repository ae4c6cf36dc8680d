//! Requests that are not answered.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::Error;

/// A status, and a sentence for whoever reads it.
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

pub(super) type Answer<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub(super) fn not_found(sentence: &str) -> Self {
        Self(StatusCode::NOT_FOUND, sentence.to_owned())
    }

    pub(super) fn unauthorized(sentence: &str) -> Self {
        Self(StatusCode::UNAUTHORIZED, sentence.to_owned())
    }

    pub(super) fn too_many() -> Self {
        Self(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests: try again in a second".to_owned(),
        )
    }

    /// The database was here, or may be in a moment.
    pub(super) fn gone() -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "nothing is served here at the moment: try again".to_owned(),
        )
    }

    pub(super) fn busy() -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "the primary is busy: try again".to_owned(),
        )
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Protocol(reason) => Self(
                StatusCode::BAD_REQUEST,
                format!("the request is not valid: {reason}"),
            ),
            Error::Misuse(sentence) => Self(StatusCode::BAD_REQUEST, sentence),
            Error::Busy(sentence) => Self(StatusCode::SERVICE_UNAVAILABLE, sentence),
            error => Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1).into_response();
        let header = match self.0 {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::TOO_MANY_REQUESTS => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        if let Some((name, value)) = header {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}
