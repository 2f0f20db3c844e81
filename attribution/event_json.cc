// The recording's line format. Each event's members are listed once, in describe(); writing and reading both
// walk that list, so they can't drift apart. Reading trusts nothing: a recording may come from a stranger.
#include <boost/json.hpp>
#include <limits>

#include "attribution/recording.h"
#include "attribution/text.h"

namespace weir {
namespace {

namespace json = boost::json;

template <typename E>
constexpr std::size_t kEnumSize = 0;
template <>
constexpr std::size_t kEnumSize<Tap> = 2;
template <>
constexpr std::size_t kEnumSize<Direction> = 2;
template <>
constexpr std::size_t kEnumSize<TlsLibrary> = 7;
template <>
constexpr std::size_t kEnumSize<ProcessEvent::What> = 4;
template <>
constexpr std::size_t kEnumSize<Decision> = 6;
template <>
constexpr std::size_t kEnumSize<Gap::Reason> = 5;

class Writer {
 public:
  explicit Writer(json::object& object) : object_(object) {}

  template <typename T>
  void operator()(const char* name, const T& value) {
    object_[name] = to_value(value);
  }

 private:
  static json::value to_value(bool value) { return value; }
  static json::value to_value(int value) { return value; }
  template <std::unsigned_integral T>
  static json::value to_value(T value) {
    return std::uint64_t{value};
  }
  template <typename T>
    requires std::is_enum_v<T>
  static json::value to_value(T value) {
    return static_cast<std::uint64_t>(value);
  }
  static json::value to_value(Time value) { return std::int64_t{value.time_since_epoch().count()}; }
  static json::value to_value(SocketCookie value) { return value.value; }
  // Boost.JSON neither checks nor escapes bytes that aren't UTF-8; such text goes out as {"base64": ...}.
  static json::value to_value(const std::string& value) {
    if (is_utf8(value)) return json::value(value);
    return json::object{{"base64", to_base64(std::as_bytes(std::span(value)))}};
  }
  static json::value to_value(const std::vector<std::string>& values) {
    json::array array;
    for (const std::string& value : values) array.push_back(to_value(value));
    return array;
  }
  static json::value to_value(const std::vector<std::byte>& value) { return json::value(to_base64(value)); }
  static json::value to_value(const ProcessKey& value) {
    return json::array{value.pid, value.start_boottime_ns};
  }
  static json::value to_value(const TlsObjectId& value) {
    return json::array{value.process.pid, value.process.start_boottime_ns, value.pointer, value.generation};
  }
  static json::value to_value(const Endpoint& value) {
    return json::array{value.address.to_string(), std::uint64_t{value.port}};
  }
  static json::value to_value(const Tuple& value) {
    return json::array{to_value(value.local), to_value(value.peer)};
  }
  static json::value to_value(const std::shared_ptr<const ContainerNames>& value) {
    if (!value) return {};
    return json::array{to_value(value->name), to_value(value->image), to_value(value->k8s_namespace),
                       to_value(value->k8s_pod), to_value(value->k8s_container)};
  }
  template <typename T>
  static json::value to_value(const std::optional<T>& value) {
    return value ? to_value(*value) : json::value();
  }

  json::object& object_;
};

// A member that is missing keeps its default: older recordings stay readable.
class Reader {
 public:
  explicit Reader(const json::object& object) : object_(object) {}

  template <typename T>
  void operator()(const char* name, T& value) {
    const json::value* found = object_.if_contains(name);
    if (found == nullptr || read(*found, value)) return;
    if (wrong_.empty()) wrong_ = name;
  }
  // The first member that was of the wrong type or out of range; "" when all went well.
  const std::string& wrong() const { return wrong_; }

