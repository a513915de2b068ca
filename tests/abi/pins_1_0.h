/* Every size, offset and number of ABI 1.0, as it was released. Nothing in this list is ever
 * changed: a later minor gets a list of its own. LP64, little-endian (x86-64 and aarch64 agree). */
#ifndef LOPE_TESTS_ABI_PINS_1_0_H
#define LOPE_TESTS_ABI_PINS_1_0_H

/* LOPE_STRUCT(type, size) LOPE_MEMBER(type, member, offset, size) LOPE_WORD(name, value) */
/* clang-format off */
#define LOPE_PINS_1_0 \
  LOPE_STRUCT(lope_str, 16) \
  LOPE_MEMBER(lope_str, data, 0, 8) \
  LOPE_MEMBER(lope_str, size, 8, 8) \
  LOPE_STRUCT(lope_bytes, 16) \
  LOPE_MEMBER(lope_bytes, data, 0, 8) \
  LOPE_MEMBER(lope_bytes, size, 8, 8) \
  LOPE_STRUCT(lope_value, 24) \
  LOPE_MEMBER(lope_value, kind, 0, 4) \
  LOPE_MEMBER(lope_value, reserved, 4, 4) \
  LOPE_MEMBER(lope_value, as, 8, 16) \
  LOPE_STRUCT(lope_header, 40) \
  LOPE_MEMBER(lope_header, name, 0, 16) \
  LOPE_MEMBER(lope_header, value, 16, 24) \
  LOPE_STRUCT(lope_message, 304) \
  LOPE_MEMBER(lope_message, struct_size, 0, 4) \
  LOPE_MEMBER(lope_message, flags, 4, 4) \
  LOPE_MEMBER(lope_message, id, 8, 8) \
  LOPE_MEMBER(lope_message, delivery_tag, 16, 8) \
  LOPE_MEMBER(lope_message, received_unix_ns, 24, 8) \
  LOPE_MEMBER(lope_message, timestamp, 32, 8) \
  LOPE_MEMBER(lope_message, attempt, 40, 4) \
  LOPE_MEMBER(lope_message, crashes, 44, 4) \
  LOPE_MEMBER(lope_message, body, 48, 16) \
  LOPE_MEMBER(lope_message, queue, 64, 16) \
  LOPE_MEMBER(lope_message, exchange, 80, 16) \
  LOPE_MEMBER(lope_message, routing_key, 96, 16) \
  LOPE_MEMBER(lope_message, consumer_tag, 112, 16) \
  LOPE_MEMBER(lope_message, content_type, 128, 16) \
  LOPE_MEMBER(lope_message, content_encoding, 144, 16) \
  LOPE_MEMBER(lope_message, correlation_id, 160, 16) \
  LOPE_MEMBER(lope_message, reply_to, 176, 16) \
  LOPE_MEMBER(lope_message, message_id, 192, 16) \
  LOPE_MEMBER(lope_message, parent_id, 208, 16) \
  LOPE_MEMBER(lope_message, type, 224, 16) \
  LOPE_MEMBER(lope_message, app_id, 240, 16) \
  LOPE_MEMBER(lope_message, user_id, 256, 16) \
  LOPE_MEMBER(lope_message, expiration, 272, 16) \
  LOPE_MEMBER(lope_message, priority, 288, 4) \
  LOPE_MEMBER(lope_message, header_count, 292, 4) \
  LOPE_MEMBER(lope_message, host_data, 296, 8) \
  LOPE_STRUCT(lope_batch, 16) \
  LOPE_MEMBER(lope_batch, struct_size, 0, 4) \
  LOPE_MEMBER(lope_batch, count, 4, 4) \
  LOPE_MEMBER(lope_batch, messages, 8, 8) \
  LOPE_STRUCT(lope_publication, 192) \
  LOPE_MEMBER(lope_publication, struct_size, 0, 4) \
  LOPE_MEMBER(lope_publication, flags, 4, 4) \
  LOPE_MEMBER(lope_publication, body, 8, 16) \
  LOPE_MEMBER(lope_publication, exchange, 24, 16) \
  LOPE_MEMBER(lope_publication, routing_key, 40, 16) \
  LOPE_MEMBER(lope_publication, content_type, 56, 16) \
  LOPE_MEMBER(lope_publication, content_encoding, 72, 16) \
  LOPE_MEMBER(lope_publication, correlation_id, 88, 16) \
  LOPE_MEMBER(lope_publication, reply_to, 104, 16) \
  LOPE_MEMBER(lope_publication, message_id, 120, 16) \
  LOPE_MEMBER(lope_publication, type, 136, 16) \
  LOPE_MEMBER(lope_publication, headers, 152, 8) \
  LOPE_MEMBER(lope_publication, header_count, 160, 8) \
  LOPE_MEMBER(lope_publication, delay_ms, 168, 8) \
  LOPE_MEMBER(lope_publication, due_unix_ms, 176, 8) \
  LOPE_MEMBER(lope_publication, expiration_ms, 184, 4) \
  LOPE_MEMBER(lope_publication, priority, 188, 4) \
  LOPE_STRUCT(lope_option, 48) \
  LOPE_MEMBER(lope_option, name, 0, 8) \
  LOPE_MEMBER(lope_option, default_value, 8, 8) \
  LOPE_MEMBER(lope_option, help, 16, 8) \
  LOPE_MEMBER(lope_option, kind, 24, 4) \
  LOPE_MEMBER(lope_option, flags, 28, 4) \
  LOPE_MEMBER(lope_option, reserved, 32, 16) \
  LOPE_STRUCT(lope_plugin, 80) \
  LOPE_MEMBER(lope_plugin, struct_size, 0, 4) \
  LOPE_MEMBER(lope_plugin, abi_minor, 4, 4) \
  LOPE_MEMBER(lope_plugin, name, 8, 8) \
  LOPE_MEMBER(lope_plugin, version, 16, 8) \
  LOPE_MEMBER(lope_plugin, description, 24, 8) \
  LOPE_MEMBER(lope_plugin, options, 32, 8) \
  LOPE_MEMBER(lope_plugin, create, 40, 8) \
  LOPE_MEMBER(lope_plugin, destroy, 48, 8) \
  LOPE_MEMBER(lope_plugin, handle, 56, 8) \
  LOPE_MEMBER(lope_plugin, handle_batch, 64, 8) \
  LOPE_MEMBER(lope_plugin, flush, 72, 8) \
  LOPE_STRUCT(lope_host, 184) \
  LOPE_MEMBER(lope_host, struct_size, 0, 4) \
  LOPE_MEMBER(lope_host, abi_minor, 4, 4) \
  LOPE_MEMBER(lope_host, host_data, 8, 8) \
  LOPE_MEMBER(lope_host, group, 16, 16) \
  LOPE_MEMBER(lope_host, worker_index, 32, 4) \
  LOPE_MEMBER(lope_host, thread_index, 36, 4) \
  LOPE_MEMBER(lope_host, log, 40, 8) \
  LOPE_MEMBER(lope_host, log_enabled, 48, 8) \
  LOPE_MEMBER(lope_host, monotonic_ns, 56, 8) \
  LOPE_MEMBER(lope_host, unix_ns, 64, 8) \
  LOPE_MEMBER(lope_host, stopping, 72, 8) \
  LOPE_MEMBER(lope_host, metric_record, 80, 8) \
  LOPE_MEMBER(lope_host, settle, 88, 8) \
  LOPE_MEMBER(lope_host, option, 96, 8) \
  LOPE_MEMBER(lope_host, options_json, 104, 8) \
  LOPE_MEMBER(lope_host, metric_register, 112, 8) \
  LOPE_MEMBER(lope_host, header_get, 120, 8) \
  LOPE_MEMBER(lope_host, header_at, 128, 8) \
  LOPE_MEMBER(lope_host, publish, 136, 8) \
  LOPE_MEMBER(lope_host, reply, 144, 8) \
  LOPE_MEMBER(lope_host, explain, 152, 8) \
  LOPE_MEMBER(lope_host, retry_after, 160, 8) \
  LOPE_MEMBER(lope_host, keep_alive, 168, 8) \
  LOPE_MEMBER(lope_host, extension, 176, 8) \
  LOPE_WORD(LOPE_INT64, 1) \
  LOPE_WORD(LOPE_UINT64, 2) \
  LOPE_WORD(LOPE_DOUBLE, 3) \
  LOPE_WORD(LOPE_BOOL, 4) \
  LOPE_WORD(LOPE_TEXT, 5) \
  LOPE_WORD(LOPE_BYTES, 6) \
  LOPE_WORD(LOPE_TIMESTAMP, 7) \
  LOPE_WORD(LOPE_NULL, 8) \
  LOPE_WORD(LOPE_OTHER, 9) \
  LOPE_WORD(LOPE_OK, 0) \
  LOPE_WORD(LOPE_E_FAILED, 1) \
  LOPE_WORD(LOPE_E_INVALID, 2) \
  LOPE_WORD(LOPE_E_NOT_FOUND, 3) \
  LOPE_WORD(LOPE_E_TOO_LARGE, 4) \
  LOPE_WORD(LOPE_E_WRONG_THREAD, 5) \
  LOPE_WORD(LOPE_E_STOPPING, 6) \
  LOPE_WORD(LOPE_E_UNSUPPORTED, 7) \
  LOPE_WORD(LOPE_E_STALE, 8) \
  LOPE_WORD(LOPE_NO_OUTCOME, 0) \
  LOPE_WORD(LOPE_ACK, 1) \
  LOPE_WORD(LOPE_RETRY, 2) \
  LOPE_WORD(LOPE_REJECT, 3) \
  LOPE_WORD(LOPE_HOLD, 4) \
  LOPE_WORD(LOPE_FLUSH_INTERVAL, 1) \
  LOPE_WORD(LOPE_FLUSH_WINDOW_FULL, 2) \
  LOPE_WORD(LOPE_FLUSH_DRAIN, 3) \
  LOPE_WORD(LOPE_OPTION_SECRET, 1) \
  LOPE_WORD(LOPE_LOG_DEBUG, 0) \
  LOPE_WORD(LOPE_LOG_INFO, 1) \
  LOPE_WORD(LOPE_LOG_WARN, 2) \
  LOPE_WORD(LOPE_LOG_ERROR, 3) \
  LOPE_WORD(LOPE_COUNTER, 1) \
  LOPE_WORD(LOPE_GAUGE, 2) \
  LOPE_WORD(LOPE_DURATION, 3) \
  LOPE_WORD(LOPE_MSG_REDELIVERED, 1) \
  LOPE_WORD(LOPE_MSG_PERSISTENT, 2) \
  LOPE_WORD(LOPE_PUB_TRANSIENT, 1) \
  LOPE_WORD(LOPE_PUB_MAY_BE_UNROUTABLE, 2)
/* clang-format on */

#endif
