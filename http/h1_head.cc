// Reads start lines and decides framing. Must never accept a message whose length two readers could see in
// two ways.
#include "http/h1_head.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "http/h1_lines.h"

namespace weir::http {
namespace {

using Kind = ParseError::Kind;

std::unexpected<ParseError> refuse(std::string what, Kind kind = Kind::malformed) {
  return std::unexpected(ParseError{kind, std::move(what), 0});
}

std::expected<Version, ParseError> parse_version(std::string_view text) {
  if (text == "HTTP/1.1") return Version{1, 1};
  if (text == "HTTP/1.0") return Version{1, 0};
  return refuse("not HTTP/1.0 or HTTP/1.1", text.starts_with("HTTP/") ? Kind::unsupported : Kind::malformed);
}

// RFC 9112, section 3.2: one of four forms. Bytes over 0x7f are let through, as clients do send them.
bool is_target(std::string_view target, std::string_view method) {
  if (target.empty() || target.find('\t') != std::string_view::npos) return false;
  if (method == "CONNECT") return target.front() != '/';
  return target.front() == '/' || target == "*" || target.find("://") != std::string_view::npos;
}

bool is_host(std::string_view value) {
  static constexpr auto kForbidden = [] {
    std::array<bool, 256> table{};
    for (const char c : std::string_view(" \t,/?#@\\")) table[static_cast<unsigned char>(c)] = true;
    return table;
  }();
  return std::ranges::none_of(value, [](char c) { return kForbidden[static_cast<unsigned char>(c)]; });
}

std::expected<void, ParseError> check_host(const RequestHead& head) {
  const auto is_host_field = [](const Field& f) { return equals_ignoring_case(f.name, "Host"); };
  const auto hosts = std::ranges::count_if(head.fields, is_host_field);
  if (hosts > 1) return refuse("repeated Host");
  if (hosts == 0 && head.version.minor == 1) return refuse("no Host in an HTTP/1.1 request");
  if (hosts == 1 && !is_host(find_field(head.fields, "Host")->value)) return refuse("malformed Host");
  return {};
}

std::expected<std::uint64_t, ParseError> parse_length(std::string_view text) {
  std::uint64_t length = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  if (error != std::errc() || end != text.data() + text.size()) return refuse("malformed Content-Length");
  return length;
}

struct LengthFields {
  const Field* transfer_encoding = nullptr;
  const Field* content_length = nullptr;
};

std::expected<LengthFields, ParseError> find_length_fields(const Fields& fields) {
  LengthFields found;
  for (const auto& field : fields) {
    const bool length = equals_ignoring_case(field.name, "Content-Length");
    if (!length && !equals_ignoring_case(field.name, "Transfer-Encoding")) continue;
    auto& slot = length ? found.content_length : found.transfer_encoding;
    if (slot) return refuse("repeated " + field.name);
    slot = &field;
  }
  if (found.transfer_encoding && found.content_length) return refuse("Content-Length with Transfer-Encoding");
  return found;
}

// The framing that the fields give; none when they give none.
std::expected<std::optional<BodyFraming>, ParseError> framing_of(const Fields& fields, Version version) {
  const auto found = find_length_fields(fields);
  if (!found) return std::unexpected(found.error());
  if (found->transfer_encoding) {
    if (version.minor == 0) return refuse("Transfer-Encoding in an HTTP/1.0 message");
    if (!equals_ignoring_case(found->transfer_encoding->value, "chunked")) {
      return refuse("Transfer-Encoding other than chunked", Kind::unsupported);
    }
    return BodyFraming{Framing::chunked};
  }
  if (!found->content_length) return std::nullopt;
  const auto length = parse_length(found->content_length->value);
  if (!length) return std::unexpected(length.error());
  return BodyFraming{Framing::content_length, *length};
}

bool has_no_content(std::uint16_t status) {
  return status < 200 || status == 204 || status == 304;
}

}  // namespace

Answers answers_for(std::string_view method) {
  if (method == "HEAD") return Answers::head;
  return method == "CONNECT" ? Answers::connect : Answers::ordinary;
}

std::expected<RequestHead, ParseError> parse_request_line(std::string_view line) {
  const auto first = line.find(' ');
  const auto last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return refuse("request line without three parts");
  const auto method = line.substr(0, first);
  const auto target = line.substr(first + 1, last - first - 1);
  if (!is_token(method)) return refuse("method is not a token");
  const auto version = parse_version(line.substr(last + 1));
  if (!version) return std::unexpected(version.error());
  if (target.find(' ') != std::string_view::npos || !is_target(target, method)) {
    return refuse("malformed request target");
  }
  return RequestHead{std::string(method), std::string(target), *version, {}};
}

std::expected<ResponseHead, ParseError> parse_status_line(std::string_view line) {
  const auto space = std::min(line.find(' '), line.size());
  const auto version = parse_version(line.substr(0, space));
  if (!version) return std::unexpected(version.error());
  line.remove_prefix(std::min(space + 1, line.size()));
  std::uint16_t status = 0;
  const auto digits = line.substr(0, 3);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), status);
  const bool whole = error == std::errc() && end == digits.data() + 3;
  if (!whole || status < 100) return refuse("malformed status code");
  line.remove_prefix(3);
  // Section 4 wants a space even before an empty reason; servers that leave both out are many and do no harm.
  if (!line.empty() && line.front() != ' ') return refuse("malformed status code");
  return ResponseHead{status, std::string(line.substr(line.empty() ? 0 : 1)), *version, {}};
}

std::expected<BodyFraming, ParseError> request_framing(const RequestHead& head) {
  if (auto host = check_host(head); !host) return std::unexpected(host.error());
  const auto framing = framing_of(head.fields, head.version);
  if (!framing) return std::unexpected(framing.error());
  return framing->value_or(BodyFraming{});
}

std::expected<BodyFraming, ParseError> response_framing(const ResponseHead& head, Answers answers) {
  const auto framing = framing_of(head.fields, head.version);
  if (!framing) return std::unexpected(framing.error());
  if (has_no_content(head.status) || answers == Answers::head || switches_protocol(head, answers)) {
    return BodyFraming{};
  }
  return framing->value_or(BodyFraming{Framing::until_close});
}

bool switches_protocol(const ResponseHead& head, Answers answers) {
  return head.status == 101 || (answers == Answers::connect && head.status >= 200 && head.status < 300);
}

}  // namespace weir::http
