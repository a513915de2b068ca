#include <lope/go.h>

static const lope_option options[] = {
    {.name = "name", .help = "any text"},
    {.name = "width", .default_value = "640", .help = "an integer", .kind = LOPE_INT64},
    {.name = "panic",
     .default_value = "no",
     .help = "panic when made",
     .kind = LOPE_BOOL,
     .flags = LOPE_OPTION_SECRET},
    {.name = "tags.*", .default_value = "", .help = "a list"},
    {.name = NULL},
};

LOPE_GO_HANDLER(.name = "edge", .version = "1.0.0", .description = "for the tests",
                .options = options, LOPE_GO_BATCHES, LOPE_GO_FLUSHES);
