// Who is behind an accepted connection: one look-up in the kernel side's table.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "bpf/event_source.h"
#include "bpf/kernel_table.h"
#include "bpf/wire.h"

namespace weir::bpf {
namespace {

class KernelResolver final : public ClientResolver {
 public:
  KernelResolver(int tuples, int redirections, std::uint64_t netns_cookie)
      : tuples_(tuples), redirections_(redirections), netns_cookie_(netns_cookie) {}

  std::expected<Client, std::string> resolve(const Tuple& client_view) override {
    wire_tuple key{};
    key.netns_cookie = netns_cookie_;
    key.family = client_view.local.address.family == IpAddress::Family::v4 ? 4 : 6;
    std::ranges::copy(client_view.local.address.bytes, key.local);
    std::ranges::copy(client_view.peer.address.bytes, key.peer);
    key.local_port = client_view.local.port;
    key.peer_port = client_view.peer.port;
    wire_owner owner{};
    if (!tuples_.look_up(key, owner))
      return std::unexpected(errno == ENOENT
                                 ? "no process is known to have opened " + client_view.local.to_string()
                                 : std::string("the kernel's table of connections: ") + std::strerror(errno));
    if (owner.process.tgid == 0)
      return std::unexpected("the process that opened " + client_view.local.to_string() + " is not known");
    Client client{.cookie = {owner.cookie},
                  .process = {owner.process.tgid, owner.process.start_boottime_ns},
                  .network_namespace_cookie = owner.netns_cookie,
                  .uid = owner.uid,
                  .exec_id = owner.exec_id};
    wire_endpoint destination{};
    if (owner.redirected != 0 && redirections_.look_up(owner.cookie, destination))
      client.redirected_from = to_endpoint(destination);
    client.steered = client.redirected_from && destination.steered != 0;
    return client;
  }

 private:
  static Endpoint to_endpoint(const wire_endpoint& wire) {
    return {wire.family == 4 ? IpAddress::v4(wire.address) : IpAddress::v6(wire.address), wire.port};
  }

  KernelTable tuples_;
  KernelTable redirections_;
  std::uint64_t netns_cookie_;
};

}  // namespace

std::unique_ptr<ClientResolver> make_kernel_resolver(int tuples_descriptor, int redirections_descriptor,
                                                     std::uint64_t network_namespace_cookie) {
  return std::make_unique<KernelResolver>(tuples_descriptor, redirections_descriptor,
                                          network_namespace_cookie);
}

}  // namespace weir::bpf
