// What is known, the most certain first.
#include "attribution/opaque_reason.h"

#include <algorithm>
#include <ranges>
#include <vector>

namespace weir {
namespace {

// A client may also just leave: then it is the proxy that says so.
bool certificate_rejected(const Connection& connection) {
  // RFC 8446, section 6: bad_certificate to certificate_unknown, and unknown_ca.
  if (connection.decision && connection.decision->error_type == "client_rejected_certificate") return true;
  const TlsFacts& tls = connection.tls;
  return tls.alert && ((*tls.alert >= 42 && *tls.alert <= 46) || *tls.alert == 48);
}

// A TLS session was begun, on the socket or after a CONNECT to somebody's proxy, and nothing of it was read.
bool tls_unread(const Connection& connection) {
  return connection.tls.seen && !connection.proxy &&
         std::ranges::all_of(connection.native, [](const auto& one) { return !one.first; });
}

// Whether one of its process's libraries was probed only when the connection had begun.
bool probed_after(Time began, const std::vector<TlsNote>& notes, Time probed_since) {
  return began < probed_since ||
         std::ranges::any_of(notes, [&](const auto& note) { return note.since > began; });
}

std::vector<TlsNote> notes_of(const Process* process, Time began) {
  return process == nullptr ? std::vector<TlsNote>() : process->tls_notes_at(began);
}

// A probe saw the session's end, and no call that said anything: unless it came between the two.
bool without_content(const Connection& connection, const Process* process, Time probed_since) {
  const Time began = connection.began();
  return connection.tls.unused && tls_unread(connection) &&
         !probed_after(began, notes_of(process, began), probed_since);
}

bool without_payload(const Connection& connection) {
  const auto& closed = connection.closed;
  return closed && closed->bytes_sent == 0u && closed->bytes_received == 0u;
}

// Its client began with neither TLS nor HTTP, or left the word to the server.
bool speaks_something_else(const Connection& connection) {
  const auto& closed = connection.closed;
  if (!closed || connection.tls.seen) return false;
  return closed->other_protocol || (closed->bytes_sent == 0u && closed->bytes_received.value_or(0) > 0);
}

constexpr const char* kUnseen = "no content seen";

// Of a TLS session of which nothing was read: what is known of the process's libraries. "" is nothing.
std::string library_reason(const Process* process, Time began, Time probed_since) {
  const auto notes = notes_of(process, began);
  for (const TlsNote& note : notes | std::views::reverse)
    if (!note.unreadable.empty()) return note.unreadable;
  if (probed_after(began, notes, probed_since)) return "opened before attach";
  return notes.empty() ? "" : kUnseen;
}

// Another library may yet be found, which can't be read.
bool may_be_explained(const std::string& reason) {
  return reason.empty() || reason == kUnseen;
}

// Whether it is known since when the library that some of a connection was read from is probed.
bool library_noted(const Connection& connection, const Process* process, Time began) {
  if (process == nullptr) return false;
  return std::ranges::any_of(process->tls_notes_at(began),
                             [&](const TlsNote& note) { return note.library == connection.tls.library; });
}

std::string tls_reason(const Process* process, Time began, Time probed_since) {
  std::string reason = library_reason(process, began, probed_since);
  return reason.empty() ? "no probe for this TLS library" : reason;
}

// "" unless the proxy left it closed on purpose; what follows a comma says until when.
std::string passed_through(const Connection& connection) {
  const auto& decision = connection.decision;
  if (!decision || decision->decision != Decision::passed_through) return {};
  return decision->rule.substr(0, decision->rule.find(','));
}

// "" unless the proxy ended it.
std::string proxys_reason(const Connection& connection) {
  const auto& decision = connection.decision;
  if (decision && decision->decision == Decision::refused) return "refused";
  if (decision && decision->decision == Decision::upstream_failed) return "connect failed";
  return {};
}

}  // namespace

bool readable(const Connection& connection) {
  const bool read = connection.exchanges > 0 || (connection.spoke_http && connection.tunnel_to.empty());
  return read && !tls_unread(connection);
}

bool probed_late(const Connection& connection, const Process* process) {
  if (process == nullptr || !connection.tls.seen) return false;
  const Time began = connection.began();
  return std::ranges::any_of(process->tls_notes_at(began), [&](const TlsNote& note) {
    return note.unreadable.empty() && note.since > began && note.library == connection.tls.library;
  });
}

bool nothing_was_said(const Connection& connection, const Process* process, Time probed_since) {
  return without_payload(connection) || without_content(connection, process, probed_since);
}

bool reason_may_follow(const Connection& connection, const Process* process) {
  if (!connection.opened || connection.opened->before_start || readable(connection)) return false;
  if (!proxys_reason(connection).empty()) return false;
  const Time began = connection.began();
  if (tls_unread(connection) && connection.tls.unused) return notes_of(process, began).empty();
  if (tls_unread(connection)) return may_be_explained(library_reason(process, began, Time{}));
  return connection.tls.seen && !library_noted(connection, process, began);
}

std::string opaque_reason(const Connection& connection, const Process* process, Time probed_since) {
  const Time began = connection.began();
  const auto& closed = connection.closed;
  const bool read = connection.native_account.fresh_bytes() + connection.proxy_account.fresh_bytes() > 0;
  const bool no_payload = without_payload(connection);
  const std::string proxys = proxys_reason(connection);
  const std::string passed = passed_through(connection);
  const struct {
    bool holds;
    std::string reason;
  } reasons[] = {
      {certificate_rejected(connection), "certificate rejected by client"},
      {!read && !proxys.empty(), proxys},
      {closed && closed->error != 0 && no_payload, "connect failed"},
      {no_payload, "no payload"},
      {connection.native_account.gap_bytes() + connection.proxy_account.gap_bytes() > 0, "events lost"},
      {connection.opened && connection.opened->before_start, "opened before start"},
      {!read && !passed.empty(), passed},
      {without_content(connection, process, probed_since), "no content"},
      {tls_unread(connection), tls_reason(process, began, probed_since)},
      {probed_late(connection, process), "opened before attach"},
      {!connection.tunnel_to.empty() && !connection.tls.seen, "in a tunnel"},
      {read || speaks_something_else(connection), "not HTTP"},
      {true, "no probe saw its bytes"},
  };
  return std::ranges::find_if(reasons, [](const auto& one) { return one.holds; })->reason;
}

}  // namespace weir
