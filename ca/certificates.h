// How weir's certificates look: the root and the leaves, per RFC 5280. Builds and signs; never reads or
// writes a file and never decides whether a name deserves a leaf.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "ca/ca.h"
#include "ca/leaf_name.h"
#include "ca/openssl.h"

namespace weir::ca {

struct Validity {
  std::chrono::sys_seconds begin;
  std::chrono::sys_seconds end;
};

// Null or nothing from any of these: OpenSSL failed, see take_openssl_error().
// `distinction` is in the name of a root that is not the first.
CertificatePtr make_root(EVP_PKEY* key, std::string_view host, std::chrono::sys_seconds now,
                         std::string_view distinction = {});
// The name and key of `root`, signed by the former root.
CertificatePtr make_cross(X509* root, X509* former, EVP_PKEY* former_key, std::chrono::sys_seconds now);
CertificatePtr make_leaf(const LeafName& name, EVP_PKEY* leaf_key, const Validity& validity, X509* root,
                         EVP_PKEY* root_key);

// A key for verifying only. Null if the bytes are not a point on the curve.
KeyPtr public_key_from(const PublicPoint& point);

std::optional<Validity> validity_of(const X509* certificate);
std::string subject_of(const X509* certificate);
std::string sha256_fingerprint_of(const X509* certificate);  // "AB:CD:..."
std::string to_pem(X509* certificate);
std::string to_der(const X509* certificate);
CertificatePtr from_pem(std::string_view pem);  // the first in it

}  // namespace weir::ca
