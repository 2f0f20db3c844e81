// The record's fields, in the order of DESIGN's table. Each add_* function writes one row or group of it.
#include "attribution/record_builder.h"

#include <algorithm>
#include <bitset>
#include <charconv>
#include <cstring>
#include <initializer_list>
#include <ranges>
#include <utility>

#include "attribution/container.h"
#include "attribution/names.h"
#include "attribution/opaque_reason.h"
#include "attribution/record_json.h"
#include "attribution/redaction.h"
#include "attribution/text.h"

namespace weir {
namespace {

using http::Exchange;
using http::Fields;

// In one piece of memory.
std::string concat(std::initializer_list<std::string_view> parts) {
  std::size_t size = 0;
  for (const std::string_view part : parts) size += part.size();
  std::string text;
  text.resize_and_overwrite(size, [&](char* to, std::size_t) {
    for (const std::string_view part : parts) to += part.copy(to, part.size());
    return size;
  });
  return text;
}

// A number as text, in no memory but its own.
class Decimal {
 public:
  template <typename Number>
  explicit Decimal(Number number) : end_(std::to_chars(std::begin(text_), std::end(text_), number).ptr) {}
  Decimal(const Decimal&) = delete;
  Decimal& operator=(const Decimal&) = delete;
  // NOLINTNEXTLINE(google-explicit-constructor)
  operator std::string_view() const { return {text_, end_}; }

 private:
  char text_[20];  // of 64 bits, with a sign
  char* end_;
};

class FieldWriter {
 public:
  // `record` has its kind, id, `final` and timestamp.
  explicit FieldWriter(const Record& record) : json_(record) {}

  template <typename Value>
  [[gnu::always_inline]] void always(std::string_view key, const Value& value) {
    json_.field(key, value);
  }
  [[gnu::always_inline]] void known(std::string_view key, std::string_view value) {
    if (!value.empty()) json_.field(key, value);
  }
  [[gnu::always_inline]] void known(std::string_view key, std::uint64_t value) {
    if (value != 0) json_.field(key, value);
  }
  void endpoint(std::string_view address_key, std::string_view port_key, const Endpoint& endpoint) {
    known(address_key, endpoint.address.to_string());
    known(port_key, endpoint.port);
  }
  void list(std::string_view key, std::string_view only_value) {
    json_.begin_list(key, {});
    json_.item(only_value);
    json_.end_list();
  }
  RecordWriter& json() { return json_; }

