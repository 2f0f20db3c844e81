// What the worker can ask of the broker, and nothing else: fixed-size messages over a SOCK_SEQPACKET pair,
// one message a packet. The broker is root and must treat every request as written by an attacker: each field
// is checked against what it may be, and no field is a path, a command or a format that would have to be
// parsed.
//
// Native byte order and layout: both ends are the same executable.
#pragma once

#include <array>
#include <cstdint>
#include <type_traits>

namespace weir::agent {

inline constexpr std::uint32_t protocol_magic = 0x77656972;  // "weir"

// The worker inherits its end of the pair as this descriptor.
inline constexpr int worker_channel_descriptor = 3;

enum class Operation : std::uint32_t {
  hello = 1,           // -> Welcome, with the descriptors that the worker needs
  ready,               // listeners are bound, taps are up
  start_failed,        // the worker can't start: `text` says why and what to do; no reply
  sign_leaf,           // -> the certificate and the one to send after it (DER) in `data`
  open_known_library,  // number -> descriptor; done when there are no more candidates
  open_mapping,        // pid, range -> descriptor of the mapped file
  attach,              // file handle, probe sites -> target handle
  detach,              // target handle
  forget_file,         // file handle
  find_socket_owner,   // socket's inode number -> pid in `handle`, its executable in `text`
  task_iterator,       // -> descriptor
  mapping_iterator,    // pid, or 0 for all -> descriptor
  socket_iterator,     // -> descriptor
  mapping_events,      // processor -> descriptor; done when there are no more processors
  next_exec,      // -> number in `number`, descriptor of a file whose exec waits; not_there when none does
  exec_done,      // number: it may go on
  warm_up,        // a library is about to be attached
  authority,      // -> the signing root's fingerprint in `text`; number: 1 in the overlap of a rotation
  next_listener,  // -> descriptor of a listener for redirected connections, its network namespace in `number`
                  // (0: ours) and that one's cookie in `netns_cookie`; no_more when the worker has all
  policy,  // -> descriptor of the policy's text, none without a policy; in `text` why the file is not in
           // force
  find_executable,  // pid -> the link of its executable in `text`, "" when it can't be told
  upstream_socket,  // -> descriptor of a TCP socket in one of next_listener's network namespaces
  container_state,  // a container's id, number -> descriptor of the first of its runtime's files from that
                    // number on, its own number in `number`; no_more when none are left
};

struct SignLeafRequest {
  std::uint16_t name_length;
  std::array<char, 254> name;
  std::array<std::uint8_t, 65> public_key;
};

struct OpenMappingRequest {
  std::uint32_t pid;
  std::uint64_t start;
  std::uint64_t end;
};

struct WireProbeSite {
  std::uint32_t program;
  std::uint64_t offset;
  std::uint64_t cookie;
};

inline constexpr std::uint32_t max_sites = 128;

struct AttachRequest {
  std::uint32_t file;
  std::uint32_t site_count;
  std::array<WireProbeSite, max_sites> sites;
};

struct UpstreamSocketRequest {
  std::uint32_t network_namespace;  // next_listener's number
  std::uint32_t v6;
};

struct ContainerStateRequest {
  std::array<char, 64> id;  // lower-case hexadecimal digits
  std::uint32_t number;
};

struct ReadyRequest {
  std::array<char, 64> proxy_address;  // "127.0.0.1:7443", zero-terminated; empty: off
  std::array<char, 64> api_address;
  std::array<char, 256> native;  // "ready, 2 libraries"
};

struct StartFailedRequest {
  std::array<char, 1024> text;
};

struct Request {
  std::uint32_t magic = protocol_magic;
  Operation operation{};
  std::uint64_t id = 0;
  union {
    std::uint32_t number;  // open_known_library, detach, forget_file, mapping_iterator, mapping_events,
                           // exec_done, find_executable
    SignLeafRequest sign_leaf;
    OpenMappingRequest open_mapping;
    AttachRequest attach;
    UpstreamSocketRequest upstream_socket;
    ContainerStateRequest container_state;
    ReadyRequest ready;
    StartFailedRequest start_failed;
  };
  Request() : number(0) {}
};
static_assert(std::is_trivially_copyable_v<Request>);

enum class Status : std::uint32_t {
  ok,
  no_more,    // open_known_library, mapping_events: past the last
  not_there,  // this candidate, or this mapping, does not exist (any more)
  refused,    // a field is not what it may be, or a limit is reached
  failed,     // `text` says why
};

struct Reply {
  std::uint32_t magic = protocol_magic;
  Status status = Status::ok;
  std::uint64_t id = 0;
  std::uint32_t handle = 0;
  std::uint32_t data_size = 0;
  std::uint64_t device = 0;  // of an opened file, as probes bind to it
  std::uint64_t inode = 0;
  std::uint64_t netns_cookie = 0;
  std::uint32_t inode_generation = 0;
  std::uint32_t number = 0;
  std::int32_t watch = 0;  // of an opened file's content (file_changes.h)
  std::uint32_t padding = 0;
  std::array<char, 512> text{};
  std::array<std::uint8_t, 4096> data{};
};
static_assert(std::is_trivially_copyable_v<Reply>);

// The reply to hello carries a Welcome in `data`, and these descriptors in this order: the configuration's
// text (a memfd), the state directory, the upstream roots as one PEM (a memfd), the
// files of client certificates, each ended by a zero (a memfd); ring, tuples, control,
// untold, redirections and what happens to files if has_native; the event of waiting execs and the page of
// what is counted of them if has_exec_gate; the event of new listeners if has_redirection; the JSONL file if
// has_jsonl; the recording if has_recording.
struct Welcome {
  std::uint64_t ring_bytes = 0;
  std::uint64_t network_namespace_cookie = 0;
  std::uint32_t broker_pid = 0;
  std::uint32_t restarts = 0;  // how often the worker was started before
  bool native_wanted = false;  // by the configuration, and possible: root
  bool has_native = false;
  bool has_exec_gate = false;
  bool has_redirection = false;
  bool for_a_command = false;  // ends with its last user
  bool has_jsonl = false;
  bool has_recording = false;
  std::array<char, 64> proxy_listen{};  // what an earlier worker had: a restarted one keeps its ports
  std::array<char, 64> api_listen{};
  std::array<char, 512> native_reason{};  // why there is no native tap
};
static_assert(sizeof(Welcome) <= sizeof(Reply::data));

}  // namespace weir::agent
