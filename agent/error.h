// The agent's recoverable errors: one line that says what went wrong and what to do about it.
#pragma once

#include <string>

namespace weir::agent {

struct Error {
  std::string what;    // names the thing
  std::string remedy;  // may be empty
};

// The rooms' errors have this same shape; each stays behind its own room's door.
template <typename RoomError>
Error to_error(const RoomError& error) {
  return {error.what, error.remedy};
}

inline std::string to_string(const Error& error) {
  return error.remedy.empty() ? error.what : error.what + ": " + error.remedy;
}

// "weir: what: remedy" on standard error; returns 1, the exit status.
int report(const Error& error);

}  // namespace weir::agent