 private:
  RecordWriter json_;
};

// An upstream that failed was to be bumped; error.type says what became of it.
std::string_view name_of(Decision decision) {
  static constexpr std::string_view kNames[] = {"bumped",  "tunnelled",  "passed_through",
                                                "refused", "redirected", "bumped"};
  return kNames[static_cast<std::size_t>(decision)];
}

std::string_view name_of(Tap tap) {
  return tap == Tap::native ? "native" : "proxy";
}

struct Authority {
  std::string_view host{};  // no brackets
  std::uint16_t port = 0;
};

// `text` must outlive what is returned.
Authority parse_authority(std::string_view text) {
  text.remove_prefix(text.rfind('@') + 1);  // npos + 1 is 0
  const std::size_t bracket = text.find(']');
  const std::size_t colon = text.find(':', bracket == std::string_view::npos ? 0 : bracket);
  Authority authority{.host = text.substr(0, colon)};
  if (authority.host.starts_with('[') && authority.host.ends_with(']')) {
    authority.host = authority.host.substr(1, authority.host.size() - 2);
  }
  if (colon != std::string_view::npos)
    std::from_chars(text.data() + colon + 1, text.data() + text.size(), authority.port);
  return authority;
}

// What the request says of where it goes, as written: "example.org", "example.org:8443", "[::1]:80".
struct Target {
  std::string authority{};
  std::string url{};
  bool cleartext = false;
};

std::string bracketed(const std::string& host) {
  return host.find(':') == std::string::npos ? host : "[" + host + "]";
}

std::string fallback_authority(const Connection& connection, const DecisionMade* decision) {
  if (decision != nullptr && !decision->server_name.empty()) {
    const std::string port = decision->server_port == 0 || decision->server_port == 443
                                 ? std::string()
                                 : ":" + std::to_string(decision->server_port);
    return bracketed(decision->server_name) + port;
  }
  return connection.tls.sni;
}

// RFC 3986, section 3.1.
bool is_scheme(std::string_view text) {
  return !text.empty() && is_letter(text.front()) && std::ranges::all_of(text, [](char c) {
    return is_letter(c) || is_digit(c) || c == '+' || c == '-' || c == '.';
  });
}

Target target_of(const Connection& connection, const DecisionMade* decision, const HeldExchange& held) {
  const Exchange& exchange = held.exchange;
  const std::string& target = exchange.request.target;
  if (const std::size_t scheme = target.find("://");
      scheme != std::string::npos && is_scheme(target.substr(0, scheme))) {
    const std::size_t begin = scheme + 3;
    const std::size_t end = std::min(target.find_first_of("/?#", begin), target.size());
    return {.authority = target.substr(begin, end - begin),
            .url = target,
            .cleartext = to_lower(target.substr(0, scheme)) == "http"};
  }
  // RFC 8441's has a path, as other requests have.
  if (exchange.request.method == "CONNECT" && exchange.request.protocol.empty())
    return {.authority = target, .cleartext = true};

  Target result{.cleartext = held.cleartext || connection.tls.library == TlsLibrary::none};
  const http::Field* host = http::find_field(exchange.request.fields, "host");
  result.authority =
      host != nullptr && !host->value.empty() ? host->value : fallback_authority(connection, decision);
  const std::string_view path =
      target == "*" ? std::string_view() : target;  // OPTIONS * (RFC 9112, section 3.2.4)
  if (!result.authority.empty())
    result.url = concat({result.cleartext ? "http://" : "https://", result.authority, path});
  return result;
}

Endpoint true_peer(const RecordContext& context, const DecisionMade* decision) {
  if (decision != nullptr && decision->upstream_peer) return *decision->upstream_peer;
  const auto& opened = context.connection.opened;
  return opened && (!context.proxied || opened->redirected) ? opened->tuple.peer : Endpoint{};
}

void add_host(FieldWriter& out, const EngineConfig& config) {
  out.known("host.id", config.host_id);
  out.known("weir.boot.id", config.boot_id);
}

// What `add` writes of the facts; as long as they are the same, what it wrote the last time.
template <typename Facts, typename Add>
void add_told(FieldWriter& out, Told<Facts>* told, const Facts& facts, Add add) {
  if (told == nullptr) return add(facts);
  if (!told->json.empty() && told->facts == facts) return out.json().fields(told->json);
  const std::size_t before = out.json().size();
  add(facts);
  *told = {.facts = facts, .json = std::string(out.json().since(before))};
}

// Null while a connection has but one exchange.
ConnectionText* text_of(const Connection& connection) {
  if (!connection.text && connection.exchanges > 1) connection.text = std::make_unique<ConnectionText>();
  return connection.text.get();
}

void add_identity(FieldWriter& out, const RecordContext& context, const IdentityFacts& facts) {
  const Decimal cookie(context.connection.cookie.value);
  const std::string& boot_id = context.config.boot_id;
  add_host(out, context.config);
  if (facts.source) out.list("weir.source", name_of(*facts.source));
  out.known("weir.tls.library", name_of(facts.library));
  out.always("weir.socket.cookie", std::string_view(cookie));
  out.json().joined("weir.connection.id", {boot_id, boot_id.empty() ? "" : "-", cookie});
}

void add_container_names(FieldWriter& out, const ContainerNames& names) {
  const ImageName image = split_image(names.image);
  out.known("container.name", names.name);
  out.known("container.image.name", image.name);
  if (!image.tag.empty()) out.list("container.image.tags", image.tag);
  out.known("k8s.namespace.name", names.k8s_namespace);
  out.known("k8s.pod.name", names.k8s_pod);
  out.known("k8s.container.name", names.k8s_container);
}

void add_container(FieldWriter& out, const ContainerFacts& facts, bool host_pid) {
  if (!facts.container_id.empty() || facts.host || host_pid) out.always("container.id", facts.container_id);
  out.known("k8s.pod.uid", facts.pod_uid);
  out.known("weir.systemd.unit", facts.systemd_unit);
}

// What an image's records say of it, worked out once.
ImageText& text_of(const ProcessImage& image) {
  if (image.text) return *image.text;
  const std::string& path = image.executable_path;
  image.text = std::make_shared<ImageText>(ImageText{.executable_name = path.substr(path.rfind('/') + 1),
                                                     .container = container_facts(image.cgroup_path)});
  return *image.text;
}

// "" when not known.
std::string creation_time(const EngineConfig& config, const ProcessKey& key) {
  const auto start = key.start_boottime_ns;
  if (start == 0 || start > kLatestBootNs || config.boot_time == Time{}) return {};
  return to_rfc3339(config.boot_time + std::chrono::nanoseconds(start));
}

std::string user_name(const EngineConfig& config, std::uint32_t uid) {
  std::string name = config.user_name ? config.user_name(uid) : std::string();
  return name.empty() ? std::to_string(uid) : name;
}

// What the process was when it connected is more exact than what its last exec made it.
std::optional<std::uint32_t> uid_at_connect(const RecordContext& context) {
  const auto& opened = context.connection.opened;
  return opened && opened->owner == context.process_key ? opened->owner_uid : std::nullopt;
}

void add_image(FieldWriter& out, const EngineConfig& config, const Process& process,
               const ProcessImage& image, const ImageText& text) {
  out.always("process.pid", std::uint64_t{process.key.pid});
  out.known("process.parent_pid", process.parent.pid);
  out.known("process.creation.time", creation_time(config, process.key));
  out.known("process.executable.name", text.executable_name);
  out.known("process.executable.path", image.executable_path);
  if (!image.arguments.empty())
    out.always("process.command_args", config.redact ? redact_arguments(image.arguments) : image.arguments);
  if (image.arguments_truncated) out.always("weir.process.command_args.truncated", true);
  if (text.owner) out.always("process.owner", user_name(config, *text.owner));
  out.known("weir.process.inner_pid", process.inner_pid);
  if (!image.cgroup_path.empty()) add_container(out, text.container, process.inner_pid == process.key.pid);
  if (image.container) add_container_names(out, *image.container);
}

// An image's records say the same of it, field for field, unless it connected as another user.
void add_process(FieldWriter& out, Record& record, const EngineConfig& config, const ProcessKey& key,
                 const Process* process, std::optional<std::uint32_t> uid = std::nullopt) {
  record.pid = key.pid;
  if (!key) return;
  if (process == nullptr) return out.always("process.pid", std::uint64_t{key.pid});
  const ProcessImage& image = process->image_at(record.timestamp);
  ImageText& text = text_of(image);
  record.executable_name = text.executable_name;
  if (!image.cgroup_path.empty()) record.container_id = text.container.container_id;
  if (image.container) record.container_name = image.container->name;
  if (!uid) uid = image.uid;
  if (!text.fields.empty() && text.owner == uid) return out.json().fields(text.fields);
  text.owner = uid;
  const std::size_t before = out.json().size();
  add_image(out, config, *process, image, text);
  text.fields = out.json().since(before);
}

NetworkFacts network_of(const RecordContext& context, const DecisionMade* decision,
                        const http::Version& version = {}) {
  const auto& opened = context.connection.opened;
  const bool upstream = decision != nullptr && decision->upstream_local;
  return {.local = opened ? opened->tuple.local : Endpoint{},
          .peer = true_peer(context, decision),
          .upstream_local = upstream ? *decision->upstream_local : Endpoint{},
          .version = version};
}

void add_network(FieldWriter& out, const NetworkFacts& facts) {
  out.always("network.transport", "tcp");
  out.endpoint("network.local.address", "network.local.port", facts.local);
  out.endpoint("network.peer.address", "network.peer.port", facts.peer);
  out.endpoint("weir.upstream.local.address", "weir.upstream.local.port", facts.upstream_local);
}

// As OpenTelemetry writes it: "1.1", "2".
std::string version_text(const http::Version& version) {
  const Decimal major(version.major);
  const Decimal minor(version.minor);
  return version.major < 2 ? concat({major, ".", minor}) : std::string(major);
}

void add_http(FieldWriter& out, const NetworkFacts& facts) {
  add_network(out, facts);
  out.always("network.protocol.name", "http");
  out.always("network.protocol.version", version_text(facts.version));
}

// `said`: what the request says; where it says nothing, the TLS session, then the proxy's decision, then what
// a proxy was asked for, then the server's side of the socket.
void add_server(FieldWriter& out, Record& record, const RecordContext& context, const DecisionMade* decision,
                const Authority& said) {
  const Connection& connection = context.connection;
  const bool accepted = connection.opened && connection.opened->accepted;
  const Endpoint server = accepted ? connection.opened->tuple.local : true_peer(context, decision);
  const Authority tunnel = parse_authority(connection.tunnel_to);
  const std::uint16_t decided_port = decision == nullptr ? std::uint16_t{0} : decision->server_port;
  std::string& address = record.server_address;
  address = said.host;
  if (address.empty()) address = connection.tls.sni;
  if (address.empty() && decision != nullptr) address = decision->server_name;
  if (address.empty()) address = tunnel.host;
  if (address.empty()) address = server.address.to_string();
  out.known("server.address", record.server_address);
  std::uint16_t server_port = server.port;
  for (const std::uint16_t port : {tunnel.port, decided_port, said.port})
    if (port != 0) server_port = port;
  out.known("server.port", server_port);
  if (accepted) out.always("weir.ingress", true);
}

void add_tls(FieldWriter& out, const TlsFacts& tls) {
  out.known("weir.tls.sni", tls.sni);
  out.known("tls.protocol.version", tls.version);
  out.known("tls.next_protocol", tls.alpn);
}

// False when no name stands there twice, as in most heads. Looks at lengths and letters at the ends only.
bool may_repeat(const Fields& fields) {
  std::bitset<256> seen;
  for (const auto& [name, value] : fields) {
    if (name.empty()) return true;
    const std::size_t mixed = name.size() * 67 + static_cast<std::size_t>(name.front()) * 5 +
                              static_cast<std::size_t>(name.back()) * 3;
    if (seen[mixed % seen.size()]) return true;
    seen.set(mixed % seen.size());
  }
  return false;
}

void add_header_value(FieldWriter& out, const http::Field& field, bool redact) {
  const auto shown = redact ? redacted_header(field.name, field.value) : std::nullopt;
  out.json().item(shown ? *shown : field.value);
}

// Repeats survive, in their order, under one key. Makes names lower-case.
void add_header_fields(FieldWriter& out, std::string_view prefix, Fields& fields, bool redact) {
  for (http::Field& field : fields) make_lower(field.name);
  const bool repeats = may_repeat(fields);
  for (auto field = fields.begin(); field != fields.end(); ++field) {
    const auto same_name = [&](const http::Field& other) { return other.name == field->name; };
    if (repeats && std::any_of(fields.begin(), field, same_name)) continue;
    out.json().begin_list(prefix, field->name);
    add_header_value(out, *field, redact);
    for (auto one = field + 1; repeats && one != fields.end(); ++one)
      if (same_name(*one)) add_header_value(out, *one, redact);
    out.json().end_list();
  }
}

void add_body(FieldWriter& out, const std::string& key, const http::Body& body) {
  if (body.data.empty()) return;
  const bool text = is_utf8(as_text(body.data));
  if (text)
    out.always(key, as_text(body.data));
  else
    out.always(key, to_base64(body.data));
  out.always(key + ".encoding", text ? "utf8" : "base64");
}

std::string error_type(const Exchange& exchange, const DecisionMade* decision) {
  if (decision != nullptr && !decision->error_type.empty()) return decision->error_type;
  if (!exchange.protocol_error.empty()) return exchange.protocol_error;
  const bool failed = exchange.response && exchange.response->status >= 400;
  return failed ? std::to_string(exchange.response->status) : std::string();
}

// Of a URL whose host isn't known, what is.
void add_path(FieldWriter& out, const EngineConfig& config, const std::string& target) {
  if (!target.starts_with('/')) return;
  const std::string shown = config.redact ? redact_url(target) : target;
  const std::size_t query = shown.find('?');
  out.always("url.path", shown.substr(0, query));
  if (query != std::string::npos) out.known("url.query", shown.substr(query + 1));
}

void add_exchange(FieldWriter& out, const EngineConfig& config, Exchange& exchange, const std::string& url,
                  const DecisionMade* decision) {
  out.known("http.request.method", exchange.request.method);
  if (url.empty())
    add_path(out, config, exchange.request.target);
  else
    out.always("url.full", config.redact ? redact_url(url) : url);
  if (exchange.response) out.known("http.response.status_code", std::uint64_t{exchange.response->status});
  add_header_fields(out, "http.request.header.", exchange.request.fields, config.redact);
  if (exchange.response)
    add_header_fields(out, "http.response.header.", exchange.response->fields, config.redact);
  out.always("http.request.body.size", exchange.request_body.size);
  if (exchange.response) out.always("http.response.body.size", exchange.response_body.size);
  out.always("weir.duration_ns", std::int64_t{(exchange.ended - exchange.began).count()});
  const std::string error = error_type(exchange, decision);
  out.known("error.type", error);
  if (error == exchange.protocol_error) out.known("weir.error.detail", exchange.protocol_error_detail);
  if (!config.capture_bodies) return;
  add_body(out, "weir.request.body", exchange.request_body);
  add_body(out, "weir.response.body", exchange.response_body);
  if (exchange.request_body.truncated || exchange.response_body.truncated)
    out.always("weir.body.truncated", true);
}

// The status codes' names (grpc/doc/statuscodes.md), which OpenTelemetry asks for; the number where there is
// none.
std::string grpc_status_name(const std::string& number) {
  constexpr std::string_view kNames[] = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  std::size_t code = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), code);
  const bool known = error == std::errc() && end == number.data() + number.size() && code < std::size(kNames);
  return known ? std::string(kNames[code]) : number;
}

