// One rule against one subject. Inside of this room.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "attribution/policy_rules.h"

namespace weir {

// A subject with what is derived from it at most once for all rules.
class PolicyQuestion {
 public:
  explicit PolicyQuestion(const PolicySubject& subject) : subject_(subject) {}
  const PolicySubject& subject() const { return subject_; }
  const std::vector<std::string>& paths() const;  // path_readings(); only with a request

 private:
  const PolicySubject& subject_;
  mutable std::vector<std::string> paths_;
};

struct RuleMatch {
  Answer answer = Answer::yes;
  bool needs_request = false;  // of a "maybe"
};

// `why` may be null; else it is told what decided.
RuleMatch match(const PolicyRule& rule, const PolicyQuestion& question, std::string* why);

// True when `text` is one, and no address.
bool covers_host(std::string_view pattern, std::string_view name);
std::string_view file_name(std::string_view path);

}  // namespace weir
