// inotify(7) on what was looked at: the broker, who may read all files, adds the watches; the worker, who
// knows what the files contain, reads what happens to them.
#pragma once

#include <cstdint>
#include <functional>

#include "agent/descriptor.h"

namespace weir::agent {

// The broker's side. An instance with watches of the directories of known libraries; one that never tells
// anything when the kernel allows none.
Descriptor open_file_changes();
// The watch of a file's content; of the same file it is the same. 0: there is none.
std::int32_t watch_content(int changes, int file);

// The worker's side.
void forget_watch(int changes, std::int32_t watch);
struct FileChange {
  std::int32_t watch = 0;
  bool content = false;  // else a file with a library's name has appeared in a directory
  bool ended = false;    // the watch is gone, with the file
};
// Gives what came since the last call. False when some of it was lost.
bool read_file_changes(int changes, const std::function<void(const FileChange&)>& each);

}  // namespace weir::agent
