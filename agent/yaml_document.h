// What the files that administrators write in YAML have in common: each holds one document, and what is wrong
// is told with its line.
#pragma once

#include <yaml-cpp/yaml.h>

#include <expected>
#include <string>
#include <string_view>

#include "agent/error.h"

namespace weir::agent {

// The document of a file named `name`; null when there is nothing in it. A second one is an error: nobody
// would read it.
std::expected<YAML::Node, Error> load_document(std::string_view text, const std::string& name);

unsigned line_of(const YAML::Node& node);  // from 1

}  // namespace weir::agent
