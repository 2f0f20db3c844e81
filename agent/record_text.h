// A record for a person's eyes: one line of text. What came over the wire never reaches the terminal as it
// was: control characters, escape sequences and characters that turn the writing direction are shown as \xNN,
// \uNNNN.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace weir::agent {

enum class TimeStyle : std::uint8_t { time_of_day, full };  // UTC

// `json` is one line of a feed. A line that is no JSON object is shown as it is, escaped.
std::string record_text(std::string_view json, TimeStyle style);

// `text` with everything that isn't plain printing UTF-8 escaped.
std::string escape_for_terminal(std::string_view text);

}  // namespace weir::agent
