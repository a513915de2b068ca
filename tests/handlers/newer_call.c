/* A handler built with a later header that calls a host function of its day without asking whether
 * it is there. It gets LOPE_E_UNSUPPORTED from this host, and says so. */
#include <lope/handler.h>

struct later_host {
  lope_host known;
  lope_status (*later)(const lope_host* host, const lope_message* message, lope_str name);
  lope_status (*far_later[30])(const lope_host* host);
  lope_status (*last)(const lope_host* host, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
};

static const struct later_host* host_of_later(const lope_handler* handler) {
  return (const struct later_host*)(const void*)handler;
}

static lope_status create(const lope_host* host, lope_handler** handler) {
  *handler = (lope_handler*)host;
  return LOPE_OK;
}

static lope_outcome handle(lope_handler* handler, const lope_message* message) {
  static const char why[] = "the host does not support it";
  const struct later_host* host = host_of_later(handler);
  const lope_str reason = {why, sizeof why - 1};
  if (host->later(&host->known, message, reason) != LOPE_E_UNSUPPORTED) return LOPE_REJECT;
  if (host->far_later[0](&host->known) != LOPE_E_UNSUPPORTED) return LOPE_REJECT;
  if (host->last(&host->known, 1, 2, 3, 4) != LOPE_E_UNSUPPORTED) return LOPE_REJECT;
  host->known.explain(&host->known, message, reason);
  return LOPE_RETRY;
}

const lope_plugin lope_plugin_v1 = {.struct_size = sizeof(lope_plugin),
                                    .name = "newer_call",
                                    .version = "1.0.0",
                                    .create = create,
                                    .handle = handle};
