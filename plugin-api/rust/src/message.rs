//! Messages: of the running call, in batches, and held ones.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::str::Utf8Error;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::abi::{self, lope_header, lope_host, lope_message, lope_outcome, lope_str, lope_value};
use crate::error::{Error, Failure, Status};
use crate::host::Shared;
use crate::publication::{millis, Publication};
use crate::value::Value;
use crate::Outcome;

/// One message, for as long as its call lasts, or of one that is [`Held`]. It cannot be kept:
///
/// ```compile_fail,E0521
/// # use lope::*;
/// struct Keeper(Vec<&'static [u8]>);
/// # impl Handler for Keeper {
/// #     fn new(_: &Setup) -> Result<Self, SetupError> { Ok(Keeper(Vec::new())) }
/// fn handle(&mut self, message: &Message) -> Result<Outcome, Failure> {
///     self.0.push(message.body());
///     Ok(Outcome::Ack)
/// }
/// # }
/// ```
pub struct Message<'a> {
    shared: &'a Arc<Shared>,
    raw: &'a lope_message,
    held: Option<&'a Cell<bool>>, // of the running call; nothing: of one that is held
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> Cow<'a, str> {
            String::from_utf8_lossy(unsafe { self.raw.$name.bytes() })
        }
    )*};
}

impl<'a> Message<'a> {
    /// # Safety
    /// In a call of the instance, about this message.
    pub(crate) unsafe fn of_call(
        shared: &'a Arc<Shared>,
        raw: &'a lope_message,
        held: &'a Cell<bool>,
    ) -> Message<'a> {
        Message { shared, raw, held: Some(held) }
    }

    /// Never used again in this process.
    pub fn id(&self) -> u64 {
        self.raw.id
    }

    /// The content; decompressed when the group says so.
    pub fn body(&self) -> &'a [u8] {
        match self.raw.body.size {
            0 => &[],
            size => unsafe { std::slice::from_raw_parts(self.raw.body.data.cast(), size) },
        }
    }

    /// The content as text, if it is UTF-8.
    pub fn body_text(&self) -> Result<&'a str, Utf8Error> {
        std::str::from_utf8(self.body())
    }

    texts! {
        /// The queue it comes from.
        queue,
        /// Where it was published to; empty: the default exchange.
        exchange,
        /// With which key it was published.
        routing_key,
        /// The consumer that got it.
        consumer_tag,
        /// A property; empty if it has none, as those that follow.
        content_type,
        /// A property.
        content_encoding,
        /// A property.
        correlation_id,
        /// Where an answer goes.
        reply_to,
        /// A property.
        message_id,
        /// The message id of the message that this one was published for.
        parent_id,
        /// A property.
        r#type,
        /// A property.
        app_id,
        /// A property.
        user_id,
        /// A property.
        expiration,
    }

    /// A property.
    pub fn priority(&self) -> u32 {
        self.raw.priority
    }

    /// The broker's number for it, for logs.
    pub fn delivery_tag(&self) -> u64 {
        self.raw.delivery_tag
    }

    /// 1 the first time.
    pub fn attempt(&self) -> u32 {
        self.raw.attempt
    }

    /// Workers it has taken down so far.
    pub fn crashes(&self) -> u32 {
        self.raw.crashes
    }

    /// Whether the broker has delivered it before, perhaps to somebody else.
    pub fn redelivered(&self) -> bool {
        self.raw.flags & abi::LOPE_MSG_REDELIVERED != 0
    }

    /// Whether it outlives a restart of the broker.
    pub fn persistent(&self) -> bool {
        self.raw.flags & abi::LOPE_MSG_PERSISTENT != 0
    }

    /// When the daemon got it.
    pub fn received(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.raw.received_unix_ns)
    }

    /// The publisher's time, to the second.
    pub fn timestamp(&self) -> Option<SystemTime> {
        match self.raw.timestamp {
            0 => None,
            seconds => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        }
    }

    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<Value<'a>> {
        let mut value = lope_value::null();
        let name = lope_str::of(name.as_bytes());
        let status =
            self.tell(|host| unsafe { (host.header_get)(host, self.raw, name, &mut value) });
        // It can only be that there is none: the message is this call's, or held.
        (status == abi::LOPE_OK).then(|| unsafe { Value::of(value) })
    }

    /// How many headers there are.
    pub fn header_count(&self) -> u32 {
        self.raw.header_count
    }

    /// One header by place, from 0.
    pub fn header_at(&self, index: u32) -> Result<(Cow<'a, str>, Value<'a>), Error> {
        let mut header = lope_header { name: lope_str::of(&[]), value: lope_value::null() };
        let status =
            self.tell(|host| unsafe { (host.header_at)(host, self.raw, index, &mut header) });
        Error::check("header_at", status)?;
        Ok(unsafe { (String::from_utf8_lossy(header.name.bytes()), Value::of(header.value)) })
    }

    /// Publishes on behalf of this one. Sent when this one's outcome is an ack, which the broker
    /// gets once all that was published for it is confirmed; dropped with any other outcome.
    pub fn publish(&self, publication: &Publication) -> Result<(), Error> {
        let status = publication
            .with_raw(|raw| self.tell(|host| unsafe { (host.publish)(host, self.raw, raw) }))?;
        Error::check("publish", status)
    }

    /// The same, to this one's `reply_to` with its `correlation_id`. The answer names no exchange
    /// and no routing key.
    pub fn reply(&self, answer: &Publication) -> Result<(), Error> {
        let status = answer
            .with_raw(|raw| self.tell(|host| unsafe { (host.reply)(host, self.raw, raw) }))?;
        Error::check("reply", status)
    }

    /// Why the outcome is not an ack; for the log and the dead letter. [`Failure`] says it too.
    pub fn explain(&self, reason: &str) -> Result<(), Error> {
        let reason = lope_str::of(reason.as_bytes());
        Error::check("explain", self.tell(|host| unsafe { (host.explain)(host, self.raw, reason) }))
    }

    /// The delay of this retry only, in place of the group's retry policy.
    pub fn retry_after(&self, delay: Duration) -> Result<(), Error> {
        let ms = millis(delay);
        Error::check(
            "retry_after",
            self.tell(|host| unsafe { (host.retry_after)(host, self.raw, ms) }),
        )
    }

    /// Restarts the timeout of the running call, or of a held message. False when it was held and
    /// has timed out already, or was handed back; harmless.
    pub fn keep_alive(&self) -> Result<bool, Error> {
        match self.tell(|host| unsafe { (host.keep_alive)(host, self.raw) }) {
            abi::LOPE_E_STALE => Ok(false),
            status => Error::check("keep_alive", status).map(|()| true),
        }
    }

    /// Keeps it: from now on what this gives says the outcome, and the handler returns
    /// [`Outcome::Hold`]. [`Status::Stale`] when it is held already.
    pub fn hold(&self) -> Result<Held, Error> {
        match self.held {
            Some(held) if !held.replace(true) => {
                Ok(Held { shared: Arc::clone(self.shared), raw: self.raw, settled: false })
            }
            _ => Err(Error::new("hold", Status::Stale)),
        }
    }

    fn tell(&self, order: impl FnOnce(&lope_host) -> abi::lope_status) -> abi::lope_status {
        match self.held {
            Some(_) => order(unsafe { self.shared.in_call() }),
            None => self.shared.call(order).unwrap_or(abi::LOPE_E_STOPPING),
        }
    }

    /// What the handler said, as the host wants to know it. A message that was held stays so,
    /// whatever else was said: who has it may have settled it already.
    pub(crate) fn conclude(&self, said: Result<Outcome, Failure>) -> lope_outcome {
        let outcome = match &said {
            Ok(outcome) => *outcome,
            Err(failure) => self.fail(failure),
        };
        let held = self.held.map_or(false, Cell::get);
        match outcome {
            Outcome::Hold if !held => {
                self.fail(&Failure::retry("the handler says Hold, and has not called hold()"));
                abi::LOPE_RETRY
            }
            Outcome::Hold => abi::LOPE_HOLD,
            other if held => {
                let text = format!(
                    "message {} is held: that its handler says {:?} does not count",
                    self.raw.id, other
                );
                let text = lope_str::of(text.as_bytes());
                let host = unsafe { self.shared.in_call() };
                unsafe { (host.log)(host, abi::LOPE_LOG_WARN, text) };
                abi::LOPE_HOLD
            }
            Outcome::Ack => abi::LOPE_ACK,
            Outcome::Retry => abi::LOPE_RETRY,
            Outcome::Reject => abi::LOPE_REJECT,
        }
    }

    // Hands over what there is to say. Where the host does not take it, the outcome counts all the
    // same.
    fn fail(&self, failure: &Failure) -> Outcome {
        if !failure.reason.is_empty() {
            let _ = self.explain(&failure.reason);
        }
        if let Some(delay) = failure.after {
            let _ = self.retry_after(delay);
        }
        if failure.reject {
            Outcome::Reject
        } else {
            Outcome::Retry
        }
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Message({}, {} bytes)", self.raw.id, self.raw.body.size)
    }
}

