// How policy and configuration name hosts: "example.org", or ".example.org" for it and all below it.
#pragma once

#include <string_view>

namespace weir::agent {

// Whether a host could have this name, or one below it.
bool is_host_pattern(std::string_view text);

// Whether what resolves such a name takes it for an IPv4 address, as browsers do ("127.1", "2130706433",
// "0x7f.1"): its last label is a number (WHATWG URL, "ends in a number").
bool ends_in_number(std::string_view name);

}  // namespace weir::agent
