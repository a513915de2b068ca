//! Values of headers.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::abi;

/// A header's value, of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    UInt(u64),
    /// A floating-point number.
    Double(f64),
    /// A truth.
    Bool(bool),
    /// Text; UTF-8 by convention.
    Text(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A time, to the second.
    Timestamp(SystemTime),
    /// Nothing.
    Null,
    /// A table, an array or a decimal: there, but not shown.
    Other,
}

impl<'a> Value<'a> {
    /// # Safety
    /// What it points to lives for `'a`.
    pub(crate) unsafe fn of(raw: abi::lope_value) -> Value<'a> {
        match raw.kind {
            abi::LOPE_INT64 => Value::Int(raw.r#as.i),
            abi::LOPE_UINT64 => Value::UInt(raw.r#as.u),
            abi::LOPE_DOUBLE => Value::Double(raw.r#as.d),
            abi::LOPE_BOOL => Value::Bool(raw.r#as.i != 0),
            abi::LOPE_TEXT => Value::Text(raw.r#as.s.bytes()),
            abi::LOPE_BYTES => Value::Bytes(raw.r#as.s.bytes()),
            abi::LOPE_TIMESTAMP => match UNIX_EPOCH.checked_add(Duration::from_secs(raw.r#as.u)) {
                Some(time) => Value::Timestamp(time),
                None => Value::Other,
            },
            abi::LOPE_NULL => Value::Null,
            _ => Value::Other,
        }
    }

    /// An integer of either kind, where it fits.
    pub fn as_int(&self) -> Option<i64> {
        match *self {
            Value::Int(value) => Some(value),
            Value::UInt(value) => i64::try_from(value).ok(),
            _ => None,
        }
    }

    /// Text or bytes; what is no UTF-8 becomes U+FFFD.
    pub fn as_text(&self) -> Option<Cow<'a, str>> {
        match *self {
            Value::Text(bytes) | Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes)),
            _ => None,
        }
    }

    /// A copy that can be sent; nothing for [`Value::Other`].
    pub fn to_own(&self) -> Option<OwnValue> {
        Some(match *self {
            Value::Int(value) => OwnValue::Int(value),
            Value::UInt(value) => OwnValue::UInt(value),
            Value::Double(value) => OwnValue::Double(value),
            Value::Bool(value) => OwnValue::Bool(value),
            Value::Text(bytes) => OwnValue::Text(bytes.to_vec()),
            Value::Bytes(bytes) => OwnValue::Bytes(bytes.to_vec()),
            Value::Timestamp(time) => OwnValue::Timestamp(time),
            Value::Null => OwnValue::Null,
            Value::Other => return None,
        })
    }
}

/// A header's value, of a publication.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OwnValue {
    /// A signed integer.
    Int(i64),
    /// An unsigned integer; over `i64::MAX` the host refuses it.
    UInt(u64),
    /// A floating-point number.
    Double(f64),
    /// A truth.
    Bool(bool),
    /// Text.
    Text(Vec<u8>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A time, to the second; before 1970 it is 1970.
    Timestamp(SystemTime),
    /// Nothing.
    Null,
}

impl OwnValue {
    // Points into self.
    pub(crate) fn raw(&self) -> abi::lope_value {
        use abi::lope_value_as as As;
        let (kind, value) = match self {
            OwnValue::Int(value) => (abi::LOPE_INT64, As { i: *value }),
            OwnValue::UInt(value) => (abi::LOPE_UINT64, As { u: *value }),
            OwnValue::Double(value) => (abi::LOPE_DOUBLE, As { d: *value }),
            OwnValue::Bool(value) => (abi::LOPE_BOOL, As { i: (*value).into() }),
            OwnValue::Text(bytes) => (abi::LOPE_TEXT, As { s: abi::lope_str::of(bytes) }),
            OwnValue::Bytes(bytes) => (abi::LOPE_BYTES, As { s: abi::lope_str::of(bytes) }),
            OwnValue::Timestamp(time) => {
                (abi::LOPE_TIMESTAMP, As { u: since_1970(*time).as_secs() })
            }
            OwnValue::Null => return abi::lope_value::null(),
        };
        abi::lope_value { kind, reserved: 0, r#as: value }
    }
}

pub(crate) fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

macro_rules! from {
    ($($from:ty => $kind:ident),*) => {$(
        impl From<$from> for OwnValue {
            fn from(value: $from) -> OwnValue {
                OwnValue::$kind(value.into())
            }
        }
    )*};
}
from!(i8 => Int, i16 => Int, i32 => Int, i64 => Int, u8 => UInt, u16 => UInt, u32 => UInt, u64 => UInt,
      f32 => Double, f64 => Double, bool => Bool, &str => Text, String => Text, SystemTime => Timestamp);