 private:
  static bool read(const json::value& from, bool& to) {
    if (!from.is_bool()) return false;
    to = from.get_bool();
    return true;
  }
  static bool read(const json::value& from, int& to) {
    const auto* number = from.if_int64();
    if (number == nullptr || *number < 0 || *number > std::numeric_limits<int>::max()) return false;
    to = static_cast<int>(*number);
    return true;
  }
  template <std::unsigned_integral T>
  static bool read(const json::value& from, T& to) {
    const auto* small = from.if_int64();
    const auto* large = from.if_uint64();
    if ((small == nullptr || *small < 0) && large == nullptr) return false;
    const std::uint64_t number = large != nullptr ? *large : static_cast<std::uint64_t>(*small);
    if (number > std::numeric_limits<T>::max()) return false;
    to = static_cast<T>(number);
    return true;
  }
  template <typename T>
    requires std::is_enum_v<T>
  static bool read(const json::value& from, T& to) {
    std::uint8_t number = 0;
    if (!read(from, number) || number >= kEnumSize<T>) return false;
    to = static_cast<T>(number);
    return true;
  }
  static bool read(const json::value& from, Time& to) {
    const auto* number = from.if_int64();
    if (number == nullptr || *number < 0 || *number > kLatestTime.time_since_epoch().count()) return false;
    to = Time(std::chrono::nanoseconds(*number));
    return true;
  }
  static bool read(const json::value& from, SocketCookie& to) { return read(from, to.value); }
  static bool read(const json::value& from, std::string& to) {
    if (const auto* text = from.if_string()) {
      to.assign(text->data(), text->size());
      return true;
    }
    const json::object* coded = from.if_object();
    const json::value* base64 = coded == nullptr ? nullptr : coded->if_contains("base64");
    std::vector<std::byte> data;
    if (base64 == nullptr || !read(*base64, data)) return false;
    to = as_text(data);
    return true;
  }
  static bool read(const json::value& from, std::vector<std::string>& to) {
    const auto* array = from.if_array();
    if (array == nullptr) return false;
    to.resize(array->size());
    for (std::size_t i = 0; i < to.size(); ++i) {
      if (!read((*array)[i], to[i])) return false;
    }
    return true;
  }
  static bool read(const json::value& from, std::vector<std::byte>& to) {
    const auto* text = from.if_string();
    auto data = text == nullptr ? std::nullopt : from_base64({text->data(), text->size()});
    if (!data) return false;
    to = std::move(*data);
    return true;
  }
  static bool read(const json::value& from, ProcessKey& to) {
    return read_each(from, to.pid, to.start_boottime_ns);
  }
  static bool read(const json::value& from, TlsObjectId& to) {
    return read_each(from, to.process.pid, to.process.start_boottime_ns, to.pointer, to.generation);
  }
  static bool read(const json::value& from, Endpoint& to) {
    std::string address;
    if (!read_each(from, address, to.port)) return false;
    to.address = parse_ip_address(address);
    return address.empty() || to.address.family != IpAddress::Family::unknown;
  }
  static bool read(const json::value& from, Tuple& to) { return read_each(from, to.local, to.peer); }
  static bool read(const json::value& from, std::shared_ptr<const ContainerNames>& to) {
    ContainerNames names;
    to.reset();
    if (from.is_null()) return true;
    if (!read_each(from, names.name, names.image, names.k8s_namespace, names.k8s_pod, names.k8s_container))
      return false;
    to = std::make_shared<const ContainerNames>(std::move(names));
    return true;
  }
  template <typename T>
  static bool read(const json::value& from, std::optional<T>& to) {
    if (from.is_null()) {
      to.reset();
      return true;
    }
    return read(from, to.emplace());
  }

  template <typename... Parts>
  static bool read_each(const json::value& from, Parts&... parts) {
    const auto* array = from.if_array();
    if (array == nullptr || array->size() != sizeof...(parts)) return false;
    std::size_t i = 0;
    return (read((*array)[i++], parts) && ...);
  }

