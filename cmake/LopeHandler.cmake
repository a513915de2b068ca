# lope_add_handler(NAME SOURCES...)
#
# Adds target NAME, which builds the handler NAME.so from C or C++ sources: a loadable module with no
# "lib" in front, nothing exported but its lope_plugin_v1, and Lope's headers in reach. Copy the file
# into the `handlers_dir` of the configuration and name it there: `handler: NAME`.
#
# The target is an ordinary one: use target_link_libraries() and the rest on it.
function(lope_add_handler name)
  if(NOT ARGN)
    message(FATAL_ERROR "lope_add_handler(${name}): expected at least one source file, found none")
  endif()
  add_library(${name} MODULE ${ARGN})
  target_link_libraries(${name} PRIVATE lope::handler)
  get_property(languages GLOBAL PROPERTY ENABLED_LANGUAGES)
  if("CXX" IN_LIST languages)
    target_compile_features(${name} PRIVATE cxx_std_17)
  endif()
  if("C" IN_LIST languages)
    target_compile_features(${name} PRIVATE c_std_99)
  endif()
  set_target_properties(${name} PROPERTIES
    PREFIX "" SUFFIX ".so"
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
endfunction()
