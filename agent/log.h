// What the agent says on standard error. Levels: error: something asked for is not done; warning: done, but
// less than asked; info: what an operator wants to see once.
#pragma once

#include <string>

namespace weir::agent {

void log_error(const std::string& text);
void log_warning(const std::string& text);
void log_info(const std::string& text);

}  // namespace weir::agent
