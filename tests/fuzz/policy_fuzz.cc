// Any text as a policy: it is refused with its name and a line; or it is taken, and then the index says the
// same as the rules one by one, of whatever the text's last line asks for.
#include "agent/policy_file.h"
#include "attribution/text.h"
#include "bpf/policy_table.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir;
using weir::fuzz::require;

std::optional<std::uint32_t> users(const std::string& name) {
  return name == "root" ? std::optional<std::uint32_t>(0) : std::nullopt;
}

void same(const CompiledPolicy& policy, const PolicySubject& subject) {
  const Verdict quick = policy.decide(subject);
  const Verdict slow = policy.decide_slowly(subject);
  require(quick.allowed == slow.allowed && quick.rule == slow.rule && quick.inspect == slow.inspect &&
          quick.log == slow.log && quick.undecided == slow.undecided);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(weir::fuzz::text_of(data, size));
  auto policy = agent::read_policy_text(text, "fuzz", users);
  if (!policy) {
    require(policy.error().what.starts_with("fuzz:"));
    return 0;
  }
  (void)bpf::make_policy_table(*policy);
  const std::string target = text.substr(text.rfind('#') + 1);
  require(!normalized_path("/" + target).contains("//"));
  require(path_readings("/" + target).front() == normalized_path("/" + target));
  const ClientFacts client{"/usr/bin/" + target, 0, true, "/a/b", "0123abcd"};
  const Destination named{to_lower(target), 443, parse_ip_address("10.0.0.1")};
  const Destination unresolved{"example.org", 80, {}};
  const http::Fields fields{{"x-env", target}};
  const RequestSummary request{"GET", target, &fields};
  const CompiledPolicy compiled(*std::move(policy));
  same(compiled, {&client, named, &request});
  same(compiled, {&client, unresolved, nullptr});
  same(compiled, {nullptr, named, nullptr});
  same(compiled, {&client, named, nullptr, HelloFacts{.is_tls = true, .has_encrypted = size % 2 == 0}});
  return 0;
}
