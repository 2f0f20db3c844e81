// One logger for a process, on standard error. Must never write to standard output, which is for data, nor a
// control character of a text's: file names and what the worker says are others' work.
#include "agent/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <iostream>

#include "agent/error.h"
#include "agent/record_text.h"

namespace weir::agent {
namespace {

spdlog::logger& logger() {
  static const auto instance = [] {
    auto made = std::make_shared<spdlog::logger>("weir", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("weir: %^%l%$: %v");
    return made;
  }();
  return *instance;
}

}  // namespace

void log_error(const std::string& text) {
  logger().error("{}", escape_for_terminal(text));
}
void log_warning(const std::string& text) {
  logger().warn("{}", escape_for_terminal(text));
}
void log_info(const std::string& text) {
  logger().info("{}", escape_for_terminal(text));
}

int report(const Error& error) {
  std::cerr << "weir: " + escape_for_terminal(to_string(error)) + "\n";
  return 1;
}

}  // namespace weir::agent
