// Writes heads back to bytes. Adds, drops and reorders nothing.
#include "http/h1_parser.h"

namespace weir::http {
namespace {

std::string version_text(Version version) {
  return "HTTP/" + std::to_string(version.major) + "." + std::to_string(version.minor);
}

std::string with_fields(std::string out, const Fields& fields) {
  out += "\r\n";
  for (const auto& field : fields) {
    out += field.name;
    out += ": ";
    out += field.value;
    out += "\r\n";
  }
  out += "\r\n";
  return out;
}

}  // namespace

std::string serialize(const RequestHead& head) {
  return with_fields(head.method + " " + head.target + " " + version_text(head.version), head.fields);
}

std::string serialize(const ResponseHead& head) {
  return with_fields(version_text(head.version) + " " + std::to_string(head.status) + " " + head.reason,
                     head.fields);
}

}  // namespace weir::http
