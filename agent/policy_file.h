// The policy as administrators write it: YAML, described in docs/policy.md.
#pragma once

#include <expected>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "agent/error.h"
#include "attribution/policy_rules.h"

namespace weir::agent {

// The uid of a user's name; nothing when there is no such user.
using UserIds = std::function<std::optional<std::uint32_t>(const std::string& name)>;
std::optional<std::uint32_t> user_id(const std::string& name);  // as this host has it

// The error has the file, the line and what is wrong: unknown keys, wrong types, values that can match
// nothing. `name` is what stands for the file in it.
std::expected<Policy, Error> read_policy_text(std::string_view text, const std::string& name,
                                              const UserIds& users);
// The file's text, to be read by the function above.
std::expected<std::string, Error> load_policy_file(const std::filesystem::path& file);

}  // namespace weir::agent
