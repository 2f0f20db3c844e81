// See record_query.h. Values come from strangers: each is checked, unknown names are refused.
#include "agent/record_query.h"

#include <algorithm>
#include <boost/url/parse.hpp>
#include <boost/url/url.hpp>
#include <charconv>

#include "attribution/container.h"

namespace weir::agent {
namespace {

using sinks::StoreQuery;
using Result = std::expected<void, std::string>;

// 0 stands for "any" in a query: who writes it means something else.
template <typename Number>
Result set_number(Number& number, std::string_view text, const char* expected) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number == 0)
    return std::unexpected(expected);
  return {};
}

Result set_process(StoreQuery& query, std::string_view text) {
  query.filter.process_name = text;
  return {};
}

Result set_pid(StoreQuery& query, std::string_view text) {
  return set_number(query.filter.pid, text, "a process's number, from 1");
}

Result set_host(StoreQuery& query, std::string_view text) {
  query.filter.host = text;
  return {};
}

Result set_status(StoreQuery& query, std::string_view text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  // Single ones beyond 599 are no HTTP, and are seen all the same.
  const bool is_class = text.size() == 3 && text[0] >= '1' && text[0] <= '5' && text.ends_with("xx");
  const bool is_status = text.size() == 3 && text[0] >= '1' && std::ranges::all_of(text, is_digit);
  if (!is_class && !is_status) return std::unexpected("a status like 404, or a class from 1xx to 5xx");
  query.filter.status = text;
  return {};
}

Result set_since(StoreQuery& query, std::string_view text) {
  const auto time = parse_rfc3339(text);
  if (!time) return std::unexpected("a time like 2030-01-31T12:00:00Z");
  query.filter.since = *time;
  return {};
}

Result set_kind(StoreQuery& query, std::string_view text) {
  for (const auto kind : {RecordKind::exchange, RecordKind::connection, RecordKind::process, RecordKind::dns,
                          RecordKind::policy}) {
    if (to_string(kind) != text) continue;
    query.filter.kinds.push_back(kind);
    return {};
  }
  return std::unexpected("exchange, connection, process, dns or policy");
}

Result set_container(StoreQuery& query, std::string_view text) {
  if (!is_container_name(text)) {
    return std::unexpected("a container's name, its id, or the id's first hexadecimal digits");
  }
  query.container = text;
  return {};
}

Result set_limit(StoreQuery& query, std::string_view text) {
  return set_number(query.limit, text, "a number of records, from 1");
}

Result set_connections(StoreQuery& query, std::string_view text) {
  if (text != "opaque") return std::unexpected("opaque");
  query.hide_readable_connections = true;
  return {};
}

struct Parameter {
  std::string_view name;
  Result (*set)(StoreQuery&, std::string_view);
};
constexpr Parameter kParameters[] = {
    {"process", set_process},     {"pid", set_pid},     {"host", set_host},
    {"status", set_status},       {"since", set_since}, {"kind", set_kind},
    {"container", set_container}, {"limit", set_limit}, {"connections", set_connections},
};

}  // namespace

Result set_parameter(StoreQuery& query, std::string_view name, std::string_view value) {
  for (const auto& parameter : kParameters) {
    if (parameter.name == name) return parameter.set(query, value);
  }
  return std::unexpected("no such parameter");
}

std::string to_target(std::string_view path, const StoreQuery& query) {
  const auto& filter = query.filter;
  boost::urls::url url;
  url.set_path(path);
  auto add = [parameters = url.params()](std::string_view name, const std::string& value) mutable {
    if (!value.empty()) parameters.append({name, value});
  };
  add("process", filter.process_name);
  add("pid", filter.pid == 0 ? "" : std::to_string(filter.pid));
  add("host", filter.host);
  add("status", filter.status);
  add("since", filter.since ? to_rfc3339(*filter.since) : "");
  for (const auto kind : filter.kinds) add("kind", std::string(to_string(kind)));
  add("container", query.container);
  add("limit", query.limit == 0 ? "" : std::to_string(query.limit));
  add("connections", query.hide_readable_connections ? "opaque" : "");
  return url.buffer();
}

std::expected<Target, std::string> parse_target(std::string_view text) {
  const auto url = boost::urls::parse_origin_form(text);
  if (!url) return std::unexpected("the request's target is no path");
  Target target{url->path(), {}};
  for (const auto& parameter : url->params()) {
    const auto set = set_parameter(target.query, parameter.key, parameter.value);
    if (!set) return std::unexpected(parameter.key + ": " + set.error());
  }
  return target;
}

}  // namespace weir::agent
