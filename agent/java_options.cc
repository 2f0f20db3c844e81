// Taking JAVA_TOOL_OPTIONS apart and putting it together again. Never changes the text of a word that it
// keeps.
#include "agent/java_options.h"

#include <algorithm>
#include <vector>

namespace weir::agent {

namespace {

constexpr std::string_view white_space = " \t\n\v\f\r";
constexpr std::string_view quotes = "'\"";

struct Word {
  std::string raw;    // as written
  std::string plain;  // as the JVM sees it
};

bool is_one_of(char c, std::string_view set) {
  return set.find(c) != std::string_view::npos;
}

// The word's end is the first white space outside quotes. An unmatched quote reaches to the end.
Word take_word(std::string_view& rest) {
  Word word;
  char quote = '\0';
  while (!rest.empty() && (quote != '\0' || !is_one_of(rest.front(), white_space))) {
    const char c = rest.front();
    rest.remove_prefix(1);
    word.raw += c;
    if (c == quote) {
      quote = '\0';
    } else if (quote == '\0' && is_one_of(c, quotes)) {
      quote = c;
    } else {
      word.plain += c;
    }
  }
  return word;
}

std::vector<Word> split(std::string_view options) {
  std::vector<Word> words;
  for (;;) {
    const std::size_t start = options.find_first_not_of(white_space);
    if (start == std::string_view::npos) return words;
    options.remove_prefix(start);
    words.push_back(take_word(options));
  }
}

bool sets(const Word& word, const JavaProperty& property) {
  const std::string_view plain = word.plain;
  return plain.starts_with("-D") && plain.substr(2, plain.find('=') - 2) == property.name;
}

// There is no escape: a double quote stands between two parts, in single quotes of its own.
std::string java_quoted(std::string_view value) {
  const bool plain =
      std::ranges::none_of(value, [](char c) { return is_one_of(c, white_space) || is_one_of(c, quotes); });
  if (plain) return std::string(value);
  std::string out = "\"";
  for (const char c : value) out += c == '"' ? std::string(R"("'"'")") : std::string(1, c);
  return out + '"';
}

}  // namespace

std::string with_java_properties(std::string_view options, std::span<const JavaProperty> properties) {
  std::string out;
  for (const Word& word : split(options)) {
    const bool replaced =
        std::ranges::any_of(properties, [&](const auto& property) { return sets(word, property); });
    if (!replaced) out += word.raw + ' ';
  }
  for (const JavaProperty& property : properties)
    out += "-D" + property.name + '=' + java_quoted(property.value) + ' ';
  if (!out.empty()) out.pop_back();
  return out;
}

}  // namespace weir::agent
