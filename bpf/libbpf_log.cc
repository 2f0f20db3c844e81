// The sink of libbpf's messages. One buffer for the process, as libbpf itself has one print function.
#include "bpf/libbpf_log.h"

#include <bpf/libbpf.h>

#include <cstdarg>
#include <cstdio>
#include <mutex>

namespace weir::bpf {
namespace {

constexpr std::size_t kLogBytes = 16 * 1024;

std::mutex log_mutex;
std::string log_text;

int append(enum libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_DEBUG) return 0;
  char line[2048];
  int length = std::vsnprintf(line, sizeof line, format, arguments);
  std::lock_guard lock(log_mutex);
  log_text += line;
  if (log_text.size() > kLogBytes) log_text.erase(0, log_text.size() - kLogBytes);
  return length;
}

}  // namespace

void collect_libbpf_log() {
  libbpf_set_print(append);
  std::lock_guard lock(log_mutex);
  log_text.clear();
}

std::string libbpf_log() {
  std::lock_guard lock(log_mutex);
  return log_text;
}

std::string failed_program(const std::string& log) {
  const auto mark = log.rfind("': failed to load");
  if (mark == std::string::npos) return "";
  const auto quote = log.rfind('\'', mark - 1);
  return quote == std::string::npos ? "" : log.substr(quote + 1, mark - quote - 1);
}

}  // namespace weir::bpf