bool is_grpc(const Fields& fields) {
  const http::Field* type = http::find_field(fields, "content-type");
  return type != nullptr && to_lower(type->value).starts_with("application/grpc");
}

// gRPC's own names: the path is "/package.Service/Method", the status stands in the trailers, or with the
// head where there is nothing else.
struct Grpc {
  bool spoken = false;
  std::optional<std::string> status{};
};

Grpc grpc_of(const Exchange& exchange) {
  if (!is_grpc(exchange.request.fields)) return {};
  const http::Field* status = http::find_field(exchange.response_trailers, "grpc-status");
  if (status == nullptr && exchange.response)
    status = http::find_field(exchange.response->fields, "grpc-status");
  return {.spoken = true,
          .status = status == nullptr ? std::nullopt : std::optional(grpc_status_name(status->value))};
}

// "package.Service/Method" of the target's path; a proxy's client may write it as a URL.
std::string_view grpc_method(std::string_view target) {
  target = target.substr(0, target.find_first_of("?#"));
  if (const std::size_t scheme = target.find("://"); scheme != target.npos)
    target.remove_prefix(std::min(target.find('/', scheme + 3), target.size()));
  return target.substr(target.starts_with('/') ? 1 : 0);
}

void add_grpc(FieldWriter& out, const Exchange& exchange, const Grpc& grpc) {
  if (!grpc.spoken) return;
  out.always("rpc.system.name", "grpc");
  out.known("rpc.method", grpc_method(exchange.request.target));
  if (grpc.status) out.always("rpc.response.status_code", *grpc.status);
  if (!exchange.grpc) return;
  out.always("weir.grpc.messages.sent", exchange.grpc->messages_sent);
  out.always("weir.grpc.messages.received", exchange.grpc->messages_received);
}