/// A message that is kept beyond its call. Any thread may settle it. One that is dropped instead is
/// retried.
pub struct Held {
    shared: Arc<Shared>,
    raw: *const lope_message,
    settled: bool, // and `raw` is not to be touched any more
}

// For a held message the host's functions may be called by any thread; what the message points to
// stays as it is until it is settled.
unsafe impl Send for Held {}

impl Held {
    /// The message, to be read and published for.
    pub fn message(&self) -> Message<'_> {
        Message { shared: &self.shared, raw: unsafe { &*self.raw }, held: None }
    }

    /// It is done. False when it was not there to be settled any more: it has timed out, or was
    /// handed back; harmless.
    pub fn ack(self) -> bool {
        self.settle(Ok(()))
    }

    /// The outcome: an ack, or what the failure says. As [`Held::ack`].
    pub fn settle(mut self, said: Result<(), Failure>) -> bool {
        self.end(said)
    }

    fn end(&mut self, said: Result<(), Failure>) -> bool {
        let outcome = match said {
            Ok(()) => abi::LOPE_ACK,
            Err(failure) => match self.message().fail(&failure) {
                Outcome::Reject => abi::LOPE_REJECT,
                _ => abi::LOPE_RETRY,
            },
        };
        let id = self.message().id();
        self.settled = true;
        self.shared.call(|host| unsafe { (host.settle)(host, id, outcome) }) == Some(abi::LOPE_OK)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.settled || self.shared.handed_back.load(Ordering::Relaxed) {
            return;
        }
        // The reason of a panic is the panic.
        let reason =
            if std::thread::panicking() { "" } else { "the handler let go of it unsettled" };
        self.end(Err(Failure::retry(reason)));
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Held({:?})", self.message())
    }
}

