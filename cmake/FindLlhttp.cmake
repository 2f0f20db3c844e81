# llhttp, by either of the two ways in which Debian ships it:
#   libllhttp-dev (Debian 13, 9.x)   a library and a header
#   node-llhttp   (Debian 12, 8.1)   the generated C sources, which are compiled here
# Defines the target Llhttp::llhttp.
find_path(LLHTTP_INCLUDE_DIR llhttp.h PATHS /usr/include /usr/share/include/llhttp)
find_library(LLHTTP_LIBRARY llhttp)
file(GLOB LLHTTP_SOURCES /usr/share/llhttp/*.c)

include(FindPackageHandleStandardArgs)
if(LLHTTP_LIBRARY)
  find_package_handle_standard_args(Llhttp REQUIRED_VARS LLHTTP_LIBRARY LLHTTP_INCLUDE_DIR)
else()
  find_package_handle_standard_args(Llhttp REQUIRED_VARS LLHTTP_SOURCES LLHTTP_INCLUDE_DIR)
endif()

if(Llhttp_FOUND AND NOT TARGET Llhttp::llhttp)
  if(LLHTTP_LIBRARY)
    add_library(Llhttp::llhttp UNKNOWN IMPORTED)
    set_target_properties(Llhttp::llhttp PROPERTIES
      IMPORTED_LOCATION ${LLHTTP_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${LLHTTP_INCLUDE_DIR})
  else()
    add_library(llhttp_from_sources STATIC ${LLHTTP_SOURCES})
    target_compile_options(llhttp_from_sources PRIVATE -w)
    target_include_directories(llhttp_from_sources SYSTEM PUBLIC ${LLHTTP_INCLUDE_DIR})
    add_library(Llhttp::llhttp ALIAS llhttp_from_sources)
  endif()
endif()
