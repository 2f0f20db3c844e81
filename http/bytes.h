// Bytes and text, as this room hands them about.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace weir::http {

using Bytes = std::span<const std::byte>;

inline std::string_view text_of(Bytes data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}
inline Bytes bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

}  // namespace weir::http
