// The rules of forwarding heads (RFC 9110, 7.6.1; RFC 9112, 9.3). Pure functions over heads.
#include "proxy/forwarding.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "attribution/text.h"

namespace weir::proxy {
namespace {

using http::equals_ignoring_case;
using http::lists_token;
using http::take_item;

constexpr std::array<std::string_view, 3> kProxyFields = {"Proxy-Connection", "Proxy-Authorization",
                                                          "Keep-Alive"};
// What the message's meaning hangs on is never taken out, whatever Connection names.
constexpr std::array<std::string_view, 5> kKeptFields = {"Connection", "Content-Length", "Host",
                                                         "Transfer-Encoding", "Upgrade"};
constexpr std::array<std::string_view, 3> kConnectionOptions = {"keep-alive", "close", "upgrade"};
constexpr std::array<std::string_view, 6> kIdempotent = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"};
constexpr std::array<std::pair<int, std::string_view>, 7> kReasons = {
    {{400, "Bad Request"},
     {403, "Forbidden"},
     {408, "Request Timeout"},
     {431, "Request Header Fields Too Large"},
     {501, "Not Implemented"},
     {502, "Bad Gateway"},
     {504, "Gateway Timeout"}}};

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::any_of(names.begin(), names.end(),
                     [name](std::string_view entry) { return equals_ignoring_case(entry, name); });
}

// The Connection options that mean the same on both sides of the proxy.
std::string kept_options(const http::Fields& fields) {
  std::string kept;
  for (const auto option : kConnectionOptions) {
    if (!lists_token(fields, "Connection", option)) continue;
    if (!kept.empty()) kept += ", ";
    kept += option;
  }
  return kept;
}

bool is_kept(const http::Field& field, const http::Fields& all) {
  if (contains(kProxyFields, field.name)) return false;
  if (contains(kKeptFields, field.name)) return true;
  return !lists_token(all, "Connection", field.name);
}

bool persists(const http::Fields& fields, http::Version version, std::string_view field) {
  if (lists_token(fields, field, "close")) return false;
  const bool persistent_by_default = version.major == 1 && version.minor >= 1;
  return persistent_by_default || lists_token(fields, field, "keep-alive");
}

}  // namespace

http::RequestHead to_origin_request(http::RequestHead head, const AbsoluteTarget& target) {
  const std::string options = kept_options(head.fields);
  const bool untouched = [&] {
    const auto* connection = http::find_field(head.fields, "Connection");
    return connection != nullptr && equals_ignoring_case(connection->value, options);
  }();
  http::Fields kept;
  if (http::find_field(head.fields, "Host") == nullptr) kept.push_back({"Host", target.authority});
  bool connection_written = false;
  for (auto& field : head.fields) {
    if (!is_kept(field, head.fields)) continue;
    if (equals_ignoring_case(field.name, "Connection")) {
      if (options.empty() || std::exchange(connection_written, true)) continue;
      kept.push_back({field.name, untouched ? field.value : options});
      continue;
    }
    if (equals_ignoring_case(field.name, "Host")) {
      kept.push_back({field.name, target.authority});
      continue;
    }
    kept.push_back(field);
  }
  head.fields = std::move(kept);
  head.target = target.origin_form;
  return head;
}

http::RequestHead to_proxy_request(http::RequestHead head, const std::string& credentials) {
  const std::string origin = "http://" + http::find_field(head.fields, "Host")->value;
  head.target = head.target == "*" ? origin : origin + head.target;
  if (!credentials.empty()) head.fields.insert(head.fields.begin(), {"Proxy-Authorization", credentials});
  return head;
}

bool names_two_hosts(const http::RequestHead& head) {
  const auto scheme = head.target.find("://");
  if (head.target.starts_with('/') || scheme == std::string::npos) return false;
  std::string_view authority = std::string_view(head.target).substr(scheme + 3);
  authority = authority.substr(0, authority.find_first_of("/?#"));
  authority.remove_prefix(authority.rfind('@') + 1);  // npos + 1 is 0
  const auto* host = http::find_field(head.fields, "Host");
  return host == nullptr || host_of(authority) != host_of(host->value);
}

void drop_http_upgrade(http::RequestHead& head) {
  const auto offers_http = [](const http::Field& field) {
    if (!equals_ignoring_case(field.name, "Upgrade")) return false;
    std::string_view left = field.value;
    for (auto protocol = take_item(left); !protocol.empty(); protocol = take_item(left)) {
      const std::string name = to_lower(protocol.substr(0, protocol.find('/')));
      if (name.starts_with("h2") || name.starts_with("h3") || name == "http" || name == "tls") return true;
    }
    return false;
  };
  if (std::ranges::none_of(head.fields, offers_http)) return;
  std::erase_if(head.fields, [](http::Field& field) {
    if (equals_ignoring_case(field.name, "Upgrade") || equals_ignoring_case(field.name, "HTTP2-Settings"))
      return true;
    if (!equals_ignoring_case(field.name, "Connection")) return false;
    std::string kept;
    std::string_view left = field.value;
    for (auto option = take_item(left); !option.empty(); option = take_item(left)) {
      if (equals_ignoring_case(option, "upgrade") || equals_ignoring_case(option, "HTTP2-Settings")) continue;
      kept += (kept.empty() ? "" : ", ") + std::string(option);
    }
    field.value = std::move(kept);
    return field.value.empty();
  });
}

bool wants_keep_alive(const http::RequestHead& head, bool from_proxy_port) {
  if (from_proxy_port && lists_token(head.fields, "Proxy-Connection", "close")) return false;
  return persists(head.fields, head.version, "Connection");
}

bool allows_keep_alive(const http::ResponseHead& head, const http::BodyFraming& framing) {
  return framing.framing != http::Framing::until_close && persists(head.fields, head.version, "Connection");
}

bool asks_for_upgrade(const http::RequestHead& head) {
  return lists_token(head.fields, "Connection", "upgrade") &&
         http::find_field(head.fields, "Upgrade") != nullptr;
}

bool is_idempotent(const std::string& method) {
  return std::find(kIdempotent.begin(), kIdempotent.end(), method) != kIdempotent.end();
}

std::string own_response(int status, const std::string& text, bool head_only) {
  const auto* reason = std::find_if(kReasons.begin(), kReasons.end(),
                                    [status](const auto& entry) { return entry.first == status; });
  const std::string body = "weir: " + text + "\n";
  std::string out = "HTTP/1.1 " + std::to_string(status) + " ";
  out += reason == kReasons.end() ? std::string_view("Error") : reason->second;
  out += "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\nConnection: close\r\n\r\n";
  return head_only ? out : out + body;
}

}  // namespace weir::proxy
