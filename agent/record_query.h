// What `weir tail`, `weir ls` and the API's query strings ask for, and its one textual form. Both ends of the
// API go through here, so a filter means the same on the command line and in a URL.
#pragma once

#include <expected>
#include <string>
#include <string_view>

#include "sinks/store_reader.h"

namespace weir::agent {

// "/v1/records?process=curl&status=4xx"
std::string to_target(std::string_view path, const sinks::StoreQuery& query);

struct Target {
  std::string path;
  sinks::StoreQuery query;
};
// The error says which parameter is wrong, and what it may be.
std::expected<Target, std::string> parse_target(std::string_view target);

// Sets what one parameter names ("process", "pid", "host", "status", "since", "kind", "container",
// "limit", "connections"); `since` is RFC 3339. The error says what the value may be.
std::expected<void, std::string> set_parameter(sinks::StoreQuery& query, std::string_view name,
                                               std::string_view value);

}  // namespace weir::agent
