// Answers the worker's requests: the whole of what an attacker who owns the worker can make root do. Every
// field is checked here; limits bound what it can hold open. What isn't checked: that a place in a file that
// the worker wants probed begins an instruction. A probe in the middle of one changes what the file's
// programs do, so an attacker who owns the worker can break programs of others, root's included.
// Single-threaded.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "agent/container_files.h"
#include "agent/descriptor.h"
#include "agent/exec_gate.h"
#include "agent/protocol.h"
#include "agent/redirector.h"
#include "agent/socket_owners.h"
#include "bpf/kernel_side.h"
#include "ca/ca.h"

namespace weir::agent {

class BrokerService {
 public:
  // `kernel` may be null: there is no native tap then, and what needs it is refused. `gate` may be null.
  // So may `redirector`.
  BrokerService(ca::LeafSigner& signer, bpf::KernelSide* kernel, ExecGate* gate = nullptr,
                Redirector* redirector = nullptr)
      : signer_(&signer), kernel_(kernel), gate_(gate), redirector_(redirector) {}

  void set_container_files(ContainerFiles files) { container_files_ = std::move(files); }
  void set_signer(ca::LeafSigner& signer) { signer_ = &signer; }

  struct Result {
    Reply reply;
    Descriptor opened;  // to be sent with the reply, and closed then
  };
  // Operations that reply: all but hello, ready, start_failed, authority and policy, which are the broker's
  // own.
  Result handle(const Request& request);

  // Detaches what a dead worker had attached, and forgets its files.
  void worker_gone();
  // Tells what happens to the files that were opened for the worker (file_changes.h); a worker's own, made
  // anew with each call.
  int open_changes();

 private:
  void find_socket_owner(std::uint32_t inode, Reply& reply);
  void find_executable(std::uint32_t pid, Reply& reply);
  void sign_leaf(const SignLeafRequest& request, Reply& reply);
  void open_known_library(std::uint32_t number, Result& result);
  void open_mapping(const OpenMappingRequest& request, Result& result);
  void keep_file(Descriptor file, Result& result);
  bool is_weir_itself(const bpf::FileIdentity& file);
  void attach(const AttachRequest& request, Reply& reply);
  void detach(std::uint32_t target, Reply& reply);
  void open_iterator(const Request& request, Result& result);
  void next_exec(Result& result);
  void next_listener(Result& result);
  void container_state(const ContainerStateRequest& request, Result& result);
  void upstream_socket(const UpstreamSocketRequest& request, Result& result);
  void open_mapping_events(std::uint32_t processor, Result& result);

  struct File {
    Descriptor descriptor;
    std::uint64_t size = 0;
  };

  ca::LeafSigner* signer_;
  bpf::KernelSide* kernel_;
  ExecGate* gate_;
  Redirector* redirector_;
  std::optional<bpf::FileIdentity> own_file_;
  std::map<std::uint32_t, File> files_;
  std::vector<bpf::TargetHandle> targets_;
  Descriptor changes_;
  std::uint32_t next_file_ = 1;
  SocketOwners owners_;
  ContainerFiles container_files_;
  bool had_worker_ = false;  // one before this: connections were told to it, which the next one doesn't know
};

}  // namespace weir::agent
