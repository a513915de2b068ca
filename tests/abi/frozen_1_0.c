/* A handler built with the header of 1.0 and nothing else, which calls every host function of 1.0.
 * It must load and run for ever. What the body says: ack, retry, reject, hold, none    that outcome
 *   header                            ack if header "colour" is "red" and is the first one, else
 * reject calls                             calls the rest; ack if each answered as it may */
#include "frozen/1.0/handler.h"

#include <stdlib.h>
#include <string.h>

struct lope_handler {
  const lope_host* host;
};

static lope_str text(const char* literal) {
  lope_str str;
  str.data = literal;
  str.size = strlen(literal);
  return str;
}

static int same(lope_str str, const char* literal) {
  return str.size == strlen(literal) && (str.size == 0 || memcmp(str.data, literal, str.size) == 0);
}

/* A host that carries a function out, one that does not, and no other. */
static int carried_out_or_unsupported(lope_status status) {
  return status == LOPE_OK || status == LOPE_E_UNSUPPORTED;
}

static lope_status create(const lope_host* host, lope_handler** handler) {
  lope_str value;
  uint32_t metric = 0;
  if (host->struct_size < sizeof(lope_host)) return LOPE_E_INVALID;
  if (host->option(host, text("colour"), &value) != LOPE_OK) {
    host->explain(host, NULL, text("option 'colour' has no value"));
    return LOPE_E_INVALID;
  }
  if (host->option(host, text("no such option"), &value) != LOPE_E_NOT_FOUND || value.size != 0) {
    host->explain(host, NULL, text("an option that is not there was found"));
    return LOPE_E_INVALID;
  }
  if (!carried_out_or_unsupported(
          host->metric_register(host, LOPE_COUNTER, text("seen"), text("messages seen"), &metric)))
    return LOPE_E_FAILED;
  *handler = malloc(sizeof(**handler));
  if (*handler == NULL) return LOPE_E_FAILED;
  (*handler)->host = host;
  return LOPE_OK;
}

static void destroy(lope_handler* handler) { free(handler); }

static int header_is_there(const lope_host* host, const lope_message* message) {
  lope_value value;
  lope_header first;
  if (host->header_get(host, message, text("colour"), &value) != LOPE_OK) return 0;
  if (value.kind != LOPE_TEXT || !same(value.as.s, "red")) return 0;
  if (host->header_get(host, message, text("no such header"), &value) != LOPE_E_NOT_FOUND) return 0;
  if (message->header_count == 0 || host->header_at(host, message, 0, &first) != LOPE_OK) return 0;
  return same(first.name, "colour") &&
         host->header_at(host, message, message->header_count, &first) == LOPE_E_NOT_FOUND;
}

static int calls_answer(const lope_host* host, const lope_message* message) {
  lope_publication publication;
  memset(&publication, 0, sizeof publication);
  publication.struct_size = sizeof publication;
  publication.routing_key = text("frozen");
  publication.body.data = "body";
  publication.body.size = 4;
  host->log(host, LOPE_LOG_INFO, text("from a handler of ABI 1.0"));
  (void)host->log_enabled(host, LOPE_LOG_DEBUG);
  (void)host->stopping(host);
  return host->monotonic_ns(host) != 0 && host->unix_ns(host) != 0 &&
         host->options_json(host).size >= 2 &&
         carried_out_or_unsupported(host->publish(host, message, &publication)) &&
         host->reply(host, message, &publication) != LOPE_OK &&         /* it has no reply_to */
         host->settle(host, message->id + 1000, LOPE_ACK) != LOPE_OK && /* never held */
         host->metric_record(host, 1000, 1) != LOPE_OK &&               /* no such metric */
         carried_out_or_unsupported(host->retry_after(host, message, 5)) &&
         carried_out_or_unsupported(host->keep_alive(host, message)) &&
         host->extension(host, "lope.test.nowhere/1") == NULL;
}

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  const lope_host* host = handler->host;
  lope_str body;
  body.data = message->body.data;
  body.size = message->body.size;
  if (message->struct_size < sizeof(lope_message)) return LOPE_REJECT;
  if (same(body, "ack")) return LOPE_ACK;
  if (same(body, "retry")) {
    host->explain(host, message, text("told to retry"));
    return LOPE_RETRY;
  }
  if (same(body, "reject")) return LOPE_REJECT;
  if (same(body, "hold")) return LOPE_HOLD;
  if (same(body, "none")) return LOPE_NO_OUTCOME;
  if (same(body, "header")) return header_is_there(host, message) ? LOPE_ACK : LOPE_REJECT;
  if (same(body, "calls")) return calls_answer(host, message) ? LOPE_ACK : LOPE_REJECT;
  return LOPE_REJECT;
}

static void handle_batch(lope_handler* handler, const lope_batch* batch, lope_outcome* outcomes) {
  uint32_t i;
  for (i = 0; i < batch->count; ++i) outcomes[i] = handle(handler, batch->messages[i]);
}

static lope_status flush(lope_handler* handler, uint32_t reason) {
  (void)handler;
  return reason >= LOPE_FLUSH_INTERVAL && reason <= LOPE_FLUSH_DRAIN ? LOPE_OK : LOPE_E_INVALID;
}

static const lope_option options[] = {
    {"colour", "red", "the default colour", LOPE_TEXT, 0, {NULL, NULL}},
    {"pin", "1234", "a secret number", LOPE_UINT64, LOPE_OPTION_SECRET, {NULL, NULL}},
    {NULL, NULL, NULL, 0, 0, {NULL, NULL}}};

const lope_plugin lope_plugin_v1 = {sizeof(lope_plugin),
                                    0,
                                    "frozen_1_0",
                                    "1.0.0",
                                    "built with the header of ABI 1.0",
                                    options,
                                    create,
                                    destroy,
                                    handle,
                                    handle_batch,
                                    flush};
