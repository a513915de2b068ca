// The main() of every test program; the linker takes it from the support library.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
