/* The Lope handler ABI, version 1.0. C99 and C++11 or later.
 *
 * A handler is a shared object that exports one data symbol, `lope_plugin_v1`. A worker process
 * loads it, makes one instance per thread with create(), and calls handle() for each message.
 *
 * Threads, written at every declaration:
 *   [handler]     one call at a time per instance, always on the same thread
 *   [in-call]     the same, and only while a handle(), handle_batch() or flush() call runs
 *   [any-thread]  any thread, from the start of create() until destroy() has returned
 *
 * Ownership: who allocates, frees. What the host is given it copies before it returns; nothing
 * is freed across the boundary. Text is UTF-8 by convention and is not NUL-terminated.
 *
 * Growth: structs are only ever appended to. `struct_size` comes first and is set by whoever
 * writes the struct; a member beyond it is absent, and absent means zero. Ask with LOPE_HAS().
 * Rationale: a handler built today must load and run for ever, and a host must be able to tell
 * what an old or a new handler knows of.
 *
 * Exceptions never cross: every function pointer is noexcept where the language has it. A C++
 * exception that leaves one ends the worker process (and no other). <lope/handler.hpp> catches
 * everything at the edge.
 */
#ifndef LOPE_HANDLER_H
#define LOPE_HANDLER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define LOPE_NOEXCEPT noexcept
extern "C" {
#else
#define LOPE_NOEXCEPT
#endif

#define LOPE_EXPORT __attribute__((visibility("default")))

#define LOPE_ABI_MAJOR 1 /* part of the symbol's name; a break is a new symbol */
#define LOPE_ABI_MINOR 0 /* grows with each append */

/* Does *p, as written by the other side, hold `member`? False for a member it is too old for. */
#define LOPE_HAS(p, type, member) ((p)->struct_size >= offsetof(type, member) + sizeof((p)->member))

/* ---- Values. Frozen: never grown. ------------------------------------------------------- */

typedef struct lope_str {
  const char* data; /* may be NULL when size is 0 */
  size_t size;      /* bytes */
} lope_str;

typedef struct lope_bytes {
  const void* data; /* may be NULL when size is 0 */
  size_t size;      /* bytes */
} lope_bytes;

/* Kinds of a lope_value, and of an option. */
enum {
  LOPE_INT64 = 1,     /* as.i */
  LOPE_UINT64 = 2,    /* as.u */
  LOPE_DOUBLE = 3,    /* as.d */
  LOPE_BOOL = 4,      /* as.i, 0 or 1 */
  LOPE_TEXT = 5,      /* as.s */
  LOPE_BYTES = 6,     /* as.s */
  LOPE_TIMESTAMP = 7, /* as.u, seconds since 1970 */
  LOPE_NULL = 8,      /* nothing */
  LOPE_OTHER = 9      /* a table, an array or a decimal: there, but not shown by this version */
};

typedef struct lope_value {
  int32_t kind; /* LOPE_INT64 … */
  int32_t reserved;
  union {
    int64_t i;
    uint64_t u;
    double d;
    lope_str s;
  } as;
} lope_value;

typedef struct lope_header {
  lope_str name;
  lope_value value;
} lope_header;

/* ---- Words ------------------------------------------------------------------------------ */

typedef int32_t lope_status;
enum {
  LOPE_OK = 0,
  LOPE_E_FAILED = 1,       /* it did not work */
  LOPE_E_INVALID = 2,      /* an argument, or from create() the configuration, is wrong */
  LOPE_E_NOT_FOUND = 3,    /* no such option, header or metric */
  LOPE_E_TOO_LARGE = 4,    /* over a limit */
  LOPE_E_WRONG_THREAD = 5, /* not allowed on this thread, or not at this moment */
  LOPE_E_STOPPING = 6,     /* the daemon is draining */
  LOPE_E_UNSUPPORTED = 7,  /* this host does not have it */
  LOPE_E_STALE = 8         /* the message is settled already, or was handed back */
};

typedef int32_t lope_outcome;
enum {
  LOPE_NO_OUTCOME = 0, /* treated as LOPE_RETRY and logged as the handler's fault */
  LOPE_ACK = 1,        /* done */
  LOPE_RETRY = 2,      /* could succeed later: the group's retry policy decides when */
  LOPE_REJECT = 3,     /* never will: dead-letter it */
  LOPE_HOLD = 4        /* kept: valid until host->settle() is called with its id, from any thread */
};

/* Why flush() is called. */
enum {
  LOPE_FLUSH_INTERVAL = 1,    /* the group's flush_interval is up; advice */
  LOPE_FLUSH_WINDOW_FULL = 2, /* nothing more can arrive until something is settled; advice */
  LOPE_FLUSH_DRAIN = 3        /* the last call: what is still held after it is handed back */
};

enum { LOPE_OPTION_SECRET = 1u << 0 }; /* never shown by status, logs or inspect */

enum { LOPE_LOG_DEBUG = 0, LOPE_LOG_INFO = 1, LOPE_LOG_WARN = 2, LOPE_LOG_ERROR = 3 };

enum { LOPE_COUNTER = 1, LOPE_GAUGE = 2, LOPE_DURATION = 3 }; /* a duration is in nanoseconds */

enum {
  LOPE_MSG_REDELIVERED = 1u << 0, /* the broker has delivered it before, perhaps to somebody else */
  LOPE_MSG_PERSISTENT = 1u << 1   /* delivery mode 2 */
};

enum {
  LOPE_PUB_TRANSIENT = 1u << 0,        /* default: persistent */
  LOPE_PUB_MAY_BE_UNROUTABLE = 1u << 1 /* default: if unroutable, its cause is retried */
};

/* ---- A message. Written by the host. ---------------------------------------------------- */

/* Everything reachable from it is valid, and unchanged, until the handle call returns; for a held
 * message until it is settled. A property that the message does not carry has size 0. */
typedef struct lope_message {
  uint32_t struct_size;
  uint32_t flags;            /* LOPE_MSG_… */
  uint64_t id;               /* never used again in this process; what settle() takes */
  uint64_t delivery_tag;     /* the broker's, for logs */
  uint64_t received_unix_ns; /* when the daemon got it */
  uint64_t timestamp;        /* the publisher's, seconds since 1970; 0 if absent */
  uint32_t attempt;          /* 1 the first time */
  uint32_t crashes;          /* workers it has taken down so far */
  lope_bytes body;           /* decompressed when the group says so; no alignment is promised */
  lope_str queue;
  lope_str exchange;
  lope_str routing_key;
  lope_str consumer_tag;
  lope_str content_type;
  lope_str content_encoding;
  lope_str correlation_id;
  lope_str reply_to;
  lope_str message_id;
  lope_str parent_id; /* message id of the message that this one was published for */
  lope_str type;
  lope_str app_id;
  lope_str user_id;
  lope_str expiration;
  uint32_t priority;
  uint32_t header_count; /* headers: host->header_get(), host->header_at() */
  const void* host_data; /* the host's own */
  /* ---- end of 1.0: append below, never above ---- */
} lope_message;

/* Valid until handle_batch() returns. Pointers, so that lope_message may grow. */
typedef struct lope_batch {
  uint32_t struct_size;
  uint32_t count; /* at least 1 */
  const lope_message* const* messages;
  /* ---- end of 1.0 ---- */
} lope_batch;

/* Written by the handler: zero it, set struct_size, fill in what is needed. No text is over 255
 * bytes, but for a header's value. What it takes to be accepted: host->publish(). */
typedef struct lope_publication {
  uint32_t struct_size;
  uint32_t flags; /* LOPE_PUB_… */
  lope_bytes body;
  lope_str exchange; /* empty: the default exchange */
  lope_str routing_key;
  lope_str content_type;
  lope_str content_encoding;
  lope_str correlation_id;
  lope_str reply_to;
  lope_str message_id; /* empty: the host makes a UUID */
  lope_str type;
  const lope_header* headers;
  size_t header_count;
  uint64_t delay_ms;      /* 0: now */
  uint64_t due_unix_ms;   /* 0: now; a past time: now; with delay_ms, the later of the two */
  uint32_t expiration_ms; /* 0: never */
  uint32_t priority;      /* 0 to 255 */
  /* ---- end of 1.0 ---- */
} lope_publication;

/* ---- The host: what a handler may call. -------------------------------------------------- */

typedef struct lope_host lope_host;

/* One per instance; the pointer given to create() stays valid until destroy() has returned.
 * A host function that this version does not carry out returns LOPE_E_UNSUPPORTED. A call of a
 * member beyond struct_size lands, for 32 pointers, in a function that returns the same. */
struct lope_host {
  uint32_t struct_size;
  uint32_t abi_minor;    /* of the host */
  void* host_data;       /* the host's own */
  lope_str group;        /* the name in the configuration */
  uint32_t worker_index; /* from 0; a replacement gets its predecessor's */
  uint32_t thread_index; /* from 0 within the worker */

  /* [any-thread] Writes one line to the daemon's log; control characters are escaped, long text is
   * cut. */
  void (*log)(const lope_host* host, int32_t level, lope_str text) LOPE_NOEXCEPT;
  /* [any-thread] Non-zero when a line of that level would be written. */
  int32_t (*log_enabled)(const lope_host* host, int32_t level) LOPE_NOEXCEPT;
  /* [any-thread] CLOCK_MONOTONIC. */
  uint64_t (*monotonic_ns)(const lope_host* host) LOPE_NOEXCEPT;
  /* [any-thread] Nanoseconds since 1970. */
  uint64_t (*unix_ns)(const lope_host* host) LOPE_NOEXCEPT;
  /* [any-thread] Non-zero once a drain has begun: finish soon. */
  int32_t (*stopping)(const lope_host* host) LOPE_NOEXCEPT;
  /* [any-thread] Adds to a counter, sets a gauge, records a duration. LOPE_E_NOT_FOUND: unknown id.
   */
  lope_status (*metric_record)(const lope_host* host, uint32_t id, int64_t value) LOPE_NOEXCEPT;
  /* [any-thread] Ends a held message's life: it may not be touched afterwards. LOPE_E_STALE: it was
   * settled already, was never held, or was handed back; harmless. LOPE_E_INVALID: not an outcome
   * that settles (LOPE_ACK, LOPE_RETRY, LOPE_REJECT). */
  lope_status (*settle)(const lope_host* host, uint64_t message_id,
                        lope_outcome outcome) LOPE_NOEXCEPT;

  /* [handler] One option's value as text, valid until destroy() returns; nested keys are joined
   * with '.'. The default of the option table stands in for a key that is not configured.
   * LOPE_E_NOT_FOUND: neither configured nor defaulted; *value is empty then. */
  lope_status (*option)(const lope_host* host, lope_str key, lope_str* value) LOPE_NOEXCEPT;
  /* [handler] The group's `options:` map as JSON, without defaults; lives as the options do. */
  lope_str (*options_json)(const lope_host* host) LOPE_NOEXCEPT;
  /* [handler] Only in create(). Registers a metric; *id is what metric_record() takes, the same in
   * each instance of a worker that registers the same name. LOPE_E_INVALID: not a name, or one that
   * has another kind already. LOPE_E_TOO_LARGE: there are 64 already. */
  lope_status (*metric_register)(const lope_host* host, int32_t kind, lope_str name, lope_str help,
                                 uint32_t* id) LOPE_NOEXCEPT;

  /* The rest: [in-call] for a message of the running call, [any-thread] for a held one. What
   * another thread does for a message before its handler's call has returned counts as if the
   * handler had done it. Once it has returned something other than LOPE_HOLD the message is gone
   * for every thread, and settle() by another thread has counted for nothing: the host warns. */

  /* One header by name, the first if there are several. LOPE_E_NOT_FOUND: none; value->kind is 0
   * then. What *value points to lives as long as the message. */
  lope_status (*header_get)(const lope_host* host, const lope_message* message, lope_str name,
                            lope_value* value) LOPE_NOEXCEPT;
  /* One header by place, 0 to header_count - 1. LOPE_E_NOT_FOUND: beyond the last. */
  lope_status (*header_at)(const lope_host* host, const lope_message* message, uint32_t index,
                           lope_header* header) LOPE_NOEXCEPT;
  /* Publishes on behalf of `cause`. Nothing is sent before the outcome: with LOPE_ACK all that was
   * published for the message is sent, and it is acked once all of that is confirmed. If that does
   * not come about, or one is unroutable and may not be, the cause is retried, and what was sent
   * stays sent. With any other outcome it is dropped.
   *
   * The host adds: a message_id where there is none, the time, and the headers x-lope-parent-id
   * (the cause's message_id), x-lope-trace-id (the cause's own, or its message_id), and traceparent
   * and tracestate as the cause has them, unless they are set. Headers that are named x-lope-…,
   * x-death, x-first-death-…, x-last-death-… or x-delivery-count are left out, whatever they hold:
   * they tell of the cause. To pass on the headers of the cause, hand in what header_at() gives,
   * without those that are refused: any message may have some (all of Celery's have tables and
   * arrays, which are LOPE_OTHER).
   *
   * Refused, and nothing is kept:
   *
   * - LOPE_E_INVALID: a text over 255 bytes, but for a header's value; a priority over 255; a
   *   header without a name, of kind LOPE_OTHER or an unknown one, of kind LOPE_UINT64 and over
   *   INT64_MAX, or named CC or BCC (no confirm tells of the queues they name);
   *
   * - LOPE_E_TOO_LARGE: a body over the broker's max_message_size, properties and headers over
   *   127 KiB together, more than one publication and over 128 MiB for this cause;
   *
   * - LOPE_E_UNSUPPORTED: a flag or a member that this host does not know;
   *
   * - LOPE_E_WRONG_THREAD: not a message of the running call, and not held;
   *
   * - LOPE_E_FAILED: no memory for it. */
  lope_status (*publish)(const lope_host* host, const lope_message* cause,
                         const lope_publication* publication) LOPE_NOEXCEPT;
  /* As publish(), to the request's reply_to, with its correlation_id unless the publication has
   * one. LOPE_E_INVALID also: the request has no reply_to, or the publication names an exchange or
   * a routing key. Always LOPE_PUB_MAY_BE_UNROUTABLE. Rationale: who asked may be gone, and
   * RabbitMQ calls direct reply-to unroutable even where it arrives. */
  lope_status (*reply)(const lope_host* host, const lope_message* request,
                       const lope_publication* publication) LOPE_NOEXCEPT;
  /* Why the message is not acked; goes to the log and the dead letter, cut to 1 KiB. With a NULL
   * message, in create(): why it failed. */
  lope_status (*explain)(const lope_host* host, const lope_message* message,
                         lope_str reason) LOPE_NOEXCEPT;
  /* The delay of this LOPE_RETRY only, in place of what the group's retry policy says; at most 366
   * days. The last call counts. */
  lope_status (*retry_after)(const lope_host* host, const lope_message* message,
                             uint64_t ms) LOPE_NOEXCEPT;
  /* Restarts the timeout: of the running call, if the message is one of it; of the message, if it
   * is held. Inside flush(), with a held message, that of flush() as well. For a held message no
   * more often than every 10 ms; what comes between is LOPE_OK and does nothing. LOPE_E_STALE:
   * held, but timed out already, or handed back. */
  lope_status (*keep_alive)(const lope_host* host, const lope_message* message) LOPE_NOEXCEPT;
  /* [any-thread] Draft interfaces by name, for example "lope.x/1"; NULL when there is none. */
  /* clang-format off */
  const void* (*extension)(const lope_host* host, const char* id) LOPE_NOEXCEPT;
  /* clang-format on */
  /* ---- end of 1.0: append below, never above ----
   * Only functions that return lope_status, with results through pointers. Rationale: a handler
   * newer than its host finds, in the place of such a function, one that returns
   * LOPE_E_UNSUPPORTED, which is no answer of any other type. */
};

/* ---- The plugin: what a handler is. Written by the handler. ------------------------------ */

/* Frozen: an array by value. Ends with name NULL. All text is NUL-terminated and static. */
typedef struct lope_option {
  const char* name;          /* nested keys joined with '.'; with ".*" at its end: a list or a map,
                                whose entries are the options "name.0", "name.1", or "name.key" */
  const char* default_value; /* NULL: required */
  const char* help;
  int32_t kind;   /* LOPE_TEXT, LOPE_INT64, LOPE_UINT64, LOPE_DOUBLE or LOPE_BOOL; 0 is LOPE_TEXT */
  uint32_t flags; /* LOPE_OPTION_SECRET */
  const void* reserved[2];
} lope_option;

/* The handler's own state; the host only carries the pointer. */
typedef struct lope_handler lope_handler;

typedef struct lope_plugin {
  uint32_t struct_size;
  uint32_t abi_minor; /* the lowest host minor it works with */
  const char* name;   /* static text, like version and description */
  const char* version;
  const char* description;    /* may be NULL */
  const lope_option* options; /* NULL: takes any key */

  /* [handler] Makes one instance. On LOPE_OK *handler goes back to the other calls (it may stay
   * NULL). LOPE_E_INVALID: the configuration is wrong, do not start again. Any other failure: the
   * daemon tries again with back-off. Say why with host->explain(host, NULL, …). May be NULL: no
   * state. */
  lope_status (*create)(const lope_host* host, lope_handler** handler) LOPE_NOEXCEPT;
  /* [handler] On a clean end only, never after a crash or a kill. May be NULL. */
  void (*destroy)(lope_handler* handler) LOPE_NOEXCEPT;
  /* [handler] One message. Required unless handle_batch is there. */
  lope_outcome (*handle)(lope_handler* handler, const lope_message* message) LOPE_NOEXCEPT;
  /* [handler] Optional. outcomes[i] is for batch->messages[i]; all are LOPE_NO_OUTCOME on entry. */
  void (*handle_batch)(lope_handler* handler, const lope_batch* batch,
                       lope_outcome* outcomes) LOPE_NOEXCEPT;
  /* [handler] Optional. Settle what is held, for the reason given (LOPE_FLUSH_…). Without it a
   * window that is full of held messages waits. */
  lope_status (*flush)(lope_handler* handler, uint32_t reason) LOPE_NOEXCEPT;
  /* ---- end of 1.0: append below, never above ---- */
} lope_plugin;

/* The one symbol. Constant-initialised (C++: constinit), so that the host can read the numbers from
 * the file before it runs any of its code. */
extern LOPE_EXPORT const lope_plugin lope_plugin_v1;

#ifdef __cplusplus
}
#endif

#endif /* LOPE_HANDLER_H */
