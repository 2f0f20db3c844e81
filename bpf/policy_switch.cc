// Filling tables by system calls, and the switch itself by one store.
#include "bpf/policy_switch.h"

#include <bpf/bpf.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "bpf/policy_table.h"

namespace weir::bpf {
namespace {

std::unexpected<Error> cannot_set() {
  return std::unexpected(Error{std::string("cannot set the policy: ") + std::strerror(errno), ""});
}

// Those of all states but that one.
void forget_lists(int map, std::uint32_t kept) {
  wire_policy_key key{};
  wire_policy_key next{};
  for (bool more = bpf_map_get_next_key(map, nullptr, &next) == 0; more;) {
    key = next;
    more = bpf_map_get_next_key(map, &key, &next) == 0;
    if (key.state != kept) bpf_map_delete_elem(map, &key);
  }
}

}  // namespace

// The half that nobody reads is filled, then its number is put in force. A program that has begun with the
// old number ends long before the next change.
std::expected<void, Error> PolicySwitch::set(const Policy& policy, const Places& places) {
  const auto table = make_policy_table(policy);
  if (!table)
    return std::unexpected(Error{"the policy is too large: " + table.error(), "use wider networks or ports"});
  const std::uint32_t next = state_ + 1;
  const std::uint32_t half = next & 1;
  forget_lists(places.lists, state_);  // a set() that failed half-way has left some
  for (std::uint32_t i = 0; i < table->rules.size(); ++i) {
    const std::uint32_t at = half * static_cast<std::uint32_t>(kPolicyEntries) + i;
    if (bpf_map_update_elem(places.rules, &at, &table->rules[i], BPF_ANY) != 0) return cannot_set();
  }
  for (const auto& [pattern, lists] : table->lists) {
    const wire_policy_key key{pattern.first, next, pattern.second};
    if (bpf_map_update_elem(places.lists, &key, &lists, BPF_ANY) != 0) return cannot_set();
  }
  places.states[half] = {static_cast<std::uint32_t>(table->rules.size()),
                         static_cast<std::uint32_t>(kPolicyEntries), table->fallback, !table->lists.empty()};
  __atomic_store_n(places.state_now, next, __ATOMIC_RELEASE);
  forget_lists(places.lists, next);
  state_ = next;
  return {};
}

void PolicySwitch::exempt(std::span<const Endpoint> listeners, wire_policy_listener* places) {
  for (std::size_t i = 0; i < WIRE_POLICY_LISTENERS; ++i) {
    wire_policy_listener place{};
    if (i < listeners.size()) {
      place.port = listeners[i].port;
      place.family = listeners[i].address.family == IpAddress::Family::v4 ? 4 : 6;
      std::memcpy(place.address, listeners[i].address.bytes.data(), sizeof place.address);
    }
    places[i] = place;
  }
}

}  // namespace weir::bpf