void add_conversation(FieldWriter& out, const Exchange& exchange) {
  out.known("weir.sse.events", exchange.sse_events);
  if (!exchange.websocket) return;
  out.always("weir.websocket.messages.sent", exchange.websocket->messages_sent);
  out.always("weir.websocket.messages.received", exchange.websocket->messages_received);
  out.always("weir.websocket.bytes.sent", exchange.websocket->bytes_sent);
  out.always("weir.websocket.bytes.received", exchange.websocket->bytes_received);
}

void add_decision(FieldWriter& out, const DecisionMade* decision) {
  if (decision == nullptr) return;
  out.always("weir.decision", name_of(decision->decision));
  out.known("weir.policy.rule", decision->rule);
}

// Unique over evictions and restarts too: a cookie lives as long as its boot, and a time comes once.
std::string record_id(const RecordContext& context, Time when, std::string_view which) {
  const EngineConfig& config = context.config;
  return concat({config.boot_id.empty() ? config.host_id : config.boot_id, "-",
                 Decimal(context.connection.cookie.value), "-", Decimal(when.time_since_epoch().count()), "-",
                 which});
}

// What was read and what was missed make up what was said.
void add_plaintext(FieldWriter& out, const TapAccount& account) {
  if (account.fresh_bytes() + account.gap_bytes() == 0) return;
  out.always("weir.plaintext.sent", account.sent.fresh);
  out.always("weir.plaintext.received", account.received.fresh);
  out.known("weir.gap.sent", account.sent.gap);
  out.known("weir.gap.received", account.received.gap);
  out.known("weir.unparsed.bytes", account.unparsed);
}

