// Takes secrets out of known places before anything is stored: header fields, URLs, command arguments. The
// name stays, the value becomes "[redacted]". Pure text; what it doesn't know, it leaves as it is.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

std::string redact_header(std::string_view name, std::string value);
// The same of a name in lower case; none when the value stays as it is.
std::optional<std::string> redacted_header(std::string_view name, std::string_view value);
std::string redact_url(std::string_view url);
std::vector<std::string> redact_arguments(const std::vector<std::string>& arguments);

}  // namespace weir
