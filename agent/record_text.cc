// See record_text.h.
#include "agent/record_text.h"

#include <array>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <cstdio>
#include <optional>

namespace weir::agent {
namespace {

namespace json = boost::json;

constexpr std::size_t kLongestText = 512;  // of one field; a URL may have 64 KB

struct CodePoint {
  std::uint32_t value = 0;
  std::size_t size = 0;  // 0: not UTF-8
};

// RFC 3629, section 4: no overlong forms, no surrogates, nothing above U+10FFFF.
CodePoint decode(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const std::size_t size = first < 0x80   ? 1
                           : first < 0xc2 ? 0
                           : first < 0xe0 ? 2
                           : first < 0xf0 ? 3
                           : first < 0xf5 ? 4
                                          : 0;
  if (size <= 1) return {first, size};
  if (text.size() < size) return {};
  std::uint32_t value = first & (0xffu >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3fu);
  }
  const bool overlong = (size == 3 && value < 0x800) || (size == 4 && value < 0x10000);
  if (overlong || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return {};
  return {value, size};
}

bool is_harmless(std::uint32_t code_point) {
  struct Range {
    std::uint32_t first, last;
  };
  static constexpr Range kHarmful[] = {
      {0x00, 0x1f},     {0x7f, 0x9f},                        // C0, DEL and C1 controls
      {0x061c, 0x061c}, {0x200b, 0x200f}, {0x2028, 0x202e},  // invisible, line ends, writing direction
      {0x2060, 0x206f}, {0xfeff, 0xfeff}, {0xfff9, 0xfffb}, {0xe0000, 0xe007f},
  };
  for (const auto& range : kHarmful) {
    if (code_point >= range.first && code_point <= range.last) return false;
  }
  return true;
}

std::string hex(const char* format, std::uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string_view text_of(const json::object& record, std::string_view key) {
  const auto* value = record.if_contains(key);
  const auto* text = value ? value->if_string() : nullptr;
  return text ? std::string_view(*text) : std::string_view();
}

std::optional<std::int64_t> number_of(const json::object& record, std::string_view key) {
  const auto* value = record.if_contains(key);
  if (!value || !value->is_number()) return std::nullopt;
  boost::system::error_code error;
  const auto number = value->to_number<std::int64_t>(error);
  return error ? std::nullopt : std::optional(number);
}

std::string shown(const json::object& record, std::string_view key) {
  const auto text = text_of(record, key);
  if (text.size() <= kLongestText) return escape_for_terminal(text);
  // Cut between characters, or the half that is left would be shown as bytes.
  auto end = kLongestText;
  while (end > kLongestText - 4 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return escape_for_terminal(text.substr(0, end)) + "...";
}

std::string shown_or(const json::object& record, std::string_view key, const char* otherwise) {
  auto text = shown(record, key);
  return text.empty() ? otherwise : text;
}

std::string scaled(double value, double step, std::initializer_list<const char*> units) {
  const auto* unit = units.begin();
  while (value >= step && unit + 1 != units.end()) {
    value /= step;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text), unit == units.begin() ? "%.0f %s" : "%.1f %s", value, *unit);
  return text;
}

std::string bytes_text(const json::object& record, std::string_view key) {
  const auto bytes = number_of(record, key);
  return bytes ? scaled(static_cast<double>(*bytes), 1'000, {"B", "kB", "MB", "GB"}) : "?";
}

std::string duration_text(const json::object& record) {
  const auto duration = number_of(record, "weir.duration_ns");
  return duration ? scaled(static_cast<double>(*duration) / 1'000, 1'000, {"us", "ms", "s"}) : "?";
}

std::string time_text(const json::object& record, TimeStyle style) {
  auto time = shown(record, "timestamp");
  constexpr std::size_t kToMilliseconds = 23;  // "2030-01-31T12:34:56.789"
  constexpr std::size_t kDate = 11;
  if (time.size() < kToMilliseconds) return time;
  return style == TimeStyle::full ? time.substr(0, kToMilliseconds) + "Z"
                                  : time.substr(kDate, kToMilliseconds - kDate);
}

std::string who(const json::object& record) {
  std::string text = shown_or(record, "process.executable.name", "?");
  const auto pid = number_of(record, "process.pid");
  text += "[" + (pid ? std::to_string(*pid) : "?") + "]";
  auto container = shown(record, "container.name");
  if (container.empty()) container = shown(record, "container.id").substr(0, 12);
  return container.empty() ? text : text + " in " + container;
}

void add(std::string& line, std::string_view label, const std::string& text) {
  if (!text.empty()) line.append(", ").append(label).append(text);
}

std::string source_text(const json::object& record) {
  const auto* sources = record.if_contains("weir.source");
  const auto* list = sources ? sources->if_array() : nullptr;
  const auto* first = list && !list->empty() ? list->front().if_string() : nullptr;
  return first ? escape_for_terminal(*first) : "";
}

std::string exchange_text(const json::object& record) {
  const auto status = number_of(record, "http.response.status_code");
  std::string text = shown_or(record, "http.request.method", "?") + " " + shown_or(record, "url.full", "?") +
                     " " + (status ? std::to_string(*status) : "-");
  text += "  " + bytes_text(record, "http.request.body.size") + " up";
  add(text, "", bytes_text(record, "http.response.body.size") + " down");
  add(text, "", duration_text(record));
  return text;
}

std::string peer_text(const json::object& record) {
  const auto address = shown_or(record, "network.peer.address", "?");
  const auto port = number_of(record, "network.peer.port");
  const bool v6 = address.find(':') != std::string::npos;
  std::string text = (v6 ? "[" + address + "]" : address) + ":" + (port ? std::to_string(*port) : "?");
  const auto name = shown(record, "server.address");
  return name.empty() || name == address ? text : text + " (" + name + ")";
}

std::string connection_text(const json::object& record) {
  std::string text =
      "connection to " + peer_text(record) + "  " + bytes_text(record, "weir.bytes.sent") + " up";
  add(text, "", bytes_text(record, "weir.bytes.received") + " down");
  return text;
}

std::string process_text(const json::object& record) {
  std::string text = "started " + shown(record, "process.executable.path");
  const auto* arguments = record.if_contains("process.command_args");
  if (!arguments || !arguments->is_array()) return text;
  text += ":";
  for (const auto& argument : arguments->get_array()) {
    if (text.size() > kLongestText) return text + " ...";
    if (argument.is_string()) text += " " + escape_for_terminal(argument.get_string());
  }
  return text;
}

std::string policy_text(const json::object& record) {
  std::string text = "policy " + shown(record, "weir.policy.rule") + ": ";
  const auto method = shown(record, "http.request.method");
  if (!method.empty()) text += method + " " + shown(record, "url.path") + " of ";
  text += shown(record, "server.address");
  add(text, "port ", shown(record, "server.port"));
  return text;
}

std::string subject(const json::object& record) {
  struct Kind {
    std::string_view name;
    std::string (*text)(const json::object&);
  };
  static constexpr Kind kKinds[] = {{"exchange", exchange_text},
                                    {"connection", connection_text},
                                    {"process", process_text},
                                    {"policy", policy_text}};
  const auto name = text_of(record, "weir.record");
  for (const auto& kind : kKinds) {
    if (kind.name == name) return kind.text(record);
  }
  return escape_for_terminal(name) + " " + shown(record, "server.address");
}

std::string line_of(const json::object& record, TimeStyle style) {
  std::string line = time_text(record, style) + " " + who(record) + " " + subject(record);
  add(line, "", source_text(record));
  add(line, "opaque: ", shown(record, "weir.opaque.reason"));
  add(line, "error: ", shown(record, "error.type"));
  add(line, "incomplete: ", shown(record, "weir.incomplete"));
  const auto decision = shown(record, "weir.decision");
  if (decision != "bumped") add(line, "", decision);
  const auto* final = record.if_contains("weir.final");
  if (final && final->is_bool() && !final->get_bool()) add(line, "", "still open");
  return line;
}

}  // namespace

std::string escape_for_terminal(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  while (!text.empty()) {
    const auto [code_point, size] = decode(text);
    const std::size_t taken = size == 0 ? 1 : size;
    if (size == 0) {
      escaped += hex("\\x%02x", static_cast<unsigned char>(text.front()));
    } else if (is_harmless(code_point)) {
      escaped += text.substr(0, size);
    } else {
      escaped += hex(code_point < 0x100 ? "\\x%02x" : "\\u%04x", code_point);
    }
    text.remove_prefix(taken);
  }
  return escaped;
}

std::string record_text(std::string_view line, TimeStyle style) {
  boost::system::error_code error;
  const auto parsed = json::parse(json::string_view(line.data(), line.size()), error);
  const auto* record = error ? nullptr : parsed.if_object();
  if (!record) return escape_for_terminal(line);
  if (const auto dropped = number_of(*record, "weir.tail.dropped")) {
    return "-- " + std::to_string(*dropped) + " records not shown: this reader was too slow";
  }
  return line_of(*record, style);
}

}  // namespace weir::agent
