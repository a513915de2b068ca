//! Handlers for Lope, a daemon that runs RabbitMQ consumers, in Rust: a safe
//! face of `lope/handler.h`. A handler is a type that implements [`Handler`], in a crate of type
//! `cdylib`, made known with [`plugin!`].
//!
//! ```
//! use lope::{Failure, Handler, Host, Message, Outcome, Setup, SetupError};
//!
//! struct Greet {
//!     host: Host,
//!     greeting: String,
//! }
//!
//! impl Handler for Greet {
//!     fn new(setup: &Setup) -> Result<Self, SetupError> {
//!         Ok(Greet { host: setup.host(), greeting: setup.option("greeting")? })
//!     }
//!
//!     fn handle(&mut self, message: &Message) -> Result<Outcome, Failure> {
//!         let name = message.body_text().map_err(|_| Failure::reject("not a name"))?;
//!         self.host.info(&format!("{}, {}!", self.greeting, name));
//!         Ok(Outcome::Ack)
//!     }
//! }
//!
//! lope::plugin! {
//!     name: "greet",
//!     version: "1.0.0",
//!     description: "greets whoever the message names",
//!     options: [required("greeting", Text, "the word to greet with")],
//!     handler: Greet,
//! }
//! # fn main() {}
//! ```
//!
//! **Outcomes.** [`Handler::handle`] says [`Outcome::Ack`], or why not: [`Failure::retry`] has the
//! message come again, [`Failure::reject`] makes it a dead letter. Any [`std::error::Error`] becomes
//! a retry with `?`, and so does a panic, whose place and text are the reason.
//!
//! **Lifetimes.** A [`Message`] cannot be kept beyond its call. [`Message::hold`] makes a [`Held`],
//! which can, and which any thread may settle.
//!
//! **Threads.** An instance is made, called and dropped by one thread; it need not be [`Send`]. A
//! [`Host`], a [`Metric`] and a [`Held`] go to other threads.
#![deny(missing_docs)]

#[doc(hidden)]
pub mod abi;
#[doc(hidden)]
pub mod edge;
mod error;
mod host;
mod message;
mod plugin;
mod publication;
mod value;

pub use error::{Error, Failure, SetupError, Status};
pub use host::{Host, Level, Metric, OptionValue, Setup};
pub use message::{Batch, Held, Message};
pub use publication::Publication;
pub use value::{OwnValue, Value};

/// The handler's word on a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ack,
    /// Could succeed later: it comes again. [`Failure::retry`] says why, too.
    Retry,
    /// Never will: it is a dead letter. [`Failure::reject`] says why, too.
    Reject,
    /// Kept: [`Message::hold`] was called, and what that gave says the outcome later.
    Hold,
}

/// Why [`Flush::flush`] is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushReason {
    /// The group's `flush_interval` is up.
    Interval,
    /// Nothing more can arrive until something is settled.
    WindowFull,
    /// The last call: what is still held after it is handed back.
    Drain,
}

/// A handler. One is made per thread of the group, and all calls of it come from that thread.
pub trait Handler: Sized + 'static {
    /// Makes one. [`SetupError::Invalid`]: the configuration is wrong, and the group is not started
    /// again until it changes; [`SetupError::Failed`], and a panic: it is tried again, with growing
    /// pauses.
    fn new(setup: &Setup) -> Result<Self, SetupError>;

    /// Handles one message.
    fn handle(&mut self, message: &Message) -> Result<Outcome, Failure>;
}

/// A handler that does better with many messages at once, in a group with `batch`. [`plugin!`] sees
/// by itself whether a handler is one.
pub trait BatchHandler: Handler {
    /// Says an outcome for each message. One that has none when this returns, or panics, is retried.
    fn handle_batch(&mut self, batch: &Batch);
}

/// A handler that settles what it holds when it is told to. [`plugin!`] sees by itself whether a
/// handler is one.
pub trait Flush: Handler {
    /// An error is logged.
    fn flush(&mut self, reason: FlushReason) -> Result<(), Failure>;
}
