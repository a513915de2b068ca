//! What a handler may ask of the daemon.

use std::borrow::Cow;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::abi::{self, lope_host, lope_option, lope_str};
use crate::error::{Error, SetupError};

/// How grave a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For who looks for a fault.
    Debug,
    /// What happens.
    Info,
    /// It went wrong, and goes on.
    Warn,
    /// Something was given up.
    Error,
}

impl Level {
    fn raw(self) -> i32 {
        match self {
            Level::Debug => abi::LOPE_LOG_DEBUG,
            Level::Info => abi::LOPE_LOG_INFO,
            Level::Warn => abi::LOPE_LOG_WARN,
            Level::Error => abi::LOPE_LOG_ERROR,
        }
    }
}

/// What all that belongs to one instance has in common. The host's table is valid until destroy()
/// returns, which waits for the calls of other threads and has later ones do nothing.
pub(crate) struct Shared {
    table: *const lope_host,
    open: RwLock<bool>,
    /// What is still held is the broker's again.
    pub(crate) handed_back: AtomicBool,
}

// The functions that call() and Message are for may be called by any thread.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(table: *const lope_host) -> Arc<Shared> {
        Arc::new(Shared { table, open: RwLock::new(true), handed_back: AtomicBool::new(false) })
    }

    /// On any thread. Nothing once the instance has ended.
    pub(crate) fn call<R>(&self, function: impl FnOnce(&lope_host) -> R) -> Option<R> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        (*open).then(|| function(unsafe { &*self.table }))
    }

    /// The same on the instance's own thread, which is the one that ends it.
    ///
    /// # Safety
    /// Within a call of the instance.
    pub(crate) unsafe fn in_call(&self) -> &lope_host {
        &*self.table
    }

    pub(crate) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// The daemon, for any thread. What outlives its handler does nothing.
#[derive(Clone)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
}

impl Host {
    /// Writes one line to the daemon's log.
    pub fn log(&self, level: Level, text: &str) {
        let text = lope_str::of(text.as_bytes());
        self.shared.call(|host| unsafe { (host.log)(host, level.raw(), text) });
    }

    /// A line that is seen when somebody looks for a fault.
    pub fn debug(&self, text: &str) {
        self.log(Level::Debug, text);
    }

    /// A line that says what happens.
    pub fn info(&self, text: &str) {
        self.log(Level::Info, text);
    }

    /// A line that says what went wrong.
    pub fn warn(&self, text: &str) {
        self.log(Level::Warn, text);
    }

    /// A line that says what was given up.
    pub fn error(&self, text: &str) {
        self.log(Level::Error, text);
    }

    /// Whether a line of that level would be written: spares making its text.
    pub fn log_enabled(&self, level: Level) -> bool {
        self.shared.call(|host| unsafe { (host.log_enabled)(host, level.raw()) }) == Some(1)
    }

    /// Whether the daemon is draining: finish soon.
    pub fn stopping(&self) -> bool {
        self.shared.call(|host| unsafe { (host.stopping)(host) }) != Some(0)
    }
}

/// One metric of the handler, made by [`Setup::counter`], [`Setup::gauge`] or [`Setup::duration`].
#[derive(Clone)]
pub struct Metric {
    shared: Arc<Shared>,
    id: u32,
}

impl Metric {
    /// Adds to a counter, sets a gauge.
    pub fn record(&self, value: i64) -> Result<(), Error> {
        let status = self.shared.call(|host| unsafe { (host.metric_record)(host, self.id, value) });
        Error::check("metric_record", status.unwrap_or(abi::LOPE_E_STOPPING))
    }

