// The files that make programs trust the CA, beside its certificate: the stores of ca/truststore.h, and
// settings for programs that read none of the variables. In the state directory's ca/, readable by all.
#pragma once

#include <expected>
#include <string_view>

#include "agent/error.h"
#include "agent/state_dir.h"

namespace weir::agent {

// Made anew from the system's roots and `roots_pem` (the CA's own, one or two); what would not change is left
// alone. The directory must be there and the caller's.
std::expected<void, Error> write_trust_files(const StateDir& state, std::string_view roots_pem);

}  // namespace weir::agent
