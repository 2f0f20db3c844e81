// The ClientHello reader: joins the handshake fragments of the first records, then walks the hello's length-
// prefixed fields. Every length is checked against what is there before it is used.
#include "attribution/client_hello.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "attribution/text.h"

namespace weir {
namespace {

constexpr std::uint8_t kHandshakeRecord = 0x16;
constexpr std::uint8_t kClientHello = 1;
constexpr std::size_t kHandshakeHeader = 4;
constexpr std::uint8_t kFirstRecordType = 20;  // RFC 8446, 5.1
constexpr std::uint8_t kLastRecordType = 23;
constexpr std::size_t kMaxRecord = 16 * 1024;
constexpr std::size_t kMostEmptyRecords = 32;  // as many as OpenSSL's servers pass over
constexpr std::uint16_t kServerNameExtension = 0;
constexpr std::uint16_t kProtocolsExtension = 16;
constexpr std::uint16_t kEncryptedExtension = 0xfe0d;

// A cursor over bytes; once anything was missing, all reads give nothing.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> data) : data_(data) {}

  std::optional<std::size_t> number(std::size_t width) {
    const auto bytes = take(width);
    if (!bytes) return std::nullopt;
    std::size_t value = 0;
    for (const std::byte byte : *bytes) value = value << 8 | std::to_integer<std::size_t>(byte);
    return value;
  }

  std::optional<std::span<const std::byte>> take(std::size_t count) {
    if (data_.size() < count) return std::nullopt;
    const auto taken = data_.first(count);
    data_ = data_.subspan(count);
    return taken;
  }

  // A field that says its own length in its first `width` bytes.
  std::optional<std::span<const std::byte>> vector(std::size_t width) {
    const auto length = number(width);
    return length ? take(*length) : std::nullopt;
  }

  bool empty() const { return data_.empty(); }
  std::size_t size() const { return data_.size(); }

 private:
  std::span<const std::byte> data_;
};

// Of bytes that begin no handshake record. Servers pass over some other records before a ClientHello, and
// still take one in the framing of SSLv2: a length with its first bit set, the type, the version (RFC 5246,
// E.2).
HelloError describe_other(std::span<const std::byte> data) {
  const auto at = [&](std::size_t i) { return std::to_integer<unsigned>(data[i]); };
  if (at(0) >= kFirstRecordType && at(0) <= kLastRecordType) {
    if (data.size() < 2) return HelloError::incomplete;
    return at(1) == 3 ? HelloError::malformed : HelloError::not_tls;
  }
  const bool differs = (at(0) & 0x80) == 0 || (data.size() > 2 && at(2) != kClientHello) ||
                       (data.size() > 3 && at(3) != 3) || (data.size() > 4 && at(4) > 4);
  if (differs) return HelloError::not_tls;
  return data.size() > 4 ? HelloError::malformed : HelloError::incomplete;
}

std::expected<std::vector<std::byte>, HelloError> join_handshake(std::span<const std::byte> data) {
  std::vector<std::byte> handshake;
  Reader reader(data);
  if (!data.empty() && std::to_integer<std::uint8_t>(data[0]) != kHandshakeRecord)
    return std::unexpected(describe_other(data));
  for (std::size_t records = 0, empty = 0;; ++records) {
    if (handshake.size() >= kHandshakeHeader) {
      Reader header(handshake);
      if (header.number(1) != kClientHello) return std::unexpected(HelloError::malformed);
      const std::size_t length = *header.number(3);
      if (length > kMaxClientHello) return std::unexpected(HelloError::malformed);
      if (header.size() >= length) {
        handshake.resize(kHandshakeHeader + length);
        return handshake;
      }
    }
    const auto type = reader.number(1);
    const auto major = reader.number(1);
    const bool other = (type && *type != kHandshakeRecord) || (major && *major != 3);
    if (other) return std::unexpected(records == 0 ? HelloError::not_tls : HelloError::malformed);
    const auto minor = reader.number(1);
    const auto length = reader.number(2);
    if (!minor || !length) return std::unexpected(HelloError::incomplete);
    if (*length > kMaxRecord) return std::unexpected(HelloError::malformed);
    if (*length == 0 && ++empty > kMostEmptyRecords) return std::unexpected(HelloError::malformed);
    const auto fragment = reader.take(std::min(*length, reader.size()));
    handshake.insert(handshake.end(), fragment->begin(), fragment->end());
  }
}

struct Extension {
  std::size_t type = 0;
  std::span<const std::byte> body;
};

// Nothing where the hello has another shape. One may end before them.
std::optional<std::vector<Extension>> read_extensions(Reader hello) {
  std::vector<Extension> found;
  const bool prefix =
      hello.take(2) && hello.take(32) && hello.vector(1) && hello.vector(2) && hello.vector(1);
  if (prefix && hello.empty()) return found;
  const auto block = prefix ? hello.vector(2) : std::nullopt;
  if (!block || !hello.empty()) return std::nullopt;
  Reader extensions(*block);
  while (!extensions.empty()) {
    const auto type = extensions.number(2);
    const auto body = extensions.vector(2);
    if (!type || !body) return std::nullopt;
    found.push_back({*type, *body});
  }
  return found;
}

// Nothing when it is no host name, or not the only one. A final dot says no more than that the name is whole.
std::optional<std::string> read_server_name(std::span<const std::byte> extension) {
  Reader body(extension);
  const auto list = body.vector(2);
  if (!list || !body.empty()) return std::nullopt;
  Reader names(*list);
  const auto type = names.number(1);
  const auto name = names.vector(2);
  if (type != 0 || !name || !names.empty()) return std::nullopt;
  std::string_view text(reinterpret_cast<const char*>(name->data()), name->size());
  if (text.ends_with('.')) text.remove_suffix(1);
  return is_host_name(text) ? std::optional(to_lower(text)) : std::nullopt;
}

std::vector<std::string> read_protocols(std::span<const std::byte> extension) {
  std::vector<std::string> protocols;
  const auto list = Reader(extension).vector(2);
  if (!list) return protocols;
  Reader names(*list);
  while (!names.empty()) {
    const auto name = names.vector(1);
    if (!name || name->empty()) return {};
    protocols.emplace_back(reinterpret_cast<const char*>(name->data()), name->size());
  }
  return protocols;
}

}  // namespace

std::expected<ClientHello, HelloError> parse_client_hello(std::span<const std::byte> data) {
  const auto handshake = join_handshake(data.first(std::min(data.size(), kMaxClientHello)));
  if (!handshake) {
    const bool hopeless = handshake.error() == HelloError::incomplete && data.size() >= kMaxClientHello;
    return std::unexpected(hopeless ? HelloError::malformed : handshake.error());
  }
  const auto extensions = read_extensions(Reader(std::span(*handshake).subspan(kHandshakeHeader)));
  ClientHello hello;
  hello.unreadable_name = !extensions;
  if (!extensions) return hello;
  bool named = false;
  for (const Extension& one : *extensions) {
    if (one.type == kProtocolsExtension) hello.protocols = read_protocols(one.body);
    if (one.type == kEncryptedExtension) hello.has_encrypted = true;
    if (one.type != kServerNameExtension) continue;
    const auto name = read_server_name(one.body);
    if (!name || std::exchange(named, true)) hello.unreadable_name = true;
    if (name) hello.server_name = *name;
  }
  if (hello.unreadable_name) hello.server_name.clear();
  return hello;
}

}  // namespace weir
