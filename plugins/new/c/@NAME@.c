/* A handler to start from, in C99: takes one option, and greets whoever the message names. */
#include <lope/handler.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One a thread; every call about it comes from that thread. */
struct lope_handler {
  const lope_host* host;
  lope_str greeting; /* the host's, valid until destroy() returns */
};

static lope_str text(const char* literal) {
  lope_str str;
  str.data = literal;
  str.size = strlen(literal);
  return str;
}

static lope_status create(const lope_host* host, lope_handler** handler) {
  lope_handler* made = malloc(sizeof *made);
  if (made == NULL) return LOPE_E_FAILED;
  made->host = host;
  if (host->option(host, text("greeting"), &made->greeting) != LOPE_OK ||
      made->greeting.size == 0) {
    free(made);
    host->explain(host, NULL, text("option 'greeting': expected a word, found none"));
    return LOPE_E_INVALID;
  }
  *handler = made;
  return LOPE_OK;
}

static void destroy(lope_handler* handler) { free(handler); }

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  const lope_host* host = handler->host;
  char line[256];
  if (message->body.size == 0) {
    /* Nobody will ever be able to handle this one: it is dead-lettered. */
    host->explain(host, message, text("an empty body: nobody to greet"));
    return LOPE_REJECT;
  }
  /* Text has a size and no NUL at its end; cut, so that it fits. */
  snprintf(line, sizeof line, "%.*s, %.*s!",
           (int)(handler->greeting.size < 100 ? handler->greeting.size : 100),
           handler->greeting.data, (int)(message->body.size < 100 ? message->body.size : 100),
           (const char*)message->body.data);
  host->log(host, LOPE_LOG_INFO, text(line));
  return LOPE_ACK;
}

static const lope_option options[] = {
    {"greeting", NULL, "the word to greet with", LOPE_TEXT, 0, {NULL, NULL}},
    {NULL, NULL, NULL, 0, 0, {NULL, NULL}},
};

const lope_plugin lope_plugin_v1 = {
    .struct_size = sizeof(lope_plugin),
    .abi_minor = 0, /* the oldest host it works with */
    .name = "@NAME@",
    .version = "0.1.0",
    .description = "greets whoever the message names",
    .options = options,
    .create = create,
    .destroy = destroy,
    .handle = handle,
};
