// Any bytes as the beginning of a connection: the verdict on a beginning never changes when more arrives, nor
// with the records that carry the same hello, and a name is a host name.
#include <string>

#include "attribution/client_hello.h"
#include "attribution/text.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir;
using weir::fuzz::require;

std::string verdict_on(std::span<const std::byte> data) {
  const auto hello = parse_client_hello(data);
  if (!hello) return "error " + std::to_string(static_cast<int>(hello.error()));
  const std::string& name = hello->server_name;
  require(name.empty() || (is_host_name(name) && to_lower(name) == name));
  return "name " + name;
}

const std::string kIncomplete = "error " + std::to_string(static_cast<int>(HelloError::incomplete));

void check_beginnings(std::span<const std::byte> data) {
  const std::string whole = verdict_on(data);
  const std::size_t step = data.size() / 32 + 1;
  for (std::size_t size = 0; size < data.size(); size += step) {
    const std::string early = verdict_on(data.first(size));
    require(early == kIncomplete || early == whole);
  }
}

std::string in_records(std::string_view handshake, std::size_t record) {
  std::string out;
  while (!handshake.empty()) {
    const auto fragment = handshake.substr(0, record);
    out += {0x16, 3, 1, static_cast<char>(fragment.size() >> 8), static_cast<char>(fragment.size())};
    out += fragment;
    handshake.remove_prefix(fragment.size());
  }
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  check_beginnings(weir::fuzz::bytes_of(data, size));
  // Headers of small records must not reach the limit on what is looked at.
  constexpr std::size_t kMost = 8 * 1024;
  const auto handshake = weir::fuzz::text_of(data, std::min(size, kMost));
  const std::string one = verdict_on(weir::fuzz::bytes_of(in_records(handshake, kMost)));
  for (const std::size_t record : {1, 5, 64})
    require(verdict_on(weir::fuzz::bytes_of(in_records(handshake, record))) == one);
  return 0;
}
