// An ordered collection of distinct root certificates, to be written out in one format or another. Bounded;
// never judges a certificate's worth, only whether it can be parsed and is new.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "ca/openssl.h"

namespace weir::ca {

struct Root {
  CertificatePtr certificate;
  std::string der;
};

class RootSet {
 public:
  static constexpr std::size_t limit = 4096;

  // False if it is no certificate or the set is full; a duplicate is left out and is no failure.
  bool add_der(std::string_view der);

  // Adds each CERTIFICATE block, passes over the rest. Returns how many blocks were taken or known already.
  std::size_t add_pem(std::string_view pem);

  const std::vector<Root>& roots() const { return roots_; }

 private:
  std::vector<Root> roots_;
  std::unordered_set<std::string> known_;
};

}  // namespace weir::ca
