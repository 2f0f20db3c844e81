// A record's own questions: its kind's name, whether a filter selects it. Never changes a record.
#include "attribution/record.h"

#include <algorithm>

#include "attribution/text.h"

namespace weir {
namespace {

bool host_matches(std::string_view wanted, const std::string& host) {
  if (wanted.starts_with("*.")) wanted.remove_prefix(1);
  const std::string lower_wanted = to_lower(wanted);
  const std::string lower_host = to_lower(host);
  return wanted.starts_with('.') ? lower_host.ends_with(lower_wanted) : lower_host == lower_wanted;
}

bool status_matches(std::string_view wanted, std::int64_t status) {
  if (wanted.size() == 3 && wanted.ends_with("xx")) return status / 100 == wanted[0] - '0';
  return wanted == std::to_string(status);
}

}  // namespace

std::string_view to_string(RecordKind kind) {
  static constexpr std::string_view kNames[] = {"exchange", "connection", "process", "dns", "policy"};
  return kNames[static_cast<std::size_t>(kind)];
}

bool RecordFilter::matches(const Record& record) const {
  if (!kinds.empty() && std::ranges::find(kinds, record.kind) == kinds.end()) return false;
  if (!process_name.empty() && record.executable_name != process_name) return false;
  if (pid != 0 && record.pid != pid) return false;
  if (!host.empty() && !host_matches(host, record.server_address)) return false;
  if (!status.empty() && !status_matches(status, record.status_code)) return false;
  return !since || record.timestamp >= *since;
}

}  // namespace weir
