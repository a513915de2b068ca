//! What can go wrong, on either side.

use std::fmt;
use std::time::Duration;

use crate::abi;

/// Why the host did not do what it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It did not work.
    Failed,
    /// An argument is not valid.
    Invalid,
    /// There is no such option, header or metric.
    NotFound,
    /// It is over a limit.
    TooLarge,
    /// Not allowed on this thread, or not at this moment.
    WrongThread,
    /// The daemon is stopping.
    Stopping,
    /// This version of Lope does not have it.
    Unsupported,
    /// The message is settled already, or was handed back.
    Stale,
    /// A status that this crate does not know.
    Unknown(i32),
}

impl Status {
    pub(crate) fn of(raw: abi::lope_status) -> Status {
        match raw {
            abi::LOPE_E_FAILED => Status::Failed,
            abi::LOPE_E_INVALID => Status::Invalid,
            abi::LOPE_E_NOT_FOUND => Status::NotFound,
            abi::LOPE_E_TOO_LARGE => Status::TooLarge,
            abi::LOPE_E_WRONG_THREAD => Status::WrongThread,
            abi::LOPE_E_STOPPING => Status::Stopping,
            abi::LOPE_E_UNSUPPORTED => Status::Unsupported,
            abi::LOPE_E_STALE => Status::Stale,
            other => Status::Unknown(other),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Status::Failed => "it failed",
            Status::Invalid => "an argument is not valid",
            Status::NotFound => "there is no such thing",
            Status::TooLarge => "it is over a limit",
            Status::WrongThread => "not allowed on this thread, or not at this moment",
            Status::Stopping => "the daemon is stopping",
            Status::Unsupported => "this version of Lope does not support it",
            Status::Stale => "the message is settled already, or was handed back",
            Status::Unknown(raw) => return write!(f, "unknown status {}", raw),
        })
    }
}

/// The host did not do what it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Why.
    pub status: Status,
    pub(crate) what: &'static str,
}

impl Error {
    pub(crate) fn new(what: &'static str, status: Status) -> Error {
        Error { status, what }
    }

    pub(crate) fn check(what: &'static str, raw: abi::lope_status) -> Result<(), Error> {
        match raw {
            abi::LOPE_OK => Ok(()),
            raw => Err(Error::new(what, Status::of(raw))),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.status)
    }
}

impl std::error::Error for Error {}

/// Why a message is not acked, and what becomes of it. Every [`std::error::Error`] turns into one, a
/// retry, with `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub(crate) reject: bool,
    pub(crate) reason: String,
    pub(crate) after: Option<Duration>,
}

impl Failure {
    /// It could be handled later: after the delay that the group's retry policy says.
    pub fn retry(reason: impl Into<String>) -> Failure {
        Failure { reject: false, reason: reason.into(), after: None }
    }

    /// It could be handled later: after `delay`, of 366 days at most.
    pub fn retry_after(delay: Duration, reason: impl Into<String>) -> Failure {
        Failure { reject: false, reason: reason.into(), after: Some(delay) }
    }

    /// It can never be handled: it is a dead letter.
    pub fn reject(reason: impl Into<String>) -> Failure {
        Failure { reject: true, reason: reason.into(), after: None }
    }
}

// Not an Error itself, as this would then be two.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::retry(error.to_string())
    }
}

/// Why a handler was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The configuration is wrong: the group is not started again until it changes.
    Invalid(String),
    /// Something else: it is tried again, with growing pauses. Every [`std::error::Error`] turns
    /// into this one with `?`.
    Failed(String),
}

impl<E: std::error::Error> From<E> for SetupError {
    fn from(error: E) -> SetupError {
        SetupError::Failed(error.to_string())
    }
}
