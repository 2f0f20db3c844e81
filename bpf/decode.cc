// Ring records to events. The kernel side is ours, but a decoder that trusts nothing can be tested and fuzzed
// alone: every size is checked against the record's own length.
#include <algorithm>
#include <cstring>
#include <ranges>

#include "attribution/client_hello.h"
#include "bpf/event_source.h"
#include "bpf/wire.h"

namespace weir::bpf {
namespace {

using Record = std::span<const std::byte>;

Time to_time(std::uint64_t boot_ns, ClockOffset clock) {
  return Time(std::chrono::nanoseconds(static_cast<std::int64_t>(boot_ns)) + clock.boot_to_wall);
}

ProcessKey to_key(const wire_process_key& key) {
  return {key.tgid, key.start_boottime_ns};
}

// Cleartext has none: its streams are the connection's.
TlsObjectId to_object(const wire_tls_object& object) {
  if (object.library == WIRE_LIBRARY_NONE) return {};
  return {to_key(object.process), object.pointer, object.generation};
}

TlsLibrary to_library(std::uint32_t library) {
  switch (library) {
    case WIRE_LIBRARY_OPENSSL:
      return TlsLibrary::openssl;
    case WIRE_LIBRARY_BORINGSSL:
      return TlsLibrary::boringssl;
    case WIRE_LIBRARY_GNUTLS:
      return TlsLibrary::gnutls;
    case WIRE_LIBRARY_NSS:
      return TlsLibrary::nss;
    case WIRE_LIBRARY_GO:
      return TlsLibrary::go;
    case WIRE_LIBRARY_NONE:
      return TlsLibrary::none;
    default:
      return TlsLibrary::unknown;
  }
}

Direction to_direction(std::uint32_t direction) {
  return direction == WIRE_SENT ? Direction::sent : Direction::received;
}

template <class T>
std::optional<T> read(Record record) {
  if (record.size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, record.data(), sizeof value);
  return value;
}

std::vector<std::string> split_at_nul(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const auto end = std::min(text.find('\0'), text.size());
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

std::string to_path(std::string_view names, bool truncated) {
  std::string path = truncated ? "..." : "";
  for (const auto& name : std::views::reverse(split_at_nul(names))) path += "/" + name;
  return path;
}

std::string_view text_at(Record record, std::size_t offset, std::size_t length) {
  return {reinterpret_cast<const char*>(record.data()) + offset, length};
}

std::optional<ProcessEvent> to_process(Record record, ProcessEvent::What what, ClockOffset clock) {
  const auto wire = read<wire_process>(record);
  if (!wire) return std::nullopt;
  ProcessEvent event;
  event.what = what;
  event.time = to_time(wire->header.boot_ns, clock);
  event.process = to_key(wire->process);
  event.parent = to_key(wire->parent);
  event.inner_pid = wire->inner_pid;
  event.exec_id = wire->exec_id;
  event.uid = wire->uid;
  event.cgroup_id = wire->cgroup_id;
  event.network_namespace_cookie = wire->netns_cookie;
  if (wire->path_bytes == 0) return event;
  if (wire->path_bytes > WIRE_PATH_BYTES || record.size() < sizeof(wire_process) + wire->path_bytes)
    return std::nullopt;
  event.executable_path = to_path(text_at(record, sizeof(wire_process), wire->path_bytes),
                                  (wire->flags & WIRE_PATH_TRUNCATED) != 0);
  return event;
}

std::optional<Event> to_plain_process(Record record, ProcessEvent::What what, ClockOffset clock) {
  if (auto event = to_process(record, what, clock)) return *std::move(event);
  return std::nullopt;
}

std::optional<Event> to_exec(Record record, ClockOffset clock) {
  auto event = to_process(record, ProcessEvent::What::execed, clock);
  if (!event) return std::nullopt;
  const auto wire = read<wire_process>(record);
  const std::size_t arguments = sizeof(wire_process) + wire->path_bytes;
  if (wire->argument_bytes > WIRE_ARGUMENT_BYTES || record.size() != arguments + wire->argument_bytes)
    return std::nullopt;
  event->arguments = split_at_nul(text_at(record, arguments, wire->argument_bytes));
  event->arguments_truncated = (wire->flags & WIRE_ARGUMENTS_TRUNCATED) != 0;
  return *std::move(event);
}

IpAddress to_address(const std::uint8_t* bytes, std::uint8_t family) {
  return family == 4 ? IpAddress::v4(bytes) : IpAddress::v6(bytes);
}

std::optional<Event> to_opened(Record record, ClockOffset clock) {
  const auto wire = read<wire_opened>(record);
  if (!wire || (wire->tuple.family != 4 && wire->tuple.family != 6)) return std::nullopt;
  const auto& tuple = wire->tuple;
  ConnectionOpened event;
  event.time = to_time(wire->header.boot_ns, clock);
  event.cookie = {wire->owner.cookie};
  event.tuple.local = {to_address(tuple.local, tuple.family), tuple.local_port};
  event.tuple.peer = {to_address(tuple.peer, tuple.family), tuple.peer_port};
  event.owner = to_key(wire->owner.process);
  event.network_namespace_cookie = wire->owner.netns_cookie;
  event.before_start = (wire->flags & WIRE_BEFORE_START) != 0;
  event.accepted = (wire->flags & WIRE_ACCEPTED) != 0;
  event.redirected = (wire->flags & WIRE_REDIRECTED) != 0;
  if (event.owner && !event.before_start) {
    event.owner_uid = wire->owner.uid;
    event.owner_exec_id = wire->owner.exec_id;
  }
  return event;
}

std::optional<Event> to_closed(Record record, ClockOffset clock) {
  const auto wire = read<wire_closed>(record);
  if (!wire || wire->error < 0) return std::nullopt;
  ConnectionClosed event;
  event.time = to_time(wire->header.boot_ns, clock);
  event.cookie = {wire->cookie};
  event.bytes_sent = wire->sent;
  event.bytes_received = wire->received;
  if (wire->flags & WIRE_HAS_PLAINTEXT) {
    event.plaintext_sent = wire->plaintext_sent;
    event.plaintext_received = wire->plaintext_received;
  }
  event.error = wire->error;
  event.sent_end = wire->flags & WIRE_SENT_FIN;
  event.received_end = wire->flags & WIRE_RECEIVED_FIN;
  event.other_protocol = wire->flags & WIRE_OTHER_PROTOCOL;
  return event;
}

std::string to_version(std::uint32_t version) {
  if (version < 0x0301 || version > 0x0304) return "";
  return "1." + std::to_string(version - 0x0301);
}

std::optional<Event> to_handshake(Record record, ClockOffset clock) {
  const auto wire = read<wire_handshake>(record);
  if (!wire) return std::nullopt;
  Handshake event;
  event.time = to_time(wire->header.boot_ns, clock);
  event.cookie = {wire->cookie};
  event.object = to_object(wire->object);
  event.library = to_library(wire->object.library);
  event.version = to_version(wire->version);
  event.completed = wire->unused == 0;
  event.unused = wire->unused != 0;
  return event;
}

std::optional<Event> to_bytes(Record record, ClockOffset clock) {
  const auto wire = read<wire_bytes>(record);
  if (!wire || wire->length > WIRE_CHUNK_BYTES || wire->header.size != sizeof(wire_bytes) + wire->length)
    return std::nullopt;
  Bytes event;
  event.time = to_time(wire->header.boot_ns, clock);
  event.cookie = {wire->cookie};
  event.object = to_object(wire->object);
  event.process = to_key(wire->object.process);
  event.direction = to_direction(wire->direction);
  event.offset = wire->offset;
  const auto payload = record.subspan(sizeof(wire_bytes), wire->length);
  event.data.assign(payload.begin(), payload.end());
  return event;
}

std::optional<Event> to_hello(Record record, ClockOffset clock) {
  const auto wire = read<wire_bytes>(record);
  if (!wire || wire->length > WIRE_HELLO_BYTES || wire->header.size != sizeof(wire_bytes) + wire->length)
    return std::nullopt;
  Handshake event;
  event.time = to_time(wire->header.boot_ns, clock);
  event.cookie = {wire->cookie};
  if (auto hello = parse_client_hello(record.subspan(sizeof(wire_bytes), wire->length)))
    event.sni = std::move(hello->server_name);
  return event;
}

Gap::Reason to_reason(std::uint32_t cause) {
  switch (cause) {
    case WIRE_GAP_UNREADABLE:
      return Gap::Reason::fault;
    case WIRE_GAP_RING_FULL:
      return Gap::Reason::ring_full;
    default:
      return Gap::Reason::other;
  }
}

std::optional<Event> to_gap(Record record, ClockOffset clock) {
  const auto wire = read<wire_gap>(record);
  if (!wire) return std::nullopt;
  Gap event;
  event.time = to_time(wire->header.boot_ns, clock);
  event.cookie = {wire->cookie};
  event.object = to_object(wire->object);
  event.direction = to_direction(wire->direction);
  event.offset = wire->offset;
  event.length = wire->length;
  event.reason = to_reason(wire->cause);
  return event;
}

std::optional<Event> to_ended(Record record, ClockOffset clock) {
  const auto wire = read<wire_ended>(record);
  if (!wire) return std::nullopt;
  StreamEnded event;
  event.time = to_time(wire->header.boot_ns, clock);
  event.cookie = {wire->cookie};
  event.object = to_object(wire->object);
  event.direction = to_direction(wire->direction);
  event.offset = wire->offset;
  return event;
}

std::optional<Event> to_policy(Record record, ClockOffset clock) {
  const auto wire = read<wire_policy_decided>(record);
  if (!wire || (wire->family != 4 && wire->family != 6)) return std::nullopt;
  PolicyDecided event;
  event.time = to_time(wire->header.boot_ns, clock);
  event.cookie = {wire->owner.cookie};
  event.process = to_key(wire->owner.process);
  event.uid = wire->owner.uid;
  event.tap = weir::Tap::native;
  event.allowed = wire->allowed != 0;
  event.udp = wire->udp != 0;
  event.rule.assign(wire->rule, ::strnlen(wire->rule, sizeof wire->rule));
  if (event.rule.empty()) event.rule = "default";
  event.peer = {to_address(wire->address, wire->family), wire->port};
  return event;
}

}  // namespace

std::optional<Event> decode(std::span<const std::byte> record, ClockOffset clock) {
  const auto header = read<wire_header>(record);
  if (!header || header->size < sizeof(wire_header) || header->size > record.size()) return std::nullopt;
  if (header->boot_ns > kLatestBootNs) return std::nullopt;
  record = record.first(header->size);
  switch (header->kind) {
    case WIRE_PROCESS_SEEN:
      return to_plain_process(record, ProcessEvent::What::seen, clock);
    case WIRE_PROCESS_STARTED:
      return to_plain_process(record, ProcessEvent::What::started, clock);
    case WIRE_PROCESS_EXITED:
      return to_plain_process(record, ProcessEvent::What::exited, clock);
    case WIRE_PROCESS_EXECED:
      return to_exec(record, clock);
    case WIRE_CONNECTION_OPENED:
      return to_opened(record, clock);
    case WIRE_CONNECTION_CLOSED:
      return to_closed(record, clock);
    case WIRE_TLS_HANDSHAKE:
      return to_handshake(record, clock);
    case WIRE_TLS_BYTES:
      return to_bytes(record, clock);
    case WIRE_TLS_GAP:
      return to_gap(record, clock);
    case WIRE_TLS_ENDED:
      return to_ended(record, clock);
    case WIRE_POLICY_DECIDED:
      return to_policy(record, clock);
    case WIRE_CLIENT_HELLO:
      return to_hello(record, clock);
    default:
      return std::nullopt;
  }
}

}  // namespace weir::bpf
