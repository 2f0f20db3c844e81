// Takes probes away in the background: for each file of them the kernel waits 30 to 110 ms until nobody runs
// one any more, and whoever detaches waits with it. A child that lives that long does so here.
// Single-threaded.
#pragma once

#include <sys/types.h>

#include <functional>
#include <vector>

#include "bpf/kernel_side.h"

namespace weir::bpf {

class Detacher {
 public:
  ~Detacher() { wait_for_all(); }

  // `close` closes all descriptors of what is attached to the file. It is called here and in the child.
  void detach(const FileIdentity& file, const std::function<void()>& close);
  // Until nothing of that file's, or of any's, is being detached.
  void wait_for(const FileIdentity& file);
  void wait_for_all();
  // Forgets the children that have ended.
  void collect();

 private:
  struct Leaving {
    FileIdentity file;
    pid_t child;
  };
  std::vector<Leaving> leaving_;
};

}  // namespace weir::bpf
