// The broker's hold on the policy file: read at the start and on SIGHUP. An invalid file leaves what was
// there.
#pragma once

#include <expected>
#include <functional>
#include <string>

#include "agent/error.h"
#include "attribution/policy_rules.h"

namespace weir::agent {

class PolicyKeeper {
 public:
  // `file` may be "": there is no policy then.
  explicit PolicyKeeper(std::string file) : file_(std::move(file)) {}

  // `apply` puts the policy in force; what it refuses is not kept.
  using Apply = std::function<std::expected<void, Error>(const Policy& policy)>;
  std::expected<void, Error> load(const Apply& apply = nullptr);

  bool has_file() const { return !file_.empty(); }
  const std::string& file() const { return file_; }
  const std::string& text() const { return text_; }  // in force
  const Policy& policy() const { return policy_; }
  // Why the file as it is now is not in force; "" when it is.
  const std::string& error() const { return error_; }

 private:
  std::string file_;
  std::string text_;
  Policy policy_;
  std::string error_;
};

}  // namespace weir::agent
