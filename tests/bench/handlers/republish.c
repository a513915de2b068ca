/* Publishes each message's body once more, to queue `to`; without that option it asks for a retry.
 */
#include <lope/handler.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct lope_handler {
  const lope_host* host;
  lope_str to;
  bool transient;
};

static lope_str text(const char* literal) {
  lope_str str;
  str.data = literal;
  str.size = strlen(literal);
  return str;
}

static lope_status create(const lope_host* host, lope_handler** handler) {
  lope_handler* made = calloc(1, sizeof *made);
  if (made == NULL) return LOPE_E_FAILED;
  made->host = host;
  if (host->option(host, text("to"), &made->to) != LOPE_OK) made->to = text("");
  lope_str transient;
  made->transient = host->option(host, text("transient"), &transient) == LOPE_OK &&
                    transient.size == 4; /* "true" */
  *handler = made;
  return LOPE_OK;
}

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  if (handler->to.size == 0) return LOPE_RETRY;
  lope_publication publication;
  memset(&publication, 0, sizeof publication);
  publication.struct_size = sizeof publication;
  if (handler->transient) publication.flags = LOPE_PUB_TRANSIENT;
  publication.routing_key = handler->to;
  publication.body = message->body;
  return handler->host->publish(handler->host, message, &publication) == LOPE_OK ? LOPE_ACK
                                                                                 : LOPE_REJECT;
}

static void destroy(lope_handler* handler) { free(handler); }

static const lope_option options[] = {
    {"to", "", "queue to publish to", LOPE_TEXT, 0, {NULL, NULL}},
    {"transient", "false", "not persistent", LOPE_BOOL, 0, {NULL, NULL}},
    {NULL, NULL, NULL, 0, 0, {NULL, NULL}}};

const lope_plugin lope_plugin_v1 = {
    .struct_size = sizeof(lope_plugin),
    .name = "republish",
    .version = "1.0.0",
    .description = "publishes what it gets, or asks for a retry",
    .options = options,
    .create = create,
    .destroy = destroy,
    .handle = handle,
};
