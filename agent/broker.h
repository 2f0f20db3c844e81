// The privileged process: holds the CA key and the BPF programs, answers the worker's requests, and keeps a
// worker running. It parses nothing that a watched process, a network peer or the worker wrote.
#pragma once

#include "agent/config.h"

namespace weir::agent {

// Runs until SIGTERM or SIGINT; returns the exit status. Must be called with a single thread.
int run_broker(const Config& config);

}  // namespace weir::agent
