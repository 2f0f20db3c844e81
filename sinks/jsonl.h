// Records as lines of JSON, appended to a file or written to standard output. A write(2) ends with a line's
// end, so that `tail -f` and pipes see whole lines at once. It never truncates or rotates: a file that is
// there is added to.
#pragma once

#include <memory>
#include <string>

#include "sinks/sink.h"

namespace weir::sinks {

// `path` "-" is standard output. A new file is for its owner alone.
std::expected<std::unique_ptr<Sink>, Error> make_jsonl_sink(const std::string& path);

// Writes to a descriptor that someone else opened, and owns it from then on.
std::unique_ptr<Sink> make_jsonl_sink(int descriptor, std::string name);

}  // namespace weir::sinks