std::string connection_error(const Connection& connection) {
  const DecisionMade* decision = connection.decision.get();
  if (decision != nullptr && !decision->error_type.empty()) return decision->error_type;
  if (!connection.closed || connection.closed->error == 0) return {};
  const char* name = strerrorname_np(connection.closed->error);
  return name != nullptr ? name : std::to_string(connection.closed->error);
}

// There was no upstream to open it to, and the client never said what was to be answered with that.
bool opened_nothing(const Connection& connection) {
  const DecisionMade* decision = connection.decision.get();
  return decision != nullptr && decision->decision == Decision::upstream_failed &&
         connection.proxy_account.fresh_bytes() == 0;
}

std::string_view connection_incomplete(const RecordContext& context, bool native, std::uint64_t gap_bytes) {
  const Connection& connection = context.connection;
  if (gap_bytes > 0) return "gap";
  const bool before_start = connection.opened && connection.opened->before_start;
  // What passed before its probes came nobody has seen, and nothing tells how much that was.
  if (before_start || (native && probed_late(connection, context.process))) return "joined_midstream";
  return connection.cut_short ? "closed_early" : "";
}

}  // namespace

// Of what the proxy read the kernel may tell the client's library before or after: the connection's record
// has it.
TlsLibrary library_of(const RecordContext& context, const HeldExchange& held, bool cleartext) {
  if (cleartext) return TlsLibrary::none;
  return held.tap == Tap::native ? context.connection.tls.library : TlsLibrary::unknown;
}

