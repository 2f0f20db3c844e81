// The certificate authority: the root's making and keeping, and the signing of leaves. The private key lives
// in one file of mode 0600 and in the process that called load_or_create(): under root that is the broker
// alone. Depends on OpenSSL only. Not thread-safe unless said.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace weir::ca {

struct Error {
  std::string what;    // names the thing: "/var/lib/weir/ca/ca.key: mode 0644 lets others read it"
  std::string remedy;  // "run: chmod 600 /var/lib/weir/ca/ca.key"; may be empty
};

// An uncompressed P-256 point: 0x04, X, Y. Fixed size on purpose: the signer never parses a key format.
using PublicPoint = std::array<std::uint8_t, 65>;

// What a leaf is for: exactly one name. `name` is a DNS name in lower case (letters, digits, '-', '_', '.';
// at most 253) or a literal address without brackets; anything else is refused.
struct LeafRequest {
  std::string name;
  PublicPoint public_key{};
};

class LeafSigner {
 public:
  virtual ~LeafSigner() = default;
  // The certificate, DER, and behind it, DER too, the one to send after it. Thread-safe; may block for some
  // milliseconds (it may be a round trip to the broker).
  virtual std::expected<std::vector<std::uint8_t>, Error> sign(const LeafRequest& request) = 0;
};

// Files in the CA's directory (mode 0755, owned by the caller):
//   ca.key   0600  PKCS#8 PEM            ca.crt  0644  the root, PEM
//   bundle.pem, truststore.p12 (ca/truststore.h) 0644
// In the overlap of a rotation (ca/rotation.h) ca.crt has the former root behind the present one, and
//   ca.cross.crt  0644  the present root's name and key, signed by the former one's
struct Paths {
  std::filesystem::path directory;
  std::filesystem::path key() const { return directory / "ca.key"; }
  std::filesystem::path certificate() const { return directory / "ca.crt"; }
  std::filesystem::path cross() const { return directory / "ca.cross.crt"; }
  std::filesystem::path next() const { return directory / "next"; }
  std::filesystem::path bundle() const { return directory / "bundle.pem"; }
  std::filesystem::path pkcs12() const { return directory / "truststore.p12"; }
};

struct RootDescription {
  std::string subject;
  std::string sha256_fingerprint;  // "AB:CD:..."
  std::chrono::sys_seconds not_after;
  bool in_overlap = false;
};
// What the certificate says, for whoever may read it: neither its owner nor its key is looked at.
std::expected<RootDescription, Error> describe_root(const Paths& paths);

class Authority : public LeafSigner {
 public:
  // Makes the root on first use: P-256, CA:TRUE with pathlen 1 (for the cross certificate), keyCertSign and
  // cRLSign, ten years, a random 159-bit serial, a name that holds the host's. Refuses (never repairs): a key
  // file of another owner or a mode wider than 0600, a key that doesn't belong to the certificate, a symbolic
  // link in place of either. Two callers at once end up with the same root.
  static std::expected<std::unique_ptr<Authority>, Error> load_or_create(const Paths& paths);

  virtual std::string certificate_pem() const = 0;  // the root that signs
  virtual std::string roots_pem() const = 0;  // what is to be trusted: it and, in an overlap, the former
  virtual bool in_overlap() const = 0;
  virtual std::string subject() const = 0;
  virtual std::string sha256_fingerprint() const = 0;  // "AB:CD:..."
  virtual std::chrono::sys_seconds not_after() const = 0;
};

}  // namespace weir::ca
