// Writes a record's line of JSON, field by field, as the facts come in: they are looked at and copied once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "attribution/record.h"

namespace weir {

// Keys come out in the order of the calls; they must be unique, and those of field() need no escape.
class RecordWriter {
 public:
  // Begins with what stands in each record: its timestamp, kind, id, and whether it is final.
  explicit RecordWriter(const Record& record);
  ~RecordWriter();
  RecordWriter(const RecordWriter&) = delete;
  RecordWriter& operator=(const RecordWriter&) = delete;

  void field(std::string_view key, std::string_view value);
  void field(std::string_view key, const char* value) { field(key, std::string_view(value)); }
  void field(std::string_view key, std::int64_t value);
  void field(std::string_view key, std::uint64_t value);
  void field(std::string_view key, bool value);
  void field(std::string_view key, std::span<const std::string> values);

  // An array, value by value, under the key that the two make together; `prefix` needs no escape.
  void begin_list(std::string_view prefix, std::string_view name);
  void item(std::string_view value);
  void end_list();

  // What was written since it was so large: whole fields, which another record can have as they are.
  std::size_t size() const { return static_cast<std::size_t>(at_ - out_.data()); }
  std::string_view since(std::size_t size) const { return {out_.data() + size, at_}; }
  void fields(std::string_view written) { raw(written); }

  std::string finish();  // the line, without the newline; once

 private:
  void key(std::string_view key);
  void text(std::string_view value);
  void characters(std::string_view value);
  std::size_t plain(std::string_view value);
  std::size_t character(std::string_view value);
  template <typename Number>
  void number(Number value);
  void raw(std::string_view plain);
  void put(char c) { *at_++ = c; }
  char* room(std::size_t count);
  void grow(std::size_t count);

  std::string out_;  // longer than what is written; the thread keeps it for its next record
  char* at_;
  char* end_;
};

}  // namespace weir
