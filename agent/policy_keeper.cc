// See policy_keeper.h. All or nothing.
#include "agent/policy_keeper.h"

#include <utility>

#include "agent/policy_file.h"

namespace weir::agent {

std::expected<void, Error> PolicyKeeper::load(const Apply& apply) {
  if (!has_file()) return {};
  auto text = load_policy_file(file_);
  auto policy = text ? read_policy_text(*text, file_, user_id) : std::unexpected(text.error());
  std::expected<void, Error> done;
  if (!policy)
    done = std::unexpected(policy.error());
  else if (apply)
    done = apply(*policy);
  if (!done) {
    error_ = to_string(done.error());
    return done;
  }
  text_ = *std::move(text);
  policy_ = *std::move(policy);
  error_.clear();
  return {};
}

}  // namespace weir::agent
