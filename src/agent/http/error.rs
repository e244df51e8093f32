//! The only place that maps errors to status codes and to Consul's texts.

use hyper::StatusCode;

use super::response::Answer;
use crate::agent::handle::{LocalError, NoLeader, NoSuchMember, ProposeError};
use crate::model::api::filter::FilterError;
use crate::model::api::{ApiError, DecodeError};

/// Where Consul's documentation explains the limit on bodies; part of the error text that scripts look for.
const LIMIT_DOCUMENTATION: &str =
    "https://developer.hashicorp.com/docs/agent/config/config-files#kv_max_value_size";

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// A body that is not what it should be.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The local state refused.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The log refused, or did not answer.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// Reads that must be fresh need a leader.
    #[error(transparent)]
    NoLeader(#[from] NoLeader),
    /// `force-leave` of a stranger.
    #[error(transparent)]
    NoSuchMember(#[from] NoSuchMember),
    /// `?filter=` cannot be understood.
    #[error("Failed to create boolean expression evaluator: {0}")]
    Filter(#[from] FilterError),
    /// `?dc=` names another datacenter; there are no routes between datacenters.
    #[error("No path to datacenter")]
    NoPathToDatacenter,
    /// 400.
    #[error("{0}")]
    Invalid(String),
    /// 404.
    #[error("{0}")]
    NotFound(String),
    /// 415.
    #[error("Prometheus is not enabled since its retention time is not positive")]
    NoPrometheus,
    /// 500.
    #[error("{0}")]
    Internal(String),
    /// 413 of which the length was announced.
    #[error("Request body({length} bytes) too large, max size: {limit} bytes. See {LIMIT_DOCUMENTATION}.")]
    BodyTooLarge {
        /// Bytes announced.
        length: u64,
        /// Bytes allowed.
        limit: usize,
    },
    /// 413 of which the length was not announced.
    #[error("Request body too large, max size: {0} bytes. See {LIMIT_DOCUMENTATION}.")]
    StreamTooLarge(usize),
    /// 503, to those who wait for a change.
    #[error("The agent is shutting down")]
    Stopping,
    /// 408; the connection is closed.
    #[error("Request body was not received in time")]
    BodyTooSlow,
    /// 400; the client went away or sent garbage.
    #[error("Request body could not be read: {0}")]
    BodyBroken(String),
}

impl From<DecodeError> for HttpError {
    fn from(error: DecodeError) -> Self {
        Self::Api(error.into())
    }
}

impl HttpError {
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Api(ApiError::Decode(_) | ApiError::Invalid(_) | ApiError::InvalidCheck(_))
            | Self::Invalid(_)
            | Self::BodyBroken(_) => StatusCode::BAD_REQUEST,
            Self::Local(
                LocalError::UnknownService(_)
                | LocalError::UnknownCheck(_)
                | LocalError::UnknownServiceOfCheck(_)
                | LocalError::NotTtl(_),
            )
            | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NoPrometheus => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } | Self::StreamTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Api(ApiError::ScriptsDisabled | ApiError::Server(_))
            | Self::Local(LocalError::ScriptsDisabled | LocalError::Persist(_))
            | Self::Propose(_)
            | Self::NoLeader(_)
            | Self::NoSuchMember(_)
            | Self::Filter(_)
            | Self::NoPathToDatacenter
            | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer that a client sees.
    pub(super) fn answer(&self) -> Answer {
        Answer::text(self.status(), self.to_string())
    }
}
