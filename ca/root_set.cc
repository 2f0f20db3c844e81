// Parses PEM and DER into distinct roots. Never keeps bytes that OpenSSL could not read to their end.
#include "ca/root_set.h"

#include <openssl/pem.h>

#include <utility>

namespace weir::ca {

namespace {

struct PemBlock {
  char* name = nullptr;
  char* header = nullptr;
  unsigned char* data = nullptr;
  long size = 0;

  PemBlock() = default;
  PemBlock(const PemBlock&) = delete;
  PemBlock& operator=(const PemBlock&) = delete;
  ~PemBlock() {
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(data);
  }
};

}  // namespace

bool RootSet::add_der(std::string_view der) {
  std::string bytes(der);
  if (known_.contains(bytes)) return true;
  if (roots_.size() >= limit) return false;
  const auto* begin = reinterpret_cast<const unsigned char*>(bytes.data());
  const auto* position = begin;
  CertificatePtr certificate(d2i_X509(nullptr, &position, static_cast<long>(bytes.size())));
  if (!certificate || position != begin + bytes.size()) {
    ERR_clear_error();
    return false;
  }
  known_.insert(bytes);
  roots_.push_back({std::move(certificate), std::move(bytes)});
  return true;
}

std::size_t RootSet::add_pem(std::string_view pem) {
  const BioPtr bio = read_only_bio(pem);
  std::size_t taken = 0;
  for (;;) {
    PemBlock block;
    if (!bio || PEM_read_bio(bio.get(), &block.name, &block.header, &block.data, &block.size) != 1) break;
    const bool is_certificate = std::string_view(block.name) == PEM_STRING_X509;
    const std::string_view der(reinterpret_cast<char*>(block.data), static_cast<std::size_t>(block.size));
    if (is_certificate && add_der(der)) ++taken;
  }
  ERR_clear_error();
  return taken;
}

}  // namespace weir::ca
