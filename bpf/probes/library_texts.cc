// The texts: names of source files that assertions and error queues carry along, and messages.
#include "bpf/probes/library_texts.h"

#include "bpf/probes/text_search.h"

namespace weir::bpf {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string_view version_of(std::string_view text) {
  const auto end = text.find_first_not_of("0123456789.");
  return text.substr(0, end);
}

// "OpenSSL 3.0.13 30 Jan 2024", "OpenSSL 1.1.1w  11 Sep 2023": what OpenSSL_version() answers.
constexpr std::string_view kBanner = "OpenSSL ";

std::string_view banner_version(std::string_view text) {
  text.remove_prefix(kBanner.size());
  return text.substr(0, text.find(' '));
}

bool is_banner(std::string_view text) {
  const std::string_view version = banner_version(text);
  if (version.size() < 5 || version.size() > 24 || !is_digit(version[0]) || version[1] != '.' ||
      !is_digit(version[2]))
    return false;
  text.remove_prefix(kBanner.size() + version.size());
  const auto day = text.find_first_not_of(' ');
  return day == 1 || day == 2 ? is_digit(text[day]) : false;
}

// "/home/.../registry/src/index.crates.io-.../rustls-0.23.37/src/conn.rs"
constexpr std::size_t kRustlsPathBytes = 8;  // "/rustls-"

bool is_rustls(std::string_view text) {
  const std::string_view version = version_of(text.substr(kRustlsPathBytes));
  return version.starts_with("0.") && text.substr(kRustlsPathBytes + version.size()).starts_with("/src/");
}

// A text in two parts, so that this program's own constants don't have it: it is none of these libraries.
struct Row {
  std::string_view title;
  std::string_view begin, rest;
  bool ended = false;  // by NUL
  bool (*accept)(std::string_view from_text_on) = nullptr;
  bool has_version = false;  // after the text

  std::string text() const {
    std::string text(begin);
    text += rest;
    if (ended) text.push_back('\0');
    return text;
  }
};

// OpenSSL's and BoringSSL's own file names differ in their last letter only.
constexpr Row kRows[] = {
    {"OpenSSL", "ssl/ssl", "_lib.c", true},
    {"BoringSSL", "ssl/ssl", "_lib.cc", true},
    {"rustls", "/rust", "ls-", false, is_rustls, true},
    {"Mbed TLS", "mbedtls_ssl", "_fetch_input"},
    {"wolfSSL", "non-blocking socket wants", " data to be read"},
    {"s2n-tls", "/s2n", "_recv.c:"},
};

}  // namespace

std::vector<LibraryText> find_library_texts(ElfFile& file) {
  std::vector<std::string> marks;
  for (const Row& row : kRows) marks.push_back(row.text());
  std::vector<SoughtText> sought{{kBanner, is_banner}};
  for (std::size_t i = 0; i < marks.size(); ++i) sought.push_back({marks[i], kRows[i].accept});
  const auto found = find_texts(file.reader(), file.constants(), sought);
  std::vector<LibraryText> texts;
  for (std::size_t i = 0; i < std::size(kRows); ++i) {
    const Row& row = kRows[i];
    const auto& place = found[i + 1];
    LibraryText text{row.title, place.has_value(), {}};
    if (place && row.has_version)
      text.version = version_of(std::string_view(place->tail).substr(marks[i].size()));
    texts.push_back(std::move(text));
  }
  if (found.front()) texts.front().version = banner_version(found.front()->tail);
  return texts;
}

}  // namespace weir::bpf
