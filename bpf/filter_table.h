// The filters as the kernel side's programs look them up. Inside of this room.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "bpf/filters.h"

namespace weir::bpf {

struct FilterTable {
  // By enum wire_filter_kind and value: WIRE_FILTER_ONLY, WIRE_FILTER_EXCEPT, WIRE_FILTER_REDIRECT, or some.
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::uint32_t> rules;
  std::uint32_t groups = 0;  // WIRE_FILTER_PROCESSES...: those that have a rule of `only` or `except`
  std::uint32_t only_groups = 0;
  std::uint32_t redirect_groups = 0;
};

FilterTable make_filter_table(const Filters& filters);

}  // namespace weir::bpf
