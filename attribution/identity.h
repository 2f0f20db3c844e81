// Who and which: the keys by which every other part of weir speaks of processes, sockets and TLS objects.
// Plain values; nothing here owns a resource or takes a lock.
#pragma once

#include <array>
#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace weir {

// Wall-clock time, UTC, nanoseconds. A source converts its kernel clock with one offset fixed at its start,
// so that differences between two Times of one source are monotonic.
using Time = std::chrono::sys_time<std::chrono::nanoseconds>;

// What comes from outside is held against these, so that sums and differences don't overflow.
inline constexpr Time kLatestTime{std::chrono::nanoseconds(std::int64_t{1} << 62)};  // in the year 2116
inline constexpr std::uint64_t kLatestBootNs = std::uint64_t{1} << 61;               // up for 73 years

// SO_COOKIE of the client's socket: unique on a host for a boot. 0 is "not known".
struct SocketCookie {
  std::uint64_t value = 0;
  auto operator<=>(const SocketCookie&) const = default;
  explicit operator bool() const { return value != 0; }
};

// A process as the kernel knows it: the pid (thread group id) in the initial pid namespace and the start time
// in nanoseconds of CLOCK_BOOTTIME (task_struct.start_boottime of the group leader). pid 0 is "not known".
// A source that can only read /proc has start times in clock ticks; see start_matches().
struct ProcessKey {
  std::uint32_t pid = 0;
  std::uint64_t start_boottime_ns = 0;
  auto operator<=>(const ProcessKey&) const = default;
  explicit operator bool() const { return pid != 0; }
};

// True when two start times can be one: equal, or in the same clock tick (10 ms, USER_HZ) when one of them is
// only known in ticks; 0 is "not known" and matches all.
bool start_matches(std::uint64_t a_boottime_ns, std::uint64_t b_boottime_ns);

// A ProcessKey and how often it has called exec: what a record names. The engine counts the generations.
struct ProcessId {
  ProcessKey key;
  std::uint32_t exec_generation = 0;
  auto operator<=>(const ProcessId&) const = default;
};

// One use of an SSL object: freeing it, clearing it or giving it another socket starts the next generation.
struct TlsObjectId {
  ProcessKey process{};
  std::uint64_t pointer = 0;
  std::uint32_t generation = 0;
  auto operator<=>(const TlsObjectId&) const = default;
  explicit operator bool() const { return pointer != 0; }
};

// IPv4 or IPv6, network byte order, as socket addresses carry it. IPv4-mapped IPv6 addresses are unmapped
// when an IpAddress is made, so two equal peers always compare equal.
struct IpAddress {
  enum class Family : std::uint8_t { unknown, v4, v6 };
  Family family = Family::unknown;
  std::array<std::uint8_t, 16> bytes{};  // v4 uses the first four
  auto operator<=>(const IpAddress&) const = default;

  static IpAddress v4(const std::uint8_t* four_bytes);
  static IpAddress v6(const std::uint8_t* sixteen_bytes);  // unmaps ::ffff:a.b.c.d
  std::string to_string() const;                           // "" when unknown; no brackets
  bool is_loopback() const;
  bool is_unspecified() const;  // 0.0.0.0 or ::, or of no family
};

struct Endpoint {
  IpAddress address{};
  std::uint16_t port = 0;  // host byte order
  auto operator<=>(const Endpoint&) const = default;
  std::string to_string() const;  // "127.0.0.1:443", "[::1]:443"
};

// Parses "A.B.C.D", "::1" (no brackets); the family is unknown when the text is no address.
IpAddress parse_ip_address(const std::string& text);

// A connection from its client's point of view.
struct Tuple {
  Endpoint local{};
  Endpoint peer{};
  auto operator<=>(const Tuple&) const = default;
};

}  // namespace weir

template <>
struct std::hash<weir::SocketCookie> {
  std::size_t operator()(const weir::SocketCookie& cookie) const noexcept {
    // Cookies count up; a multiplicative mix spreads neighbours over shards and buckets.
    return static_cast<std::size_t>(cookie.value * 0x9E3779B97F4A7C15ull);
  }
};

template <>
struct std::hash<weir::TlsObjectId> {
  std::size_t operator()(const weir::TlsObjectId& id) const noexcept {
    const std::uint64_t mixed = id.pointer ^ (std::uint64_t{id.process.pid} << 40) ^ id.generation;
    return static_cast<std::size_t>(mixed * 0x9E3779B97F4A7C15ull);
  }
};

template <>
struct std::hash<weir::ProcessKey> {
  std::size_t operator()(const weir::ProcessKey& key) const noexcept {
    return static_cast<std::size_t>((key.start_boottime_ns ^ key.pid) * 0x9E3779B97F4A7C15ull);
  }
};
