// Keeps the last lines that libbpf prints, which it would otherwise write to standard error: they are shown
// only with an error. Never prints by itself.
#pragma once

#include <string>

namespace weir::bpf {

// Starts collecting (from an empty log) for the whole process.
void collect_libbpf_log();
// What was collected, at most a few kilobytes of its end.
std::string libbpf_log();

// The program that the log says could not be loaded, "" when it says nothing of the kind.
std::string failed_program(const std::string& log);

}  // namespace weir::bpf
