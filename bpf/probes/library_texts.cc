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
constexpr std::string_view kRustlsPath = "/rustls-";

bool is_rustls(std::string_view text) {
  const std::string_view version = version_of(text.substr(kRustlsPath.size()));
  return version.starts_with("0.") && text.substr(kRustlsPath.size() + version.size()).starts_with("/src/");
}

struct Row {
  std::string_view title;
  SoughtText mark;
  // In the text of the mark, behind its first `version_at` characters; 0: it has none.
  std::size_t version_at;
};

// OpenSSL's and BoringSSL's own file names differ in their last letter only.
constexpr Row kRows[] = {
    {"OpenSSL", {{"ssl/ssl_lib.c\0", 14}}, 0},
    {"BoringSSL", {{"ssl/ssl_lib.cc\0", 15}}, 0},
    {"rustls", {kRustlsPath, is_rustls}, kRustlsPath.size()},
    {"Mbed TLS", {"mbedtls_ssl_fetch_input"}, 0},
    {"wolfSSL", {"non-blocking socket wants data to be read"}, 0},
    {"s2n-tls", {"/s2n_recv.c:"}, 0},
};

}  // namespace

std::vector<LibraryText> find_library_texts(ElfFile& file) {
  std::vector<SoughtText> sought{{kBanner, is_banner}};
  for (const Row& row : kRows) sought.push_back(row.mark);
  const auto found = find_texts(file.reader(), file.constants(), sought);
  std::vector<LibraryText> texts;
  for (std::size_t i = 0; i < std::size(kRows); ++i) {
    const Row& row = kRows[i];
    const auto& place = found[i + 1];
    LibraryText text{row.title, place.has_value(), {}};
    if (place && row.version_at != 0)
      text.version = version_of(std::string_view(place->tail).substr(row.version_at));
    texts.push_back(std::move(text));
  }
  if (found.front()) texts.front().version = banner_version(found.front()->tail);
  return texts;
}

}  // namespace weir::bpf
