// What Lope reads before it runs any Go.
#include <lope/go.h>

static const lope_option options[] = {
    {.name = "greeting", .help = "the word to greet with"},
    {.name = NULL},
};

LOPE_GO_HANDLER(.name = "@NAME@", .version = "0.1.0",
                .description = "greets whoever the message names", .options = options);
