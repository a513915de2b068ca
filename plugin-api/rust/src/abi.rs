//! `lope/handler.h`, version 1.0, as Rust sees it. Contracts stand there. Nothing here is needed to
//! write a handler.
#![allow(non_camel_case_types, missing_docs)]

use std::os::raw::{c_char, c_void};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct lope_str {
    pub data: *const c_char,
    pub size: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct lope_bytes {
    pub data: *const c_void,
    pub size: usize,
}

pub const LOPE_INT64: i32 = 1;
pub const LOPE_UINT64: i32 = 2;
pub const LOPE_DOUBLE: i32 = 3;
pub const LOPE_BOOL: i32 = 4;
pub const LOPE_TEXT: i32 = 5;
pub const LOPE_BYTES: i32 = 6;
pub const LOPE_TIMESTAMP: i32 = 7;
pub const LOPE_NULL: i32 = 8;
pub const LOPE_OTHER: i32 = 9;

#[repr(C)]
#[derive(Clone, Copy)]
pub union lope_value_as {
    pub i: i64,
    pub u: u64,
    pub d: f64,
    pub s: lope_str,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct lope_value {
    pub kind: i32,
    pub reserved: i32,
    pub r#as: lope_value_as,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct lope_header {
    pub name: lope_str,
    pub value: lope_value,
}

pub type lope_status = i32;
pub const LOPE_OK: lope_status = 0;
pub const LOPE_E_FAILED: lope_status = 1;
pub const LOPE_E_INVALID: lope_status = 2;
pub const LOPE_E_NOT_FOUND: lope_status = 3;
pub const LOPE_E_TOO_LARGE: lope_status = 4;
pub const LOPE_E_WRONG_THREAD: lope_status = 5;
pub const LOPE_E_STOPPING: lope_status = 6;
pub const LOPE_E_UNSUPPORTED: lope_status = 7;
pub const LOPE_E_STALE: lope_status = 8;

pub type lope_outcome = i32;
pub const LOPE_NO_OUTCOME: lope_outcome = 0;
pub const LOPE_ACK: lope_outcome = 1;
pub const LOPE_RETRY: lope_outcome = 2;
pub const LOPE_REJECT: lope_outcome = 3;
pub const LOPE_HOLD: lope_outcome = 4;

pub const LOPE_FLUSH_INTERVAL: u32 = 1;
pub const LOPE_FLUSH_WINDOW_FULL: u32 = 2;
pub const LOPE_FLUSH_DRAIN: u32 = 3;

pub const LOPE_OPTION_SECRET: u32 = 1;

pub const LOPE_LOG_DEBUG: i32 = 0;
pub const LOPE_LOG_INFO: i32 = 1;
pub const LOPE_LOG_WARN: i32 = 2;
pub const LOPE_LOG_ERROR: i32 = 3;

pub const LOPE_COUNTER: i32 = 1;
pub const LOPE_GAUGE: i32 = 2;
pub const LOPE_DURATION: i32 = 3;

pub const LOPE_MSG_REDELIVERED: u32 = 1;
pub const LOPE_MSG_PERSISTENT: u32 = 2;

pub const LOPE_PUB_TRANSIENT: u32 = 1;
pub const LOPE_PUB_MAY_BE_UNROUTABLE: u32 = 2;

#[repr(C)]
pub struct lope_message {
    pub struct_size: u32,
    pub flags: u32,
    pub id: u64,
    pub delivery_tag: u64,
    pub received_unix_ns: u64,
    pub timestamp: u64,
    pub attempt: u32,
    pub crashes: u32,
    pub body: lope_bytes,
    pub queue: lope_str,
    pub exchange: lope_str,
    pub routing_key: lope_str,
    pub consumer_tag: lope_str,
    pub content_type: lope_str,
    pub content_encoding: lope_str,
    pub correlation_id: lope_str,
    pub reply_to: lope_str,
    pub message_id: lope_str,
    pub parent_id: lope_str,
    pub r#type: lope_str,
    pub app_id: lope_str,
    pub user_id: lope_str,
    pub expiration: lope_str,
    pub priority: u32,
    pub header_count: u32,
    pub host_data: *const c_void,
}

#[repr(C)]
pub struct lope_batch {
    pub struct_size: u32,
    pub count: u32,
    pub messages: *const *const lope_message,
}

#[repr(C)]
pub struct lope_publication {
    pub struct_size: u32,
    pub flags: u32,
    pub body: lope_bytes,
    pub exchange: lope_str,
    pub routing_key: lope_str,
    pub content_type: lope_str,
    pub content_encoding: lope_str,
    pub correlation_id: lope_str,
    pub reply_to: lope_str,
    pub message_id: lope_str,
    pub r#type: lope_str,
    pub headers: *const lope_header,
    pub header_count: usize,
    pub delay_ms: u64,
    pub due_unix_ms: u64,
    pub expiration_ms: u32,
    pub priority: u32,
}

#[repr(C)]
pub struct lope_host {
    pub struct_size: u32,
    pub abi_minor: u32,
    pub host_data: *mut c_void,
    pub group: lope_str,
    pub worker_index: u32,
    pub thread_index: u32,
    pub log: unsafe extern "C" fn(*const lope_host, i32, lope_str),
    pub log_enabled: unsafe extern "C" fn(*const lope_host, i32) -> i32,
    pub monotonic_ns: unsafe extern "C" fn(*const lope_host) -> u64,
    pub unix_ns: unsafe extern "C" fn(*const lope_host) -> u64,
    pub stopping: unsafe extern "C" fn(*const lope_host) -> i32,
    pub metric_record: unsafe extern "C" fn(*const lope_host, u32, i64) -> lope_status,
    pub settle: unsafe extern "C" fn(*const lope_host, u64, lope_outcome) -> lope_status,
    pub option: unsafe extern "C" fn(*const lope_host, lope_str, *mut lope_str) -> lope_status,
    pub options_json: unsafe extern "C" fn(*const lope_host) -> lope_str,
    pub metric_register:
        unsafe extern "C" fn(*const lope_host, i32, lope_str, lope_str, *mut u32) -> lope_status,
    pub header_get: unsafe extern "C" fn(
        *const lope_host,
        *const lope_message,
        lope_str,
        *mut lope_value,
    ) -> lope_status,
    pub header_at: unsafe extern "C" fn(
        *const lope_host,
        *const lope_message,
        u32,
        *mut lope_header,
    ) -> lope_status,
    pub publish: unsafe extern "C" fn(
        *const lope_host,
        *const lope_message,
        *const lope_publication,
    ) -> lope_status,
    pub reply: unsafe extern "C" fn(
        *const lope_host,
        *const lope_message,
        *const lope_publication,
    ) -> lope_status,
    pub explain:
        unsafe extern "C" fn(*const lope_host, *const lope_message, lope_str) -> lope_status,
    pub retry_after:
        unsafe extern "C" fn(*const lope_host, *const lope_message, u64) -> lope_status,
    pub keep_alive: unsafe extern "C" fn(*const lope_host, *const lope_message) -> lope_status,
    pub extension: unsafe extern "C" fn(*const lope_host, *const c_char) -> *const c_void,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct lope_option {
    pub name: *const c_char,
    pub default_value: *const c_char,
    pub help: *const c_char,
    pub kind: i32,
    pub flags: u32,
    pub reserved: [*const c_void; 2],
}
// Of static texts only.
unsafe impl Sync for lope_option {}

/// The handler's own state.
#[repr(C)]
pub struct lope_handler {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct lope_plugin {
    pub struct_size: u32,
    pub abi_minor: u32,
    pub name: *const c_char,
    pub version: *const c_char,
    pub description: *const c_char,
    pub options: *const lope_option,
    pub create:
        Option<unsafe extern "C" fn(*const lope_host, *mut *mut lope_handler) -> lope_status>,
    pub destroy: Option<unsafe extern "C" fn(*mut lope_handler)>,
    pub handle:
        Option<unsafe extern "C" fn(*mut lope_handler, *const lope_message) -> lope_outcome>,
    pub handle_batch:
        Option<unsafe extern "C" fn(*mut lope_handler, *const lope_batch, *mut lope_outcome)>,
    pub flush: Option<unsafe extern "C" fn(*mut lope_handler, u32) -> lope_status>,
}
// Of static texts and functions only.
unsafe impl Sync for lope_plugin {}

impl lope_str {
    pub(crate) fn of(bytes: &[u8]) -> lope_str {
        lope_str { data: bytes.as_ptr().cast(), size: bytes.len() }
    }

    /// # Safety
    /// What it points to lives for `'a`.
    pub(crate) unsafe fn bytes<'a>(self) -> &'a [u8] {
        match self.size {
            0 => &[],
            size => std::slice::from_raw_parts(self.data.cast(), size),
        }
    }
}

impl lope_value {
    pub(crate) fn null() -> lope_value {
        lope_value { kind: LOPE_NULL, reserved: 0, r#as: lope_value_as { s: lope_str::of(&[]) } }
    }
}