RecordPtr exchange_record(const RecordContext& context, HeldExchange&& held) {
  Exchange& exchange = held.exchange;
  const DecisionMade* decision = held.decision ? held.decision.get() : context.connection.decision.get();
  // What follows from header fields, before the record takes their values.
  const Target target = target_of(context.connection, decision, held);
  const Grpc grpc = grpc_of(exchange);
  auto record = std::make_shared<Record>();
  record->kind = RecordKind::exchange;
  record->id = record_id(context, exchange.began, Decimal(exchange.number));
  record->final = exchange.final;
  record->replaces = exchange.copied;
  record->timestamp = exchange.began;
  record->status_code = exchange.response ? exchange.response->status : 0;

  FieldWriter out(*record);
  ConnectionText* const text = text_of(context.connection);
  const IdentityFacts identity{held.tap, library_of(context, held, target.cleartext)};
  add_told(out, text == nullptr ? nullptr : &text->identity, identity,
           [&](const IdentityFacts& facts) { add_identity(out, context, facts); });
  add_process(out, *record, context.config, context.process_key, context.process, uid_at_connect(context));
  add_told(out, text == nullptr ? nullptr : &text->network,
           network_of(context, decision, exchange.request.version),
           [&](const NetworkFacts& facts) { add_http(out, facts); });
  out.known("weir.stream.id", exchange.stream_id.value_or(0));
  add_server(out, *record, context, decision, parse_authority(target.authority));
  add_tls(out, context.connection.tls);
  add_exchange(out, context.config, exchange, target.url, decision);
  add_grpc(out, exchange, grpc);
  add_conversation(out, exchange);
  out.known("weir.incomplete", exchange.incomplete);
  out.known("weir.gap.bytes", exchange.gap_bytes);
  add_decision(out, decision);
  record->json = out.json().finish();
  return record;
}

