// See yaml_document.h. YAML::LoadAll would never end in some texts (", ,"), so documents are counted by their
// starts, and no further than to the second.
#include "agent/yaml_document.h"

#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <sstream>
#include <vector>

namespace weir::agent {
namespace {

class DocumentStarts final : public YAML::EventHandler {
 public:
  std::vector<YAML::Mark> marks;

  void OnDocumentStart(const YAML::Mark& mark) override { marks.push_back(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}
};

std::vector<YAML::Mark> first_two_starts(const std::string& text) {
  std::istringstream in(text);
  YAML::Parser parser(in);
  DocumentStarts starts;
  while (starts.marks.size() < 2 && parser.HandleNextDocument(starts)) {
  }
  return starts.marks;
}

unsigned line_of(const YAML::Mark& mark) {
  return static_cast<unsigned>(std::max(mark.line, 0) + 1);  // what is not there has no mark
}

}  // namespace

std::expected<YAML::Node, Error> load_document(std::string_view text, const std::string& name) {
  const auto at = [&](unsigned line, const std::string& what, const std::string& remedy = "") {
    return std::unexpected(Error{name + ":" + std::to_string(line) + ": " + what, remedy});
  };
  try {
    const std::string copy(text);
    const auto starts = first_two_starts(copy);
    if (starts.size() > 1)
      return at(line_of(starts[1]), "a second document begins here, and would not be read",
                "write one document, without '---' or '...' inside");
    return YAML::Load(copy);
  } catch (const YAML::Exception& error) {
    return at(line_of(error.mark), error.msg);
  }
}

unsigned line_of(const YAML::Node& node) {
  return line_of(node.Mark());
}

}  // namespace weir::agent
