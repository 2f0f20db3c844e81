// The broker's half of the native tap: loads the BPF programs, attaches them, and hands out the descriptors
// that the worker reads from. libbpf stays behind this header. Everything attached is held by descriptors of
// this process alone, so the kernel takes it all down when the process ends, however it ends; but for what is
// pinned when redirection is to fail closed.
//
// It never parses a file of others: it attaches at (descriptor, offset) as it is told. Single-threaded.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attribution/policy_rules.h"
#include "bpf/filters.h"

namespace weir::bpf {

struct Error {
  std::string what;
  std::string remedy;
};

struct LoadOptions {
  std::size_t ring_bytes = 32 * 1024 * 1024;  // a power of two, a multiple of the page size
  std::size_t connections = 65'536;           // tracked in the kernel at once (LRU)
  std::size_t tls_objects = 65'536;
  // What newer kernels have; without it, or with false, the older way serves.
  bool socket_events = true;  // 6.3: a TLS object's socket by sock_send_length, else by system calls
  bool uprobe_multi = true;   // 6.6: all probes of a file by one link, else by a perf event each
  // False, for tests: that a connection ends is told by its socket's own callback alone.
  bool state_tracepoint = true;
  bool ingress = false;  // tell of what servers accept, too
  Filters filters;
  bool refuse_quic = true;             // of redirected processes
  bool policy_steers = false;          // connections that only the proxy can judge go there, if it listens
  bool redirect_fails_closed = false;  // what can't be redirected is refused
  // Whose pins (pins.h) are taken over, with the processes that were marked; "": nobody's. With
  // redirect_fails_closed its own are pinned in their stead, and refuse when this process is gone.
  std::string pin_owner;
  bool policy = false;  // with the programs that enforce one: see set_policy()
};

// Which program stands at which address. The programs and what `kind` means are listed in
// probes/tls_probes.h.
struct ProbeSite {
  std::uint32_t program = 0;  // index into the table of uprobe programs
  std::uint64_t offset = 0;   // in the file
  std::uint64_t cookie = 0;   // handed to the program: what the function is
};

struct ProgramState {
  std::string name;  // "sock_send_length (BTF tracepoint)"
  bool working = false;
  std::string error;    // why not
  std::string instead;  // what serves instead, "" when nothing does
  bool required = false;
};

using TargetHandle = std::uint32_t;

// A file as probes bind to it. Under overlayfs it is the lower (or upper) file, which stat() does not tell.
// The generation tells a file from an earlier one that had its inode number.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint32_t generation = 0;
  auto operator<=>(const FileIdentity&) const = default;
};

class Redirection;

class KernelSide {
 public:
  // Loads and attaches everything but the uprobes. A required program that fails is an Error that names it.
  static std::expected<std::unique_ptr<KernelSide>, Error> load(const LoadOptions& options);
  virtual ~KernelSide() = default;

  virtual std::vector<ProgramState> programs() const = 0;

  // Descriptors for the worker; they stay owned by this object (pass duplicates).
  virtual int ring_descriptor() const = 0;          // BPF_MAP_TYPE_RINGBUF of ring_bytes
  virtual int tuples_descriptor() const = 0;        // hash: struct wire_tuple -> struct wire_owner
  virtual int control_descriptor() const = 0;       // mmap-able array, one struct wire_control
  virtual int untold_descriptor() const = 0;        // hash: struct wire_untold_key -> struct wire_untold
  virtual int redirections_descriptor() const = 0;  // hash: cookie -> struct wire_endpoint

  // Processes of ours, which the programs leave alone (thread group ids of the initial pid namespace).
  virtual void set_own_processes(std::span<const std::uint32_t> tgids) = 0;

  // Puts the rules that the kernel can judge in force, in place of those from before; without options.policy
  // an error. Nothing has changed after an error.
  virtual std::expected<void, Error> set_policy(const Policy& policy) = 0;
  // The ways into the egress proxy, at most WIRE_POLICY_LISTENERS: no rule of the kernel's keeps a client
  // from it.
  virtual void set_proxy_listeners(std::span<const Endpoint> listeners) = 0;

  // One pass over all tasks / all file mappings that are executable (pid 0: of all processes): a readable
  // descriptor that gives struct wire_task / struct wire_mapping until end of file.
  virtual std::expected<int, Error> open_task_iterator() = 0;
  virtual std::expected<int, Error> open_mapping_iterator(std::uint32_t pid) = 0;
  // One pass over all sockets that processes hold: gives struct wire_opened for each connection that a client
  // opened before the programs were attached, or `again`, before now; some more than once.
  virtual std::expected<int, Error> open_socket_iterator(bool again) = 0;
  // Tells each executable mapping that a process on this processor makes: a perf event for MappingWatch.
  virtual std::expected<int, Error> open_mapping_events(std::uint32_t processor) = 0;
  // Of a file that is open for reading.
  virtual std::expected<FileIdentity, Error> identify(int file_descriptor) = 0;

  // Attaches all sites of one file at once; all or nothing. The descriptor may be closed afterwards. Waits
  // for a detach of the same file that is under way: nothing is counted twice.
  virtual std::expected<TargetHandle, Error> attach(int file_descriptor,
                                                    std::span<const ProbeSite> sites) = 0;
  // Returns before the kernel has taken the probes away: they still tell what happens for up to 0.1 s.
  virtual void detach(TargetHandle target) = 0;
  // Null where the kernel lacks a program of it; programs() says why. Lives as long as this object.
  virtual Redirection* redirection() = 0;
  // Until all are taken away.
  virtual void finish_detaching() = 0;
  // The first attach after a quiet spell takes 5 to 15 ms, those after it less than one: makes the next one
  // of those.
  virtual void warm_up() = 0;
};

// What this kernel allows, for `weir doctor`: tried one by one, nothing stays loaded.
std::vector<ProgramState> probe_features();

}  // namespace weir::bpf
