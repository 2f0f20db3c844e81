// Whether a connection could be read, and why not: no blind spot without its reason.
#pragma once

#include <string>

#include "attribution/connection.h"
#include "attribution/process_table.h"

namespace weir {

// Whether any exchange that the connection carried was read.
bool readable(const Connection& connection);
// Below, `process`: whose it is; null: not known. `probed_since`: since when all libraries that were there at
// the start are probed.
//
// Whether there was nothing to read.
bool nothing_was_said(const Connection& connection, const Process* process, Time probed_since);
// Why none was read.
std::string opaque_reason(const Connection& connection, const Process* process, Time probed_since);
// Whether the probes that read some of it came in the middle of it.
bool probed_late(const Connection& connection, const Process* process);
// Whether nothing, or nothing that makes sense, was read of its TLS and nothing is known yet that says why.
bool reason_may_follow(const Connection& connection, const Process* process);

}  // namespace weir
