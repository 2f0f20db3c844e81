// Writes a record's line of JSON, field by field, as the facts come in: they are looked at and copied once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "attribution/record.h"

namespace weir {

// Keys come out in the order of the calls; they must be unique, and those of field() need no escape. What
// writes a key is inlined: of a literal it is then a few moves.
class RecordWriter {
 public:
  // Begins with what stands in each record: its timestamp, kind, id, and whether it is final.
  explicit RecordWriter(const Record& record);
  ~RecordWriter();
  RecordWriter(const RecordWriter&) = delete;
  RecordWriter& operator=(const RecordWriter&) = delete;

  [[gnu::always_inline]] void field(std::string_view name, std::string_view value) {
    key(name);
    text(value);
  }
  [[gnu::always_inline]] void field(std::string_view name, const char* value) {
    field(name, std::string_view(value));
  }
  [[gnu::always_inline]] void field(std::string_view name, std::int64_t value) {
    key(name);
    number(value);
  }
  [[gnu::always_inline]] void field(std::string_view name, std::uint64_t value) {
    key(name);
    number(value);
  }
  [[gnu::always_inline]] void field(std::string_view name, bool value) {
    key(name);
    raw(value ? "true," : "false,");
  }
  void field(std::string_view name, std::span<const std::string> values);
  // One text, of whole characters each.
  void joined(std::string_view name, std::initializer_list<std::string_view> parts);

  // An array, value by value, under the key that the two make together; `prefix` needs no escape.
  void begin_list(std::string_view prefix, std::string_view name);
  void item(std::string_view value) { text(value); }
  void end_list();

  // What was written since it was so large: whole fields, which another record can have as they are.
  std::size_t size() const { return static_cast<std::size_t>(at_ - out_.data()); }
  std::string_view since(std::size_t size) const { return {out_.data() + size, at_}; }
  void fields(std::string_view written) { raw(written); }

  std::string finish();  // the line, without the newline; once

 private:
  // Quotes, brackets, colons and commas between two calls of room() are fewer.
  static constexpr std::size_t kPunctuation = 8;

  // Ours: plain, all of them.
  [[gnu::always_inline]] void key(std::string_view key) {
    put('"');
    raw(key);
    put('"');
    put(':');
  }
  void text(std::string_view value);
  void characters(std::string_view value) {
    room(value.size());
    const std::size_t done = plain(value);
    if (done < value.size()) escaped(value.substr(done));
  }
  void escaped(std::string_view value);
  std::size_t plain(std::string_view value);
  std::size_t character(std::string_view value);
  void number(std::int64_t value);
  void number(std::uint64_t value);
  [[gnu::always_inline]] void raw(std::string_view plain) {
    std::memcpy(room(plain.size()), plain.data(), plain.size());
    at_ += plain.size();
  }
  void put(char c) { *at_++ = c; }
  // Where the next `count` characters go.
  [[gnu::always_inline]] char* room(std::size_t count) {
    if (static_cast<std::size_t>(end_ - at_) < count + kPunctuation) grow(count);
    return at_;
  }
  void grow(std::size_t count);

  std::string out_;  // longer than what is written; the thread keeps it for its next record
  char* at_;
  char* end_;
};

}  // namespace weir
