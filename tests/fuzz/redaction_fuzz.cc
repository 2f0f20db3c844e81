// Any text around a secret in a place that is known for secrets: the secret is gone, and what comes out is
// not much longer than what went in.
#include <string>

#include "attribution/redaction.h"
#include "tests/fuzz/fuzz.h"

namespace {

using weir::fuzz::require;

const std::string kSecret = "QQQQQQQQ";  // no other text here has a Q

using Where = std::source_location;

void check(const std::string& redacted, std::size_t size, Where where = Where::current()) {
  require(redacted.find(kSecret) == std::string::npos, where);
  require(redacted.size() <= 12 * size + 64, where);
}

void check_url(const std::string& url, Where where = Where::current()) {
  check(weir::redact_url(url), url.size(), where);
}

void check_arguments(const std::vector<std::string>& arguments, Where where = Where::current()) {
  const auto redacted = weir::redact_arguments(arguments);
  require(redacted.size() == arguments.size());
  for (std::size_t i = 0; i < arguments.size(); ++i) check(redacted[i], arguments[i].size(), where);
}

std::string without_secret(std::string_view text) {
  std::string out(text);
  std::erase(out, kSecret.front());
  return out;
}

}  // namespace

// The input is what stands before the secret, and after a line's end what stands behind it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = weir::fuzz::text_of(data, size);
  const auto end = std::min(text.find('\n'), text.size());
  const std::string before = without_secret(text.substr(0, end));
  const std::string after = without_secret(text.substr(std::min(end + 1, text.size())));

  check_url(before + "https://me:" + kSecret + "@" + after);
  check_url(before + "?password=" + kSecret + "&" + after);
  check_url(before + "#access_token=" + kSecret + "&" + after);
  check(weir::redact_header("authorization", before + kSecret + after), before.size() + after.size());
  check(weir::redact_header("Location", before + "?token=" + kSecret), before.size());
  check(weir::redact_header(before + "-token", kSecret + after), before.size() + after.size());
  check_arguments({before, "--password", kSecret, after});
  check_arguments({before, "--password=" + kSecret + after});
  check_arguments({before, "-H", "Authorization: Bearer " + kSecret + after});
  check_arguments({before, "https://me:" + kSecret + "@" + after});
  (void)weir::redact_arguments({"sh", "-c", before, after});
  return 0;
}
