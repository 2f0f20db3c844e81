// Any text as what a client asks the proxy for: an authority that is understood reads the same when written
// out again, and a target leads where its authority says.
#include <string>

#include "attribution/text.h"
#include "proxy/destination.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir::proxy;
using weir::is_host_name;
using weir::to_lower;
using weir::fuzz::require;

std::string written(const weir::Destination& destination) {
  const bool literal = destination.name.find(':') != std::string::npos;
  const std::string host = literal ? "[" + destination.name + "]" : destination.name;
  return host + ":" + std::to_string(destination.port);
}

void check_authority(std::string_view text, std::optional<std::uint16_t> default_port) {
  const auto destination = parse_authority(text, default_port);
  if (!destination) return;
  const std::string& name = destination->name;
  require(destination->port != 0 && !name.ends_with('.') && to_lower(name) == name);
  require(is_host_name(name) || name.find(':') != std::string::npos);
  const auto again = parse_authority(written(*destination), std::nullopt);
  require(again && written(*again) == written(*destination));
}

void check_target(std::string_view text, std::string_view method) {
  const auto target = parse_absolute_target(text, method);
  if (!target) return;
  require(target->origin_form == "*" ? method == "OPTIONS" : target->origin_form.starts_with('/'));
  require(target->authority.find_first_of("@/?#") == std::string::npos);
  const auto destination = parse_authority(target->authority, 80);
  require(destination && written(*destination) == written(target->destination));
}

void check_passthrough(std::string_view text) {
  const std::string name = to_lower(text.substr(0, text.find('\n')));
  const std::vector<std::string> exact{name};
  const std::vector<std::string> below{"." + name};
  require(find_passthrough(below, name) != nullptr);
  require(find_passthrough(below, "a." + name) != nullptr);
  require(find_passthrough(below, "a" + name) == nullptr || name.starts_with('.'));
  if (name.starts_with('.')) return;
  require(find_passthrough(exact, name) != nullptr);
  require(find_passthrough(exact, "a." + name) == nullptr);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = weir::fuzz::text_of(data, size);
  check_authority(text, std::nullopt);
  check_authority(text, 443);
  check_target(text, "GET");
  check_target(text, "OPTIONS");
  check_target("http://" + std::string(text), "GET");
  check_passthrough(text);
  return 0;
}
