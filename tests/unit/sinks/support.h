// What the sinks' tests share: records made from little, and a directory that goes away with its test.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "attribution/record_json.h"

namespace weir::test {

inline Time at_second(std::int64_t second) {
  return Time(std::chrono::seconds(second));
}

struct RecordSpec {
  std::string id;
  RecordKind kind = RecordKind::exchange;
  bool final = true;
  bool replaces = false;
  std::int64_t second = 1;
  std::uint32_t pid = 0;
  std::string process = "";
  std::string host = "";
  std::int64_t status = 0;
  std::string opaque = "";
  std::string url = "";
  std::string container = "";
  std::string container_name = "";
};

inline RecordPtr make_record(RecordSpec spec) {
  auto record = std::make_shared<Record>();
  record->id = spec.id;
  record->kind = spec.kind;
  record->final = spec.final;
  record->replaces = spec.replaces;
  record->timestamp = at_second(spec.second);
  record->pid = spec.pid;
  record->executable_name = spec.process;
  record->server_address = spec.host;
  record->status_code = spec.status;
  record->opaque_reason = spec.opaque;
  record->container_id = spec.container;
  record->container_name = spec.container_name;
  RecordWriter out(*record);
  if (!spec.url.empty()) out.field("url.full", spec.url);
  if (!spec.opaque.empty()) out.field("weir.opaque.reason", spec.opaque);
  if (!spec.container.empty()) out.field("container.id", spec.container);
  if (!spec.container_name.empty()) out.field("container.name", spec.container_name);
  record->json = out.finish();
  return record;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "weir-test-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace weir::test
