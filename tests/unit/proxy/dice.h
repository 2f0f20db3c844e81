// Random messages. The same seed gives the same ones.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "h2_wire.h"

namespace weir::proxy::test {

struct Message {
  Pairs fields;
  std::string content;
  Pairs trailers;
  bool with_length = false;
};

class Dice {
 public:
  explicit Dice(unsigned seed) : engine_(seed) {}
  std::size_t below(std::size_t limit) {
    return std::uniform_int_distribution<std::size_t>(0, limit - 1)(engine_);
  }
  bool chance(std::size_t one_in) { return below(one_in) == 0; }
  std::string of(const std::string& alphabet, std::size_t least, std::size_t most) {
    std::string text;
    for (auto left = least + below(most - least + 1); left > 0; --left)
      text += alphabet[below(alphabet.size())];
    return text;
  }
  std::string method() {
    static const std::vector<std::string> known = {"GET",   "POST",    "PUT",      "DELETE",
                                                   "PATCH", "OPTIONS", "PROPFIND", "x-own!"};
    return known[below(known.size())];
  }
  std::string path() {
    return "/" + of("abcXYZ019-._~!$&'()*+,;=:@/?%[]{}|^`\"<>\\", 0, chance(10) ? 2'000 : 40);
  }
  Pairs fields(const std::string& prefix) {
    static const std::string values = [] {
      std::string text;
      for (int c = 0x21; c < 0x100; ++c)
        if (c != 0x7f) text += static_cast<char>(c);
      return text + "  \t";
    }();
    Pairs all;
    for (auto left = below(8); left > 0; --left) {
      std::string value = chance(5) ? "" : of(values, 1, chance(20) ? 4'000 : 60);
      while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.pop_back();
      while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.erase(0, 1);
      const bool repeat = !all.empty() && chance(3);
      all.emplace_back(repeat ? all[below(all.size())].first : prefix + of("abcz019-_.!#$%&'*+^`|~", 0, 12),
                       value);
    }
    return all;
  }
  Message message(const std::string& prefix, bool with_content) {
    Message made;
    made.fields = fields(prefix);
    if (!with_content) return made;
    made.content.resize(chance(4) ? 0 : below(chance(10) ? 200'000 : 2'000));
    for (auto& c : made.content) c = static_cast<char>(engine_());
    made.with_length = chance(3);
    if (!made.with_length && chance(2)) made.trailers = fields("t" + prefix);
    if (made.with_length) made.fields.emplace_back("content-length", std::to_string(made.content.size()));
    return made;
  }
  // As HTTP/1 lets a name be written.
  std::string odd_case(std::string name) {
    for (char& c : name)
      if (c >= 'a' && c <= 'z' && chance(2)) c = static_cast<char>(c - 'a' + 'A');
    return name;
  }
  std::size_t piece(std::size_t left) {
    return left == 0 ? 0 : 1 + below(std::min<std::size_t>(left, 16'000));
  }

 private:
  std::mt19937 engine_;
};

}  // namespace weir::proxy::test
