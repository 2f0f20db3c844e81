// Recognises start lines in bytes that may be anything. Must give the same answer however the stream is cut.
#include "http/message_start.h"

#include <algorithm>
#include <array>

#include "http/h1_head.h"
#include "http/h1_lines.h"

namespace weir::http {
namespace {

using Kind = H1Parser::Kind;

constexpr std::string_view kVersion = "HTTP/1.";
constexpr std::size_t kVersionLength = 8;         // HTTP/1.1
constexpr std::size_t kStatusLength = 8 + 1 + 3;  // HTTP/1.1 200
constexpr std::size_t kSoughtRequestLine = 8 * 1024;

// In the middle of a stream the bytes before a method may be token characters too, so only known ones are
// sought.
constexpr std::array<std::string_view, 16> kMethods = {
    "GET",   "HEAD",     "POST",      "PUT",   "DELETE", "CONNECT", "OPTIONS", "TRACE",
    "PATCH", "PROPFIND", "PROPPATCH", "MKCOL", "COPY",   "MOVE",    "LOCK",    "UNLOCK"};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_target_byte(char c) {
  return static_cast<unsigned char>(c) > 0x20 && c != 0x7f;
}

bool is_version(std::string_view text) {
  return text.size() == kVersionLength && text.starts_with(kVersion) &&
         (text.back() == '0' || text.back() == '1');
}

// Of "HTTP/1.1 200", as much as there is.
bool is_status_prefix(std::string_view text) {
  constexpr std::string_view pattern = "HTTP/1.v ddd";
  for (std::size_t i = 0; i < std::min(text.size(), pattern.size()); ++i) {
    const bool fits = pattern[i] == 'v'   ? text[i] == '0' || text[i] == '1'
                      : pattern[i] == 'd' ? is_digit(text[i])
                                          : text[i] == pattern[i];
    if (!fits) return false;
  }
  return true;
}

// Of an unfinished line: a method, and then a target.
bool may_be_request_line(std::string_view line) {
  const auto space = line.find(' ');
  const auto rest = space == std::string_view::npos ? std::string_view{} : line.substr(space + 1);
  const bool clean = std::ranges::all_of(rest, [](char c) { return is_target_byte(c) || c == ' '; });
  return is_token(line.substr(0, space)) && clean;
}

Start starts_request(std::string_view head, std::size_t max_line) {
  if (head == "\r") return Start::not_yet;
  if (head.starts_with("\r\n")) head.remove_prefix(2);
  const auto end = head.find('\n');
  if (end != std::string_view::npos) {
    if (end == 0 || head[end - 1] != '\r' || end >= max_line) return Start::no;
    const auto line = head.substr(0, end - 1);
    return may_be_request_line(line) && parse_request_line(line) ? Start::yes : Start::no;
  }
  if (head.ends_with('\r')) head.remove_suffix(1);
  const bool possible = head.empty() || (head.size() < max_line && may_be_request_line(head));
  return possible ? Start::not_yet : Start::no;
}

Start starts_response(std::string_view head) {
  if (!is_status_prefix(head)) return Start::no;
  return head.size() < kStatusLength ? Start::not_yet : Start::yes;
}

// The start of the request line that ends in the version at `version`, or npos.
std::size_t request_line_start(std::string_view text, std::size_t version) {
  if (version < 2 || text[version - 1] != ' ') return std::string_view::npos;
  std::size_t target = version - 1;
  while (target > 0 && is_target_byte(text[target - 1])) --target;
  if (target < 2 || target == version - 1 || text[target - 1] != ' ') return std::string_view::npos;

  const auto before = text.substr(0, target - 1);
  std::size_t longest = 0;
  for (const auto method : kMethods) {
    if (before.ends_with(method)) longest = std::max(longest, method.size());
  }
  const auto start = before.size() - longest;
  const bool near = version - start <= kSoughtRequestLine;
  const auto line = text.substr(start, version + kVersionLength - start);
  return longest > 0 && near && parse_request_line(line) ? start : std::string_view::npos;
}

std::size_t start_ending_at(Kind kind, std::string_view text, std::size_t version) {
  if (kind == Kind::response) {
    const auto status = text.substr(version, kStatusLength);
    return status.size() == kStatusLength && is_status_prefix(status) ? version : std::string_view::npos;
  }
  const auto rest = text.substr(version);
  const bool ends = rest.size() >= kVersionLength + 2 && rest.substr(kVersionLength, 2) == "\r\n";
  if (!ends || !is_version(rest.substr(0, kVersionLength))) return std::string_view::npos;
  return request_line_start(text, version);
}

}  // namespace

Start starts_message(Kind kind, std::string_view head, std::size_t max_line) {
  return kind == Kind::request ? starts_request(head, max_line) : starts_response(head);
}

std::size_t find_message_start(Kind kind, std::string_view text, std::size_t from) {
  // A version that was cut off by the end of the searched part is looked at again.
  std::size_t at = from > kStatusLength ? from - kStatusLength : 0;
  while ((at = text.find(kVersion, at)) != std::string_view::npos) {
    if (const auto start = start_ending_at(kind, text, at); start != std::string_view::npos) return start;
    ++at;
  }
  return std::string_view::npos;
}

std::size_t seek_window(Kind kind) {
  return kind == Kind::request ? kSoughtRequestLine + kStatusLength : kStatusLength;
}

}  // namespace weir::http
