// The arguments are addresses in regions of their own, so that each value tells where it came from: what is
// loaded from the object is the address of a region named after the place, and what is loaded from there is
// data, named after its address.
#include "bpf/probes/client_random.h"

#include <optional>

#include "bpf/probes/sketch_machine.h"

namespace weir::bpf {
namespace {

constexpr std::uint64_t kRandomBytes = 32;
constexpr std::uint64_t kRegion = 0xff00'0000'0000'0000;
constexpr std::uint64_t kObject = 0x1100'0000'0000'0000;
constexpr std::uint64_t kMember = 0x2200'0000'0000'0000;  // | its place in the object << 24
constexpr std::uint64_t kData = 0x3300'0000'0000'0000;    // | the same | its place in the member
constexpr std::uint64_t kOut = 0x4400'0000'0000'0000;
constexpr std::uint64_t kOther = 0x5500'0000'0000'0000;
constexpr unsigned kPlaceShift = 24;
constexpr std::uint64_t kMaxPlace = 0xffff;  // what a site's cookie has room for; no object is larger

Value load_original(std::uint64_t address, std::size_t bytes) {
  if (bytes != 8) return std::nullopt;
  const std::uint64_t place = address & ~kRegion;
  switch (address & kRegion) {
    case kObject:
      return place <= kMaxPlace ? Value(kMember | place << kPlaceShift) : std::nullopt;
    case kMember:
      return kData | place;
    default:
      return std::nullopt;
  }
}

// The place that an address in the object or in a member of it stands for.
std::optional<ClientRandom> place_of(std::uint64_t address) {
  const std::uint64_t place = address & ~kRegion;
  ClientRandom found;
  if ((address & kRegion) == kMember) {
    found.pointer_at = static_cast<std::uint32_t>(place >> kPlaceShift);
    found.random_at = static_cast<std::uint32_t>(place & ((1u << kPlaceShift) - 1));
    if (found.pointer_at == 0) return std::nullopt;
  } else if ((address & kRegion) == kObject && place <= kMaxPlace) {
    found.random_at = static_cast<std::uint32_t>(place);
  }
  if (found.random_at == 0 || found.random_at > kMaxPlace || found.pointer_at > kMaxPlace)
    return std::nullopt;
  return found;
}

// Where 8 bytes were loaded from that are in `value` now.
Value source_of(std::uint64_t value) {
  const std::uint64_t place = value & ~kRegion;
  if ((value & kRegion) == kMember && (place & ((1u << kPlaceShift) - 1)) == 0)
    return kObject | place >> kPlaceShift;
  if ((value & kRegion) == kData) return kMember | place;
  return std::nullopt;
}

// The address that the 32 bytes at `out` were copied from.
Value copied_from(const SketchMachine& machine) {
  Value start;
  for (std::uint64_t done = 0; done < kRandomBytes; done += 8) {
    const Value value = machine.load(kOut + done, 8);
    const Value source = value ? source_of(*value) : std::nullopt;
    if (!source || (start && *source != *start + done)) return std::nullopt;
    if (!start) start = source;
  }
  return start;
}

// Copying is often left to another function, whatever its name.
void copy_at_call(SketchMachine& machine) {
  const Value to = machine.get(SketchMachine::rdi), from = machine.get(SketchMachine::rsi);
  if (to == Value(kOut) && from && machine.get(SketchMachine::rdx) == Value(kRandomBytes))
    machine.copy(kOut, *from, kRandomBytes);
}

template <class AddressOf>
std::expected<ClientRandom, std::string> agreed(const std::vector<SketchMachine>& ends,
                                                AddressOf&& address_of) {
  std::optional<ClientRandom> agreed_on;
  for (const SketchMachine& machine : ends) {
    const Value address = address_of(machine);
    if (!address) continue;
    const auto place = place_of(*address);
    if (!place || (agreed_on && *agreed_on != *place))
      return std::unexpected("the place of the client's random bytes is not clear");
    agreed_on = place;
  }
  if (!agreed_on)
    return std::unexpected("the function that tells the client's random bytes is not understood");
  return *agreed_on;
}

}  // namespace

std::expected<ClientRandom, std::string> find_client_random(const FunctionCode& get_client_random) {
  SketchMachine start(load_original, copy_at_call);
  start.set(SketchMachine::rdi, kObject);
  start.set(SketchMachine::rsi, kOut);
  start.set(SketchMachine::rdx, kRandomBytes);
  return agreed(SketchMachine::run(start, get_client_random), copied_from);
}

std::expected<ClientRandom, std::string> find_session_random(const FunctionCode& get_random) {
  SketchMachine start(load_original, [](SketchMachine&) {});
  start.set(SketchMachine::rdi, kObject);
  start.set(SketchMachine::rsi, kOut);
  start.set(SketchMachine::rdx, kOther);
  return agreed(SketchMachine::run(start, get_random), [](const SketchMachine& machine) {
    // gnutls_datum_t: a pointer and a size.
    return machine.load(kOut + 8, 4) == Value(kRandomBytes) ? machine.load(kOut, 8) : std::nullopt;
  });
}

}  // namespace weir::bpf
