// Java's own keystore format, as sun.security.provider.JavaKeyStore reads and writes it: big-endian integers,
// strings with a two-byte length, a SHA-1 over password and content at the end. Trusted certificates only.
#include <array>
#include <cstdint>

#include "ca/keystore.h"
#include "ca/truststore.h"

namespace weir::ca {

namespace {

constexpr std::uint32_t magic = 0xfeedfeed;
constexpr std::uint32_t newest_version = 2;
constexpr std::uint32_t trusted_certificate = 2;
constexpr std::string_view certificate_type = "X.509";
constexpr std::size_t digest_size = 20;

// Reads nothing past the end: the first short read fails all that follow.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  std::string_view bytes(std::size_t count) {
    if (count > rest_.size()) ok_ = false;
    if (!ok_) return {};
    const std::string_view result = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return result;
  }

  std::uint32_t number(std::size_t width) {
    std::uint32_t value = 0;
    for (const char c : bytes(width)) value = value << 8 | static_cast<std::uint8_t>(c);
    return value;
  }

  std::string_view sized(std::size_t length_width) { return bytes(number(length_width)); }
  bool ok() const { return ok_; }
  bool at_end() const { return ok_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

void put_number(std::string& out, std::uint64_t value, int width) {
  for (int shift = (width - 1) * 8; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift & 0xff);
}

void put_sized(std::string& out, std::string_view bytes, int length_width) {
  put_number(out, bytes.size(), length_width);
  out += bytes;
}

// The constant is Java's (JavaKeyStore.getPreKeyedHash).
std::string integrity_digest(std::string_view content) {
  std::string input;
  for (const char c : truststore_password) input += {'\0', c};
  input += "Mighty Aphrodite";
  input += content;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (EVP_Digest(input.data(), input.size(), digest.data(), &size, EVP_sha1(), nullptr) != 1) return {};
  return {reinterpret_cast<char*>(digest.data()), size};
}

std::uint64_t milliseconds_since_1970(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return 0;
  return static_cast<std::uint64_t>(::timegm(&parts)) * 1000;
}

}  // namespace

std::expected<std::vector<std::string>, std::string> parse_jks(std::string_view bytes) {
  if (bytes.size() < digest_size) return std::unexpected("is cut short");
  const std::string_view content = bytes.substr(0, bytes.size() - digest_size);
  if (integrity_digest(content) != bytes.substr(content.size()))
    return std::unexpected("is damaged, or has a password other than Java's default");

  Reader reader(content);
  if (reader.number(4) != magic) return std::unexpected("is not a JKS keystore");
  const std::uint32_t version = reader.number(4);
  if (version < 1 || version > newest_version) return std::unexpected("has an unknown JKS version");
  const std::uint32_t count = reader.number(4);
  if (count > RootSet::limit) return std::unexpected("holds too many entries");

  std::vector<std::string> certificates;
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    if (reader.number(4) != trusted_certificate)
      return std::unexpected("holds more than trusted certificates");
    reader.sized(2);  // alias
    reader.bytes(8);  // creation date
    if (version > 1 && reader.sized(2) != certificate_type)
      return std::unexpected("holds no X.509 certificate");
    certificates.emplace_back(reader.sized(4));
  }
  if (!reader.at_end()) return std::unexpected("is malformed");
  return certificates;
}

std::string encode_jks(const RootSet& set) {
  const std::vector<std::string> aliases = aliases_for(set);
  std::string out;
  put_number(out, magic, 4);
  put_number(out, newest_version, 4);
  put_number(out, aliases.size(), 4);
  for (std::size_t i = 0; i < aliases.size(); ++i) {
    const Root& root = set.roots()[i];
    put_number(out, trusted_certificate, 4);
    put_sized(out, aliases[i], 2);
    // Not the time of writing, so that the same roots give the same file.
    put_number(out, milliseconds_since_1970(X509_get0_notBefore(root.certificate.get())), 8);
    put_sized(out, certificate_type, 2);
    put_sized(out, root.der, 4);
  }
  const std::string digest = integrity_digest(out);
  return digest.empty() ? std::string() : out + digest;
}

}  // namespace weir::ca
