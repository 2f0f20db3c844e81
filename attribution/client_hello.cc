// The ClientHello reader: joins the handshake fragments of the first records, then walks the hello's length-
// prefixed fields. Every length is checked against what is there before it is used.
#include "attribution/client_hello.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "attribution/text.h"

namespace weir {
namespace {

constexpr std::uint8_t kHandshakeRecord = 0x16;
constexpr std::uint8_t kClientHello = 1;
constexpr std::size_t kHandshakeHeader = 4;
constexpr std::size_t kMaxRecord = 16 * 1024;
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

std::expected<std::vector<std::byte>, HelloError> join_handshake(std::span<const std::byte> data) {
  std::vector<std::byte> handshake;
  Reader reader(data);
  for (;;) {
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
    if (type && *type != kHandshakeRecord) {
      return std::unexpected(handshake.empty() ? HelloError::not_tls : HelloError::malformed);
    }
    const auto major = reader.number(1);
    if (major && *major != 3) {
      return std::unexpected(handshake.empty() ? HelloError::not_tls : HelloError::malformed);
    }
    const auto minor = reader.number(1);
    const auto length = reader.number(2);
    if (!minor || !length) return std::unexpected(HelloError::incomplete);
    if (*length == 0 || *length > kMaxRecord) return std::unexpected(HelloError::malformed);
    const auto fragment = reader.take(std::min(*length, reader.size()));
    handshake.insert(handshake.end(), fragment->begin(), fragment->end());
  }
}

std::optional<std::span<const std::byte>> find_extension(Reader hello, std::uint16_t wanted) {
  const bool prefix =
      hello.take(2) && hello.take(32) && hello.vector(1) && hello.vector(2) && hello.vector(1);
  const auto block = prefix ? hello.vector(2) : std::nullopt;
  if (!block) return std::nullopt;
  Reader extensions(*block);
  while (!extensions.empty()) {
    const auto type = extensions.number(2);
    const auto body = extensions.vector(2);
    if (!type || !body) return std::nullopt;
    if (*type == wanted) return body;
  }
  return std::nullopt;
}

std::string read_server_name(std::span<const std::byte> extension) {
  const auto list = Reader(extension).vector(2);
  if (!list) return "";
  Reader names(*list);
  const auto type = names.number(1);
  const auto name = names.vector(2);
  if (type != 0 || !name) return "";
  const std::string_view text(reinterpret_cast<const char*>(name->data()), name->size());
  return is_host_name(text) ? to_lower(text) : "";
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
  const Reader hello{std::span(*handshake).subspan(kHandshakeHeader)};
  const auto name = find_extension(hello, kServerNameExtension);
  const auto protocols = find_extension(hello, kProtocolsExtension);
  return ClientHello{name ? read_server_name(*name) : "",
                     protocols ? read_protocols(*protocols) : std::vector<std::string>(),
                     find_extension(hello, kEncryptedExtension).has_value()};
}

}  // namespace weir
