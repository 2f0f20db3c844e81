// A program that contains the search for TLS libraries, and no library: weir in little.
#include <fcntl.h>

#include "bpf/probes/tls_probes.h"

int main(int, char** arguments) {
  const auto libraries = weir::bpf::find_tls_libraries(::open(arguments[1], O_RDONLY | O_CLOEXEC));
  return libraries && libraries->empty() ? 0 : 1;
}
