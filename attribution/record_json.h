// A record's JSON for those who write many: at the end of a string that they keep.
#pragma once

#include <string>

#include "attribution/record.h"

namespace weir {

// As to_json(), behind what `out` holds.
void append_json(std::string& out, const Record& record);

}  // namespace weir
