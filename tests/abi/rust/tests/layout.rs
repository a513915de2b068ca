//! Each size, offset and number of the crate against those of the released header, pins_1_0.h.

use std::collections::BTreeMap;
use std::mem::{size_of, MaybeUninit};

use lope::abi::*;

fn size_of_place<T>(_: *const T) -> usize {
    size_of::<T>()
}

fn ours() -> BTreeMap<String, (usize, usize)> {
    let mut all = BTreeMap::new();
    macro_rules! layout {
        ($($type:ident { $($member:ident),* })*) => {$(
            all.insert(stringify!($type).to_string(), (0, size_of::<$type>()));
            let value = MaybeUninit::<$type>::uninit();
            let base = value.as_ptr();
            $(
                let place = unsafe { std::ptr::addr_of!((*base).$member) };
                let name = format!("{}.{}", stringify!($type), stringify!($member).trim_start_matches("r#"));
                all.insert(name, (place as usize - base as usize, size_of_place(place)));
            )*
        )*};
    }
    macro_rules! words {
        ($($word:ident)*) => {$( all.insert(stringify!($word).to_string(), ($word as usize, 0)); )*};
    }
    layout! {
        lope_str { data, size }
        lope_bytes { data, size }
        lope_value { kind, reserved, r#as }
        lope_header { name, value }
        lope_message {
            struct_size, flags, id, delivery_tag, received_unix_ns, timestamp, attempt, crashes, body, queue,
            exchange, routing_key, consumer_tag, content_type, content_encoding, correlation_id, reply_to,
            message_id, parent_id, r#type, app_id, user_id, expiration, priority, header_count, host_data
        }
        lope_batch { struct_size, count, messages }
        lope_publication {
            struct_size, flags, body, exchange, routing_key, content_type, content_encoding, correlation_id,
            reply_to, message_id, r#type, headers, header_count, delay_ms, due_unix_ms, expiration_ms, priority
        }
        lope_host {
            struct_size, abi_minor, host_data, group, worker_index, thread_index, log, log_enabled,
            monotonic_ns, unix_ns, stopping, metric_record, settle, option, options_json, metric_register,
            header_get, header_at, publish, reply, explain, retry_after, keep_alive, extension
        }
        lope_option { name, default_value, help, kind, flags, reserved }
        lope_plugin {
            struct_size, abi_minor, name, version, description, options, create, destroy, handle,
            handle_batch, flush
        }
    }
    words! {
        LOPE_INT64 LOPE_UINT64 LOPE_DOUBLE LOPE_BOOL LOPE_TEXT LOPE_BYTES LOPE_TIMESTAMP LOPE_NULL LOPE_OTHER
        LOPE_OK LOPE_E_FAILED LOPE_E_INVALID LOPE_E_NOT_FOUND LOPE_E_TOO_LARGE LOPE_E_WRONG_THREAD
        LOPE_E_STOPPING LOPE_E_UNSUPPORTED LOPE_E_STALE LOPE_NO_OUTCOME LOPE_ACK LOPE_RETRY LOPE_REJECT
        LOPE_HOLD LOPE_FLUSH_INTERVAL LOPE_FLUSH_WINDOW_FULL LOPE_FLUSH_DRAIN LOPE_OPTION_SECRET
        LOPE_LOG_DEBUG LOPE_LOG_INFO LOPE_LOG_WARN LOPE_LOG_ERROR LOPE_COUNTER LOPE_GAUGE LOPE_DURATION
        LOPE_MSG_REDELIVERED LOPE_MSG_PERSISTENT LOPE_PUB_TRANSIENT LOPE_PUB_MAY_BE_UNROUTABLE
    }
    all
}

// LOPE_STRUCT(type, size) LOPE_MEMBER(type, member, offset, size) LOPE_WORD(name, value)
fn pinned() -> BTreeMap<String, (usize, usize)> {
    let mut all = BTreeMap::new();
    for line in include_str!("../../pins_1_0.h").lines() {
        let line = line.trim().trim_end_matches('\\').trim_end();
        let (kind, arguments) = match line.strip_suffix(')').and_then(|line| line.split_once('(')) {
            Some(split) => split,
            None => continue,
        };
        let arguments: Vec<&str> = arguments.split(", ").collect();
        let number = |index: usize| arguments[index].parse::<usize>().unwrap();
        match kind {
            "LOPE_STRUCT" => all.insert(arguments[0].into(), (0, number(1))),
            "LOPE_MEMBER" => {
                all.insert(format!("{}.{}", arguments[0], arguments[1]), (number(2), number(3)))
            }
            "LOPE_WORD" => all.insert(arguments[0].into(), (number(1), 0)),
            _ => None,
        };
    }
    all
}

#[test]
fn the_layout_is_that_of_the_released_header() {
    let pinned = pinned();
    assert!(pinned.len() > 100);
    assert_eq!(ours(), pinned);
}
