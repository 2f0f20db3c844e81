// Enumerators as records, and settings about them, write them.
#pragma once

#include <string_view>

#include "attribution/events.h"

namespace weir {

std::string_view name_of(TlsLibrary library);  // "gnutls"; "" when it isn't known

}  // namespace weir