  const json::object& object_;
  std::string wrong_;
};

template <typename T, typename Event>
concept Is = std::is_same_v<std::remove_const_t<T>, Event>;

void describe(auto& visit, Is<ProcessEvent> auto& event) {
  visit("what", event.what);
  visit("process", event.process);
  visit("parent", event.parent);
  visit("inner_pid", event.inner_pid);
  visit("exec_id", event.exec_id);
  visit("executable_path", event.executable_path);
  visit("arguments", event.arguments);
  visit("arguments_truncated", event.arguments_truncated);
  visit("uid", event.uid);
  visit("cgroup_path", event.cgroup_path);
  visit("cgroup_id", event.cgroup_id);
  visit("container", event.container);
  visit("network_namespace_cookie", event.network_namespace_cookie);
}

void describe(auto& visit, Is<ConnectionOpened> auto& event) {
  visit("cookie", event.cookie);
  visit("tuple", event.tuple);
  visit("owner", event.owner);
  visit("owner_uid", event.owner_uid);
  visit("owner_exec_id", event.owner_exec_id);
  visit("network_namespace_cookie", event.network_namespace_cookie);
  visit("accepted", event.accepted);
  visit("before_start", event.before_start);
  visit("redirected", event.redirected);
}

void describe(auto& visit, Is<ConnectionClosed> auto& event) {
  visit("cookie", event.cookie);
  visit("bytes_sent", event.bytes_sent);
  visit("bytes_received", event.bytes_received);
  visit("plaintext_sent", event.plaintext_sent);
  visit("plaintext_received", event.plaintext_received);
  visit("sent_end", event.sent_end);
  visit("received_end", event.received_end);
  visit("other_protocol", event.other_protocol);
  visit("error", event.error);
}

void describe(auto& visit, Is<OwnershipChanged> auto& event) {
  visit("cookie", event.cookie);
  visit("owner", event.owner);
}

void describe(auto& visit, Is<Handshake> auto& event) {
  visit("cookie", event.cookie);
  visit("object", event.object);
  visit("tap", event.tap);
  visit("library", event.library);
  visit("version", event.version);
  visit("sni", event.sni);
  visit("alpn", event.alpn);
  visit("alert", event.alert);
  visit("completed", event.completed);
  visit("unused", event.unused);
}

void describe(auto& visit, Is<DecisionMade> auto& event) {
  visit("cookie", event.cookie);
  visit("decision", event.decision);
  visit("stream", event.stream);
  visit("rule", event.rule);
  visit("error_type", event.error_type);
  visit("server_name", event.server_name);
  visit("server_port", event.server_port);
  visit("upstream_peer", event.upstream_peer);
  visit("upstream_local", event.upstream_local);
}

void describe(auto& visit, Is<Bytes> auto& event) {
  visit("cookie", event.cookie);
  visit("object", event.object);
  visit("process", event.process);
  visit("tap", event.tap);
  visit("direction", event.direction);
  visit("offset", event.offset);
  visit("data", event.data);
}

void describe(auto& visit, Is<Gap> auto& event) {
  visit("cookie", event.cookie);
  visit("object", event.object);
  visit("tap", event.tap);
  visit("direction", event.direction);
  visit("offset", event.offset);
  visit("length", event.length);
  visit("reason", event.reason);
}

void describe(auto& visit, Is<StreamEnded> auto& event) {
  visit("cookie", event.cookie);
  visit("object", event.object);
  visit("tap", event.tap);
  visit("direction", event.direction);
  visit("offset", event.offset);
  visit("broken_off", event.broken_off);
}

void describe(auto& visit, Is<Dns> auto& event) {
  visit("process", event.process);
  visit("query", event.query);
  visit("answers", event.answers);
}

void describe(auto& visit, Is<TlsLibraryNoted> auto& event) {
  visit("process", event.process);
  visit("library", event.library);
  visit("unreadable", event.unreadable);
}

void describe(auto& visit, Is<PolicyDecided> auto& event) {
  visit("cookie", event.cookie);
  visit("process", event.process);
  visit("uid", event.uid);
  visit("tap", event.tap);
  visit("allowed", event.allowed);
  visit("udp", event.udp);
  visit("rule", event.rule);
  visit("server_name", event.server_name);
  visit("peer", event.peer);
  visit("method", event.method);
  visit("target", event.target);
}

// In the order of the variant's alternatives.
constexpr std::string_view kEventNames[] = {"process",      "opened",   "closed",      "ownership",
                                            "handshake",    "decision", "bytes",       "gap",
                                            "stream_ended", "dns",      "tls_library", "policy"};
static_assert(std::size(kEventNames) == std::variant_size_v<Event>);

template <std::size_t Index = 0>
Event event_named(std::string_view name) {
  if constexpr (Index + 1 < std::variant_size_v<Event>) {
    if (name != kEventNames[Index]) return event_named<Index + 1>(name);
  }
  return Event(std::in_place_index<Index>);
}

}  // namespace

std::string to_line(const Event& event) {
  json::object object;
  object["event"] = kEventNames[event.index()];
  std::visit(
      [&](const auto& one) {
        Writer writer(object);
        writer("time", one.time);
        describe(writer, one);
      },
      event);
  return json::serialize(object);
}

std::expected<Event, std::string> from_line(std::string_view line) {
  json::error_code error;
  const json::value parsed = json::parse({line.data(), line.size()}, error);
  if (error) return std::unexpected("not JSON: " + error.message());
  const json::object* object = parsed.if_object();
  const json::value* name = object == nullptr ? nullptr : object->if_contains("event");
  const json::string* text = name == nullptr ? nullptr : name->if_string();
  if (text == nullptr) return std::unexpected("no \"event\"");
  const std::string_view wanted(text->data(), text->size());
  Event event = event_named(wanted);
  if (kEventNames[event.index()] != wanted)
    return std::unexpected("unknown event \"" + std::string(wanted) + "\"");
  Reader reader(*object);
  std::visit(
      [&](auto& one) {
        reader("time", one.time);
        describe(reader, one);
      },
      event);
  if (!reader.wrong().empty()) return std::unexpected("bad value of \"" + reader.wrong() + "\"");
  return event;
}

}  // namespace weir
