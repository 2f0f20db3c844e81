// Java's two keystore formats, for trusted certificates only: bytes in, certificates out, and back. Pure;
// never takes or gives a private key.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "ca/root_set.h"

namespace weir::ca {

// DER of each trusted certificate, or why the store can't be used. The password is Java's default one.
std::expected<std::vector<std::string>, std::string> parse_keystore(std::string_view bytes);
bool is_jks(std::string_view bytes);  // else it can only be a PKCS#12
std::expected<std::vector<std::string>, std::string> parse_jks(std::string_view bytes);
std::expected<std::vector<std::string>, std::string> parse_pkcs12(std::string_view bytes);

// The same roots give the same bytes, whenever and wherever. The first root's alias is "weir". Empty: OpenSSL
// failed, see take_openssl_error().
std::string encode_jks(const RootSet& set);
std::string encode_pkcs12(const RootSet& set);

// Distinct, in lower case, printable ASCII: Java folds aliases to lower case and lets the last of two win.
std::vector<std::string> aliases_for(const RootSet& set);

}  // namespace weir::ca
