// Any text as a configuration: it is refused with its name and a line, and then nothing has changed; or it is
// taken, and the worker that reads what the broker writes has the same one.
#include "agent/config.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir::agent;
using weir::fuzz::require;

bool same_texts(const Config& a, const Config& b) {
  return a.state_dir == b.state_dir && a.jsonl == b.jsonl && a.record == b.record &&
         a.upstream_ca == b.upstream_ca && a.passthrough == b.passthrough && a.native_only == b.native_only &&
         a.native_except == b.native_except;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Config config = default_config();
  const std::string before = to_yaml(config);
  const auto read = read_config_text(weir::fuzz::text_of(data, size), "fuzz", config);
  const std::string after = to_yaml(config);
  if (!read) {
    require(read.error().what.starts_with("fuzz:") && before == after);
    return 0;
  }
  Config again = default_config();
  require(read_config_text(after, "again", again).has_value());
  require(to_yaml(again) == after && same_texts(again, config));
  return 0;
}
