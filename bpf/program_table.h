// The kernel side's programs: what each is called in the skeleton and to people, how it is attached, and
// which belong together. Inside of this room.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "bpf/wire.h"

namespace weir::bpf {

// `redirecting`: as tracing or cgroup, too; without any of these, none is attached.
enum class How { tracing, cgroup, redirecting, redirecting_tracing, iterator, uprobe };

inline bool is_redirecting(How how) {
  return how == How::redirecting || how == How::redirecting_tracing;
}

struct ProgramEntry {
  const char* name;  // as in the skeleton
  const char* shown;
  How how;
  bool required;
  const char* instead;
};

inline constexpr ProgramEntry kPrograms[] = {
    {"process_started", "sched_process_fork (BTF tracepoint)", How::tracing, true, ""},
    {"process_execed", "sched_process_exec (BTF tracepoint)", How::tracing, true, ""},
    {"process_exited", "sched_process_exit (BTF tracepoint)", How::tracing, true, ""},
    {"connect4", "connect4 (cgroup)", How::cgroup, true, ""},
    {"connect6", "connect6 (cgroup)", How::cgroup, true, ""},
    {"connection_changing", "sockops (cgroup)", How::cgroup, true, ""},
    // Behind those that look at the destination.
    {"redirect4", "redirecting connect4 (cgroup)", How::redirecting, false, ""},
    {"redirect6", "redirecting connect6 (cgroup)", How::redirecting, false, ""},
    {"true_peer4", "getpeername4 (cgroup)", How::redirecting, false, ""},
    {"true_peer6", "getpeername6 (cgroup)", How::redirecting, false, ""},
    {"refuse_datagram4", "sendmsg4 (cgroup)", How::redirecting, false, ""},
    {"refuse_datagram6", "sendmsg6 (cgroup)", How::redirecting, false, ""},
    {"mark_inherited", "redirecting sched_process_fork (BTF tracepoint)", How::redirecting_tracing, false,
     ""},
    {"mark_forgotten", "redirecting sched_process_exit (BTF tracepoint)", How::redirecting_tracing, false,
     ""},
    {"namespace_entered", "redirecting sched_process_exec (BTF tracepoint)", How::redirecting_tracing, false,
     ""},
    {"connection_closed", "inet_sock_set_state (BTF tracepoint)", How::tracing, true, ""},
    {"socket_gone", "tcp_destroy_sock (BTF tracepoint)", How::tracing, true, ""},
    {"socket_sent", "sock_send_length (BTF tracepoint)", How::tracing, true, ""},
    {"socket_received", "sock_recv_length (BTF tracepoint)", How::tracing, true, ""},
    {"system_call", "sys_enter (BTF tracepoint)", How::tracing, true, ""},
    {"tls_enter", "TLS call (uprobe)", How::uprobe, true, ""},
    {"tls_return", "TLS return (sleepable uprobe)", How::uprobe, true, ""},
    {"tls_end", "TLS object's end (uprobe)", How::uprobe, true, ""},
    {"go_enter", "Go TLS call (uprobe)", How::uprobe, true, ""},
    {"go_return", "Go TLS return (sleepable uprobe)", How::uprobe, true, ""},
    {"go_end", "Go TLS connection's end (uprobe)", How::uprobe, true, ""},
    {"self_test", "self-test (uprobe)", How::uprobe, true, ""},
    // After all that changes where a connection goes: it is then judged by whom it goes to.
    {"policy_connect4", "connect4 for policy (cgroup)", How::cgroup, true, ""},
    {"policy_connect6", "connect6 for policy (cgroup)", How::cgroup, true, ""},
    {"policy_send4", "sendmsg4 for policy (cgroup)", How::cgroup, true, ""},
    {"policy_send6", "sendmsg6 for policy (cgroup)", How::cgroup, true, ""},
    {"each_task", "task (iterator)", How::iterator, false, ""},
    {"each_mapping", "task_vma (iterator)", How::iterator, false, ""},
    {"each_socket", "task_file (iterator)", How::iterator, false, "the first use of an older connection"},
};

// By enum wire_uprobe_program.
inline constexpr const char* kUprobePrograms[WIRE_UPROBE_PROGRAMS] = {
    "tls_enter", "tls_return", "tls_end", "go_enter", "go_return", "go_end", "self_test"};
// Returns first: a call that is seen to begin must be seen to end.
inline constexpr std::uint32_t kAttachOrder[] = {WIRE_TLS_RETURN, WIRE_GO_RETURN, WIRE_TLS_END,  WIRE_GO_END,
                                                 WIRE_TLS_ENTER,  WIRE_GO_ENTER,  WIRE_SELF_TEST};

// One of these ways from a TLS object to its socket is loaded.
inline constexpr std::string_view kBySocketEvents[] = {"socket_sent", "socket_received"};
inline constexpr std::string_view kBySystemCalls[] = {"system_call"};

// What has to outlive an agent that fails closed: who is meant, for as long as each process lives, and no.
inline constexpr const char* kPinnedPrograms[] = {"mark_inherited", "mark_forgotten",   "redirect4",
                                                  "redirect6",      "refuse_datagram4", "refuse_datagram6"};

inline constexpr std::string_view kPolicyPrograms[] = {"policy_connect4", "policy_connect6", "policy_send4",
                                                       "policy_send6"};

inline const char* shown_name(const std::string& name) {
  for (const auto& entry : kPrograms)
    if (name == entry.name) return entry.shown;
  return "";
}

}  // namespace weir::bpf
