// Any bytes as a record of the ring: the decoder gives an event or nothing, never looks past the size that
// the record itself states, and what it gives can be recorded and read back.
#include "attribution/recording.h"
#include "bpf/event_source.h"
#include "bpf/wire.h"
#include "tests/fuzz/fuzz.h"

#include <cstring>
#include <vector>

namespace {

using namespace weir;
using fuzz::require;

// About today's: what the sum of a record's time and this must not overflow with.
constexpr bpf::ClockOffset kClock{std::chrono::hours(24 * 365 * 60)};

std::string line_of(const std::optional<Event>& event) {
  return event ? to_line(*event) : "";
}

// What the record holds, and noise behind it.
std::vector<std::byte> with_noise(std::span<const std::byte> record) {
  wire_header header{};
  if (record.size() >= sizeof header) std::memcpy(&header, record.data(), sizeof header);
  const auto meant = record.first(std::min<std::size_t>(record.size(), header.size));
  std::vector<std::byte> noisy(meant.begin(), meant.end());
  noisy.resize(record.size() + 8, std::byte{0xa5});
  return noisy;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto record = fuzz::bytes_of(data, size);
  const auto event = bpf::decode(record, kClock);
  if (!event) return 0;
  const std::string line = line_of(event);
  require(line_of(bpf::decode(with_noise(record), kClock)) == line);
  if (const auto* bytes = std::get_if<Bytes>(&*event)) require(bytes->data.size() <= WIRE_CHUNK_BYTES);
  const auto again = from_line(line);
  require(again.has_value());
  require(to_line(*again) == line);
  return 0;
}
