/* The functions of the table, as lope/go.h names them: what is a pointer there is a number for Go.
 */
#include <lope/handler.h>
#include <stdint.h>

#include "_cgo_export.h"

lope_status lope_go_create(const lope_host* host, lope_handler** handler) {
  uintptr_t number = 0;
  const lope_status status = lopeGoCreate((lope_host*)host, &number);
  *handler = (lope_handler*)number;
  return status;
}

void lope_go_destroy(lope_handler* handler) { lopeGoDestroy((uintptr_t)handler); }

lope_outcome lope_go_handle(lope_handler* handler, const lope_message* message) {
  return lopeGoHandle((uintptr_t)handler, (lope_message*)message);
}

void lope_go_handle_batch(lope_handler* handler, const lope_batch* batch, lope_outcome* outcomes) {
  lopeGoHandleBatch((uintptr_t)handler, (lope_batch*)batch, outcomes);
}

lope_status lope_go_flush(lope_handler* handler, uint32_t reason) {
  return lopeGoFlush((uintptr_t)handler, reason);
}
