//! What a handler sends.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use crate::abi::{self, lope_str};
use crate::error::{Error, Status};
use crate::message::Message;
use crate::value::{since_1970, OwnValue, Value};

/// What a handler sends. Everything that is left alone has a sensible default.
///
/// ```
/// # use lope::Publication;
/// let mut order = Publication::to("orders", r#"{"sku":"A-1"}"#);
/// order.content_type = "application/json".into();
/// order.header("shop", "north").header("count", 3);
/// ```
#[derive(Clone, Debug)]
pub struct Publication {
    /// The content.
    pub body: Vec<u8>,
    /// Empty: the default exchange, whose routing keys are names of queues.
    pub exchange: String,
    /// Where to.
    pub routing_key: String,
    /// A property.
    pub content_type: String,
    /// A property.
    pub content_encoding: String,
    /// A property; of a reply the request's, when empty.
    pub correlation_id: String,
    /// A property.
    pub reply_to: String,
    /// Empty: the host makes a UUID.
    pub message_id: String,
    /// A property.
    pub r#type: String,
    /// True by default.
    pub persistent: bool,
    /// False by default: an unroutable publication has its cause retried.
    pub may_be_unroutable: bool,
    /// Sent so much later.
    pub delay: Duration,
    /// Sent at that time, or after `delay`, whichever is later; a past time is now.
    pub due: Option<SystemTime>,
    /// The broker drops it when it has waited for so long; zero: never.
    pub expiration: Duration,
    /// 0 to 255.
    pub priority: u8,
    headers: Vec<(String, OwnValue)>,
}

impl Default for Publication {
    fn default() -> Publication {
        Publication {
            body: Vec::new(),
            exchange: String::new(),
            routing_key: String::new(),
            content_type: String::new(),
            content_encoding: String::new(),
            correlation_id: String::new(),
            reply_to: String::new(),
            message_id: String::new(),
            r#type: String::new(),
            persistent: true,
            may_be_unroutable: false,
            delay: Duration::ZERO,
            due: None,
            expiration: Duration::ZERO,
            priority: 0,
            headers: Vec::new(),
        }
    }
}

impl Publication {
    /// For a reply, or with more to be said.
    pub fn new(body: impl Into<Vec<u8>>) -> Publication {
        Publication { body: body.into(), ..Publication::default() }
    }

    /// To a queue, over the default exchange.
    pub fn to(queue: impl Into<String>, body: impl Into<Vec<u8>>) -> Publication {
        Publication { routing_key: queue.into(), ..Publication::new(body) }
    }

    /// Sets one header: another value of that name goes.
    pub fn header(
        &mut self,
        name: impl Into<String>,
        value: impl Into<OwnValue>,
    ) -> &mut Publication {
        let (name, value) = (name.into(), value.into());
        match self.headers.iter_mut().find(|(present, _)| *present == name) {
            Some(header) => header.1 = value,
            None => self.headers.push((name, value)),
        }
        self
    }

    /// Sets those headers of `message` that can be passed on and that are not set yet. Left out are
    /// tables, arrays and decimals, numbers over `i64::MAX`, CC and BCC, and names that are no
    /// UTF-8; and by the host, when it is published, those of the broker's bookkeeping and of
    /// Lope's. Of several of one name the first counts.
    pub fn copy_headers(&mut self, message: &Message) -> Result<&mut Publication, Error> {
        for index in 0..message.header_count() {
            let (name, value) = message.header_at(index)?;
            let too_large = matches!(value, Value::UInt(_)) && value.as_int().is_none();
            if let (Cow::Borrowed(name), Some(value), false) = (name, value.to_own(), too_large) {
                let refused = name.is_empty() || name == "CC" || name == "BCC";
                if !refused && !self.headers.iter().any(|(present, _)| present == name) {
                    self.headers.push((name.into(), value));
                }
            }
        }
        Ok(self)
    }

    // Calls `function` with the same as the ABI has it.
    pub(crate) fn with_raw<R>(
        &self,
        function: impl FnOnce(&abi::lope_publication) -> R,
    ) -> Result<R, Error> {
        let headers: Vec<abi::lope_header> = self
            .headers
            .iter()
            .map(|(name, value)| abi::lope_header {
                name: lope_str::of(name.as_bytes()),
                value: value.raw(),
            })
            .collect();
        let text = |text: &String| lope_str::of(text.as_bytes());
        let mut flags = 0;
        if !self.persistent {
            flags |= abi::LOPE_PUB_TRANSIENT;
        }
        if self.may_be_unroutable {
            flags |= abi::LOPE_PUB_MAY_BE_UNROUTABLE;
        }
        let expiration_ms = u32::try_from(self.expiration.as_millis())
            .map_err(|_| Error::new("publish: expiration of over 49 days", Status::Invalid))?;
        Ok(function(&abi::lope_publication {
            struct_size: std::mem::size_of::<abi::lope_publication>() as u32,
            flags,
            body: abi::lope_bytes { data: self.body.as_ptr().cast(), size: self.body.len() },
            exchange: text(&self.exchange),
            routing_key: text(&self.routing_key),
            content_type: text(&self.content_type),
            content_encoding: text(&self.content_encoding),
            correlation_id: text(&self.correlation_id),
            reply_to: text(&self.reply_to),
            message_id: text(&self.message_id),
            r#type: text(&self.r#type),
            headers: headers.as_ptr(),
            header_count: headers.len(),
            delay_ms: millis(self.delay),
            due_unix_ms: self.due.map_or(0, |time| millis(since_1970(time))),
            expiration_ms,
            priority: self.priority.into(),
        }))
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
