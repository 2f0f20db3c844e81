// Any bytes as what a proxy above this one answers: the same verdict, the same words and the same rest,
// however they are cut; and any text as its URL.
#include <string>

#include "proxy/upstream_proxy.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir::proxy;
using weir::fuzz::require;
using State = ProxyHandshake::State;

// What is said, the verdict and, when the connection stands, the rest.
std::string talk(const UpstreamProxy& proxy, std::span<const std::byte> data, std::size_t piece) {
  const auto handshake = ProxyHandshake::begin(proxy, {"origin.test", 443, {}});
  std::string told = handshake->take_output();
  while (!data.empty() && handshake->state() == State::unfinished) {
    const auto next = data.first(std::min(piece, data.size()));
    handshake->feed(next);
    told += handshake->take_output();
    data = data.subspan(next.size());
  }
  told += std::to_string(static_cast<int>(handshake->state())) + handshake->why();
  if (handshake->state() != State::connected) return told;
  const auto& rest = handshake->unread();
  told.append(reinterpret_cast<const char*>(rest.data()), rest.size());
  return told.append(reinterpret_cast<const char*>(data.data()), data.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = weir::fuzz::bytes_of(data, size);
  for (const auto kind : {UpstreamProxy::Kind::http, UpstreamProxy::Kind::socks5}) {
    for (const char* user : {"", "me"}) {
      const UpstreamProxy proxy{.kind = kind, .address = {"p", 1, {}}, .user = user, .password = "pw"};
      const std::string whole = talk(proxy, bytes, size);
      require(talk(proxy, bytes, 1) == whole && talk(proxy, bytes, 7) == whole);
    }
  }
  if (const auto proxy = parse_upstream_proxy(weir::fuzz::text_of(data, size)))
    require(proxy->address.port != 0 && !proxy->address.name.empty());
  return 0;
}
