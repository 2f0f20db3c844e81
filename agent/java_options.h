// The grammar of JAVA_TOOL_OPTIONS: words separated by white space, in which '...' and "..." quote
// (HotSpot, Arguments::parse_options_buffer). Pure text; knows no property by name.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace weir::agent {

struct JavaProperty {
  std::string name;
  std::string value;
};

// The options with each property set exactly once, at the end; whatever set it before is taken out, all else
// is kept as it was written.
std::string with_java_properties(std::string_view options, std::span<const JavaProperty> properties);

}  // namespace weir::agent
