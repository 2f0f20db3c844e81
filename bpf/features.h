// What the kernel side chooses between. Internal to this room; all that is tried is in kernel_side.h's
// probe_features().
#pragma once

namespace weir::bpf {

bool has_socket_events();  // tracepoints sock_send_length and sock_recv_length
bool has_uprobe_multi();

}  // namespace weir::bpf