RecordPtr connection_record(const RecordContext& context) {
  const Connection& connection = context.connection;
  const DecisionMade* decision = connection.decision.get();
  const bool native = connection.native_account.fresh_bytes() > 0;
  const bool read = readable(connection);
  const std::uint64_t gap_bytes =
      connection.native_account.gap_bytes() + connection.proxy_account.gap_bytes();
  auto record = std::make_shared<Record>();
  record->kind = RecordKind::connection;
  record->timestamp = connection.began();
  record->id = record_id(context, record->timestamp, "c");

  FieldWriter out(*record);
  const IdentityFacts identity{
      read ? std::optional(native ? Tap::native : Tap::proxy) : std::nullopt,
      read && !connection.tls.seen && native ? TlsLibrary::none : connection.tls.library};
  add_identity(out, context, identity);
  add_process(out, *record, context.config, context.process_key, context.process, uid_at_connect(context));
  add_network(out, network_of(context, decision));
  if (connection.spoke_http) out.always("network.protocol.name", "http");
  add_server(out, *record, context, decision, {});
  add_tls(out, connection.tls);
  out.known("error.type", connection_error(connection));
  out.known("weir.incomplete", connection_incomplete(context, native && read, gap_bytes));
  out.known("weir.gap.bytes", gap_bytes);
  add_plaintext(out, native || !read ? connection.native_account : connection.proxy_account);
  if (!opened_nothing(connection)) add_decision(out, decision);
  if (connection.closed && connection.closed->bytes_sent)
    out.always("weir.bytes.sent", *connection.closed->bytes_sent);
  if (connection.closed && connection.closed->bytes_received) {
    out.always("weir.bytes.received", *connection.closed->bytes_received);
  }
  if (!read) {
    record->opaque_reason = opaque_reason(connection, context.process, context.probed_since);
    out.always("weir.opaque.reason", record->opaque_reason);
  }
  record->json = out.json().finish();
  return record;
}

RecordPtr policy_record(const EngineConfig& config, const PolicyDecided& decided, const Process* process) {
  auto record = std::make_shared<Record>();
  record->kind = RecordKind::policy;
  record->timestamp = decided.time;
  record->id = concat({config.boot_id.empty() ? config.host_id : config.boot_id, "-policy-",
                       std::to_string(decided.cookie.value), "-", std::to_string(decided.process.pid), "-",
                       std::to_string(decided.time.time_since_epoch().count())});
  FieldWriter out(*record);
  add_host(out, config);
  out.list("weir.source", name_of(decided.tap));
  if (decided.cookie) out.always("weir.socket.cookie", std::to_string(decided.cookie.value));
  add_process(out, *record, config, decided.process, process, decided.uid);
  out.always("network.transport", std::string(decided.udp ? "udp" : "tcp"));
  if (decided.peer.address.family != IpAddress::Family::unknown)
    out.endpoint("network.peer.address", "network.peer.port", decided.peer);
  record->server_address =
      decided.server_name.empty() ? decided.peer.address.to_string() : decided.server_name;
  out.known("server.address", record->server_address);
  out.known("server.port", decided.peer.port);
  out.known("http.request.method", decided.method);
  add_path(out, config, decided.target);
  out.always("weir.decision", std::string(decided.allowed ? "logged" : "refused"));
  out.known("weir.policy.rule", decided.rule);
  record->json = out.json().finish();
  return record;
}

RecordPtr dns_record(const EngineConfig& config, const Dns& dns, const Process* process) {
  auto record = std::make_shared<Record>();
  record->kind = RecordKind::dns;
  record->timestamp = dns.time;
  record->id = (config.boot_id.empty() ? config.host_id : config.boot_id) + "-dns-" +
               std::to_string(dns.process.pid) + "-" + std::to_string(dns.time.time_since_epoch().count());
  FieldWriter out(*record);
  add_host(out, config);
  add_process(out, *record, config, dns.process, process);
  out.known("dns.question.name", dns.query);
  if (!dns.answers.empty()) out.always("dns.answers", dns.answers);
  record->json = out.json().finish();
  return record;
}

}  // namespace weir