/// Several messages at once, each of which wants its outcome.
pub struct Batch<'a> {
    shared: &'a Arc<Shared>,
    messages: &'a [*const lope_message],
    held: Vec<Cell<bool>>,
    outcomes: &'a [Cell<lope_outcome>],
}

impl<'a> Batch<'a> {
    /// # Safety
    /// In a call of the instance about these messages, with an outcome for each.
    pub(crate) unsafe fn of_call(
        shared: &'a Arc<Shared>,
        messages: &'a [*const lope_message],
        outcomes: &'a [Cell<lope_outcome>],
    ) -> Batch<'a> {
        let held = messages.iter().map(|_| Cell::new(false)).collect();
        Batch { shared, messages, held, outcomes }
    }

    /// How many there are: at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// One of them, from 0. Panics when `index` is not below `len()`.
    pub fn message(&self, index: usize) -> Message<'_> {
        let raw = unsafe { &*self.messages[index] };
        Message { shared: self.shared, raw, held: Some(&self.held[index]) }
    }

    /// All of them.
    pub fn messages(&self) -> impl Iterator<Item = Message<'_>> {
        (0..self.len()).map(|index| self.message(index))
    }

    /// The outcome of one message; the last word counts. Panics when `index` is not below `len()`.
    pub fn set(&self, index: usize, said: Result<Outcome, Failure>) {
        self.outcomes[index].set(self.message(index).conclude(said));
    }

    /// For those that have no outcome, or the wrong one for a message that is held.
    pub(crate) fn conclude(&self, panic: Option<Failure>) {
        for (index, outcome) in self.outcomes.iter().enumerate() {
            if self.held[index].get() {
                outcome.set(abi::LOPE_HOLD);
            } else if let (abi::LOPE_NO_OUTCOME, Some(panic)) = (outcome.get(), &panic) {
                self.set(index, Err(panic.clone()));
            }
        }
    }
}
