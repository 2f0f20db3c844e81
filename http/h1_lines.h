// The two readers that every part of an HTTP/1 message but its content goes through: lines that end in CRLF,
// and sections of fields made of such lines. They refuse what llhttp lets through and RFC 9112 doesn't;
// nothing reaches llhttp unchecked.
#pragma once

#include <llhttp.h>

#include <cstddef>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "http/h1_parser.h"

namespace weir::http {

bool is_token(std::string_view text);

// Gathers one line at a time. A CR or LF anywhere but in the CRLF at the end is refused, and so is every
// other control character but the tab.
class LineReader {
 public:
  // Returns how many bytes it took: up to the line's end or the input's. A line of more than `limit` bytes,
  // CRLF included, is refused; `what` names it.
  std::expected<std::size_t, ParseError> feed(std::span<const std::byte> data, std::size_t limit,
                                              std::string_view what);
  bool complete() const { return complete_; }
  // Of a complete line, without and with its CRLF. Valid until clear(), and as long as what was fed.
  std::string_view line() const { return raw_.substr(0, raw_.size() - 2); }
  std::string_view raw() const { return raw_; }
  void clear();

 private:
  std::expected<std::size_t, ParseError> gather(std::string_view text, std::size_t limit,
                                                std::string_view what);

  std::string text_;      // of a line that came in pieces
  std::string_view raw_;  // of one that is complete
  bool cr_ = false;
  bool complete_ = false;
};

// A header or trailer section: given its lines in order, the empty one at its end included.
class FieldSection {
 public:
  FieldSection();
  FieldSection(const FieldSection&) = delete;
  FieldSection& operator=(const FieldSection&) = delete;

  void begin();
  std::optional<ParseError> add(const LineReader& line, std::size_t max_fields);
  Fields take() { return std::move(fields_); }

 private:
  static const llhttp_settings_t& callbacks();

  llhttp_t fresh_{};  // as it is before the first field
  llhttp_t parser_{};
  std::string_view name_;   // as llhttp read them in the line
  std::string_view value_;  // that is being added
  Fields fields_;
};

}  // namespace weir::http
