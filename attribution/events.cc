// What all events have in common. Copies nothing.
#include "attribution/events.h"

namespace weir {

Time time_of(const Event& event) {
  return std::visit([](const auto& one) { return one.time; }, event);
}

SocketCookie cookie_of(const Event& event) {
  return std::visit(
      [](const auto& one) -> SocketCookie {
        if constexpr (requires { one.cookie; }) return one.cookie;
        return {};
      },
      event);
}

const TlsObjectId* object_of(const Event& event) {
  return std::visit(
      [](const auto& one) -> const TlsObjectId* {
        if constexpr (requires { one.object; }) return one.object ? &one.object : nullptr;
        return nullptr;
      },
      event);
}

}  // namespace weir
