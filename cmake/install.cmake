# cmake --install: a tree that can be moved, with nothing of the build folder's paths in it.
include(CMakePackageConfigHelpers)

set(LOPE_HANDLERS_INSTALL_DIR lib/lope/handlers)
set(lope_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lope)
set(lope_pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# Programs. Those beside `lope` are its own and not for PATH.
install(TARGETS lope RUNTIME DESTINATION bin)
install(TARGETS lope-client lope-consumer lope-monitor lope-worker RUNTIME DESTINATION libexec/lope)

# Handlers.
set(lope_handlers log dots exec forward null)
foreach(handler bulk_insert http journal python)
  if(TARGET ${handler})
    list(APPEND lope_handlers ${handler})
  endif()
endforeach()
install(TARGETS ${lope_handlers} LIBRARY DESTINATION ${LOPE_HANDLERS_INSTALL_DIR})

# What a handler is built with.
install(FILES ${PROJECT_SOURCE_DIR}/plugin-api/include/lope/handler.h
              ${PROJECT_SOURCE_DIR}/plugin-api/include/lope/handler.hpp
              ${PROJECT_SOURCE_DIR}/plugin-api/include/lope/testing.hpp
              ${PROJECT_SOURCE_DIR}/plugin-api/include/lope/go.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lope)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/plugin-api/rust ${PROJECT_SOURCE_DIR}/plugin-api/go DESTINATION share/lope
  PATTERN target EXCLUDE PATTERN .gitignore EXCLUDE)
set_target_properties(lope_handler PROPERTIES EXPORT_NAME handler)
install(TARGETS lope_handler EXPORT lopeTargets)
install(EXPORT lopeTargets NAMESPACE lope:: DESTINATION ${lope_cmake_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/lopeConfig.cmake.in
  ${PROJECT_BINARY_DIR}/install/lopeConfig.cmake
  INSTALL_DESTINATION ${lope_cmake_dir} PATH_VARS LOPE_HANDLERS_INSTALL_DIR)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/install/lopeConfigVersion.cmake
  COMPATIBILITY SameMajorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/install/lopeConfig.cmake
              ${PROJECT_BINARY_DIR}/install/lopeConfigVersion.cmake
              ${PROJECT_SOURCE_DIR}/cmake/LopeHandler.cmake
        DESTINATION ${lope_cmake_dir})
file(RELATIVE_PATH LOPE_PC_TO_PREFIX /${lope_pc_dir} /)
string(REGEX REPLACE "/$" "" LOPE_PC_TO_PREFIX ${LOPE_PC_TO_PREFIX})
configure_file(${PROJECT_SOURCE_DIR}/cmake/lope.pc.in ${PROJECT_BINARY_DIR}/install/lope.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/install/lope.pc DESTINATION ${lope_pc_dir})

# What `lope new` makes projects of.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/plugins/new DESTINATION share/lope)

# Documentation, laid out as it is here: it is full of links.
set(lope_doc share/doc/lope)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/CHANGELOG.md
  ${PROJECT_SOURCE_DIR}/CONTRIBUTING.md DESTINATION ${lope_doc})
file(GLOB lope_docs CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/docs/*.md ${PROJECT_SOURCE_DIR}/docs/*.png)
install(FILES ${lope_docs} DESTINATION ${lope_doc}/docs)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs/monitoring DESTINATION ${lope_doc}/docs)
install(FILES ${PROJECT_SOURCE_DIR}/config/lope.yaml ${PROJECT_SOURCE_DIR}/config/lope.schema.json
  DESTINATION ${lope_doc}/config)
file(GLOB lope_plugin_docs CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/plugins/*/README.md)
foreach(file ${lope_plugin_docs})
  get_filename_component(folder ${file} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/${file} DESTINATION ${lope_doc}/${folder})
endforeach()

# lope.service, and lope@.service of which each instance has a configuration and folders of its own.
# Not below /run/lope: that goes when lope.service stops.
function(lope_unit name)
  cmake_parse_arguments(PARSE_ARGV 1 LOPE_UNIT "" "SUFFIX;CONFIG;FOLDER;EDIT" "")
  configure_file(${PROJECT_SOURCE_DIR}/systemd/lope.service.in ${PROJECT_BINARY_DIR}/systemd/${name} @ONLY)
endfunction()
lope_unit(lope.service SUFFIX "" CONFIG lope FOLDER lope EDIT lope)
lope_unit(lope@.service SUFFIX " (%i)" CONFIG %i FOLDER lope-%i EDIT lope@)

set(lope_completions ${PROJECT_SOURCE_DIR}/packaging/completions)
install(FILES ${lope_completions}/lope.bash DESTINATION share/bash-completion/completions RENAME lope)
install(FILES ${lope_completions}/_lope DESTINATION share/zsh/site-functions)
install(FILES ${lope_completions}/lope.fish DESTINATION share/fish/vendor_completions.d)

# What names the prefix or lies outside it is settled when the prefix is final. The folder for
# configuration is /etc for /usr, as everywhere; one that is there already is the administrator's.
install(CODE "set(lope_source \"${PROJECT_SOURCE_DIR}\")\nset(lope_units \"${PROJECT_BINARY_DIR}/systemd\")\nset(lope_scratch \"${PROJECT_BINARY_DIR}/install\")")
install(CODE [[
  get_filename_component(prefix "${CMAKE_INSTALL_PREFIX}" ABSOLUTE)
  if(prefix STREQUAL "/usr")
    set(sysconf /etc)
  else()
    set(sysconf ${prefix}/etc)
  endif()
  if(NOT EXISTS "$ENV{DESTDIR}${sysconf}/lope/lope.yaml")
    file(READ ${lope_source}/config/small.yaml text)
    string(REPLACE "/usr/share/" "${prefix}/share/" text "${text}")
    file(WRITE ${lope_scratch}/lope.yaml "${text}")
    file(INSTALL ${lope_scratch}/lope.yaml DESTINATION ${sysconf}/lope)
  endif()
  foreach(path ${lope_units}/lope.service ${lope_units}/lope@.service ${lope_source}/systemd/lope.sysusers
      ${lope_source}/systemd/lope.tmpfiles)
    get_filename_component(file ${path} NAME)
    file(READ ${path} text)
    string(REPLACE "/etc/lope" "${sysconf}/lope" text "${text}")
    string(REPLACE "/usr/bin/lope" "${prefix}/bin/lope" text "${text}")
    string(REPLACE "/usr/share/" "${prefix}/share/" text "${text}")
    file(WRITE ${lope_scratch}/${file} "${text}")
  endforeach()
  file(INSTALL ${lope_scratch}/lope.service ${lope_scratch}/lope@.service DESTINATION ${prefix}/lib/systemd/system)
  file(INSTALL ${lope_scratch}/lope.sysusers DESTINATION ${prefix}/lib/sysusers.d RENAME lope.conf)
  file(INSTALL ${lope_scratch}/lope.tmpfiles DESTINATION ${prefix}/lib/tmpfiles.d RENAME lope.conf)
]])