    /// For a duration.
    pub fn record_duration(&self, value: Duration) -> Result<(), Error> {
        self.record(i64::try_from(value.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// What a handler is made from. Not to be kept: see [`Setup::host`].
pub struct Setup<'a> {
    shared: &'a Arc<Shared>,
    table: &'a lope_host,
    options: *const lope_option,
    one_thread: PhantomData<*const ()>,
}

impl<'a> Setup<'a> {
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        table: &'a lope_host,
        options: *const lope_option,
    ) -> Setup<'a> {
        Setup { shared, table, options, one_thread: PhantomData }
    }

    /// The daemon, to be kept.
    pub fn host(&self) -> Host {
        Host { shared: Arc::clone(self.shared) }
    }

    /// The group's name in the configuration.
    pub fn group(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(unsafe { self.table.group.bytes() })
    }

    /// From 0; a replacement of a worker gets its predecessor's.
    pub fn worker_index(&self) -> u32 {
        self.table.worker_index
    }

    /// From 0 within the worker.
    pub fn thread_index(&self) -> u32 {
        self.table.thread_index
    }

    /// One option: a `String`, a `bool`, an integer or a floating-point number. Nested keys are
    /// joined with '.'; the default in [`plugin!`](crate::plugin!) stands in for a key that is not
    /// configured. [`SetupError::Invalid`] when there is none, or when it is no `T`.
    pub fn option<T: OptionValue>(&self, key: &str) -> Result<T, SetupError> {
        self.find_option(key)?.ok_or_else(|| {
            SetupError::Invalid(format!("option '{}': expected a value, found none", key))
        })
    }

    /// The same; nothing when there is none.
    pub fn find_option<T: OptionValue>(&self, key: &str) -> Result<Option<T>, SetupError> {
        let mut value = lope_str::of(&[]);
        let key_str = lope_str::of(key.as_bytes());
        let status = unsafe { (self.table.option)(self.table, key_str, &mut value) };
        if status == abi::LOPE_E_NOT_FOUND {
            return Ok(None);
        }
        Error::check("option", status)?;
        let text = String::from_utf8_lossy(unsafe { value.bytes() });
        T::parse(&text).map(Some).ok_or_else(|| {
            let found =
                if self.is_secret(key) { "something else".into() } else { format!("'{}'", text) };
            SetupError::Invalid(format!(
                "option '{}': expected {}, found {}",
                key,
                T::expected(),
                found
            ))
        })
    }

    /// The texts of a list, in its order; declared with ".*" behind its name. Empty if there is none.
    pub fn option_list(&self, key: &str) -> Result<Vec<String>, SetupError> {
        let mut list = Vec::new();
        while let Some(text) = self.find_option(&format!("{}.{}", key, list.len()))? {
            list.push(text);
        }
        Ok(list)
    }

    /// The whole `options:` map as JSON, without defaults.
    pub fn options_json(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(unsafe { (self.table.options_json)(self.table).bytes() })
    }

    /// A metric that only grows.
    pub fn counter(&self, name: &str, help: &str) -> Result<Metric, Error> {
        self.metric(abi::LOPE_COUNTER, name, help)
    }

    /// A metric that is what was recorded last.
    pub fn gauge(&self, name: &str, help: &str) -> Result<Metric, Error> {
        self.metric(abi::LOPE_GAUGE, name, help)
    }

    /// A histogram.
    pub fn duration(&self, name: &str, help: &str) -> Result<Metric, Error> {
        self.metric(abi::LOPE_DURATION, name, help)
    }

    fn metric(&self, kind: i32, name: &str, help: &str) -> Result<Metric, Error> {
        let (name, help) = (lope_str::of(name.as_bytes()), lope_str::of(help.as_bytes()));
        let mut id = 0;
        let register = self.table.metric_register;
        Error::check("metric_register", unsafe {
            register(self.table, kind, name, help, &mut id)
        })?;
        Ok(Metric { shared: Arc::clone(self.shared), id })
    }

    fn is_secret(&self, key: &str) -> bool {
        let mut option = self.options;
        while let Some(declared) =
            unsafe { option.as_ref() }.filter(|option| !option.name.is_null())
        {
            let name = unsafe { CStr::from_ptr(declared.name) }.to_bytes();
            let covers = match name.strip_suffix(b"*") {
                Some(start) if start.ends_with(b".") => key.as_bytes().starts_with(start),
                _ => name == key.as_bytes(),
            };
            if covers && declared.flags & abi::LOPE_OPTION_SECRET != 0 {
                return true;
            }
            option = unsafe { option.add(1) };
        }
        false
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What an option can be: a `String`, a `bool`, an integer or a floating-point number.
pub trait OptionValue: Sized + sealed::Sealed {
    #[doc(hidden)]
    fn parse(text: &str) -> Option<Self>;
    #[doc(hidden)]
    fn expected() -> String;
}

macro_rules! option_value {
    ($($type:ty, $text:ident => $parse:expr, $expected:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl OptionValue for $type {
            fn parse($text: &str) -> Option<$type> {
                $parse
            }
            fn expected() -> String {
                $expected.into()
            }
        }
    )*};
}

macro_rules! numbers {
    ($($type:ty),*) => {
        option_value!($(
            $type, text => text.parse().ok(),
            format!("an integer from {} to {}", <$type>::MIN, <$type>::MAX);
        )*);
    };
}

numbers!(i8, i16, i32, i64, isize, u8, u16, u32, u64, usize);
option_value! {
    String, text => Some(text.into()), "text";
    f32, text => text.parse().ok(), "a number";
    f64, text => text.parse().ok(), "a number";
    bool, text => match text {
        "true" | "True" | "TRUE" | "yes" | "on" => Some(true),
        "false" | "False" | "FALSE" | "no" | "off" => Some(false),
        _ => None,
    }, "true or false";
}
