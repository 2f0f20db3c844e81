// The environment that sends a program through the proxy and makes it trust the CA: for `weir exec`, which
// gives it to a child, and `weir env`, which prints it. A table and its quoting; never reads a file or the
// real environment.
#pragma once

#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/error.h"

namespace weir::agent {

struct EnvironmentInputs {
  std::string proxy_url;  // "http://127.0.0.1:7443"
  std::string proxy_host;
  std::uint16_t proxy_port = 0;
  // Absolute: the program may run anywhere.
  std::filesystem::path ca_certificate;  // our root alone, PEM
  std::filesystem::path bundle;          // the system's roots and ours, PEM
  std::filesystem::path pkcs12;          // the same and the JDKs', for Java
  std::filesystem::path wgetrc;          // the system's wgetrc and where the bundle is
  std::filesystem::path php_directory;   // holds an .ini that says so to PHP
  // What the variable is in the caller's environment: some values are extended, not replaced.
  std::function<std::optional<std::string>(std::string_view name)> inherited;
};

struct Variable {
  std::string name;
  std::string value;  // may be empty, which is to be set, not to be left out: an empty NO_PROXY means "none"
};

// Two reasons for a variable. A command whose connections are redirected needs no proxy variables; one that
// finds the CA where it looks anyway needs no trust variables. JAVA_TOOL_OPTIONS belongs to both: it then has
// the properties of the part alone.
struct EnvironmentParts {
  bool proxy = true;
  bool trust = true;
};

// In the table's order, each name once. Applied to its own result it changes nothing, so that a nested `weir
// exec` is harmless.
std::vector<Variable> client_environment(const EnvironmentInputs& inputs, EnvironmentParts parts = {});

// The variables that name a file of roots.
std::vector<std::string_view> root_file_variables();

enum class EnvironmentFormat { sh, fish, dotenv, json, systemd, docker };

std::expected<EnvironmentFormat, Error> parse_environment_format(std::string_view name);

// Ready to be sourced (sh, fish), read (dotenv, json), or put in place (systemd: a drop-in; docker: an
// --env-file). An env-file has no way to say a line break: a variable with one is left out there and named in
// a comment.
std::string render(std::span<const Variable> variables, EnvironmentFormat format);

}  // namespace weir::agent
