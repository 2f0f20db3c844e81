// The runtimes' JSON, and a table of what was read. The facts are containerd's (pkg/cri/annotations) and
// those of the names that the kubelet's clients give (cri-dockerd, CRI-O).
#include "agent/container_names.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <variant>

namespace weir::agent {
namespace {

namespace json = boost::json;

constexpr std::size_t kLongestName = 1024;
constexpr std::size_t kMostKnown = 16'384;
constexpr std::size_t kLargestFile = 16 * 1024 * 1024;
constexpr std::chrono::seconds kAskedAgainAfter{10};

const json::object* object_in(const json::object& object, std::string_view key) {
  const json::value* found = object.if_contains(key);
  return found == nullptr ? nullptr : found->if_object();
}

std::string text_in(const json::object& object, std::string_view key) {
  const json::value* found = object.if_contains(key);
  const json::string* text = found == nullptr ? nullptr : found->if_string();
  return text == nullptr || text->size() > kLongestName ? std::string() : std::string(*text);
}

void fill(std::string& place, const json::object& object, std::string_view key) {
  if (place.empty()) place = text_in(object, key);
}

// "k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT": Kubernetes' names have no '_'.
void read_kubelets_name(ContainerNames& names) {
  std::string_view left = names.name;
  std::array<std::string_view, 6> parts;
  for (std::string_view& part : parts) {
    const auto end = std::min(left.find('_'), left.size());
    part = left.substr(0, end);
    left.remove_prefix(std::min(end + 1, left.size()));
    if (part.empty()) return;
  }
  if (!left.empty() || parts[0] != "k8s") return;
  names.k8s_container = parts[1];
  names.k8s_pod = parts[2];
  names.k8s_namespace = parts[3];
}

Told read_docker(const json::object& state, ContainerNames& names) {
  const json::object* config = object_in(state, "Config");
  if (config == nullptr) return Told::unreadable;
  if (const std::string name = text_in(state, "Name"); names.name.empty())
    names.name = name.substr(name.starts_with('/') ? 1 : 0);
  if (const std::string image = text_in(*config, "Image");
      names.image.empty() && !image.starts_with("sha256:"))
    names.image = image;
  read_kubelets_name(names);
  return Told::names;
}

Told read_containerd(const json::object& state, ContainerNames& names) {
  const json::object* annotations = object_in(state, "annotations");
  if (annotations == nullptr) return Told::names;
  fill(names.k8s_namespace, *annotations, "io.kubernetes.cri.sandbox-namespace");
  fill(names.k8s_pod, *annotations, "io.kubernetes.cri.sandbox-name");
  fill(names.k8s_container, *annotations, "io.kubernetes.cri.container-name");
  fill(names.image, *annotations, "io.kubernetes.cri.image-name");
  fill(names.name, *annotations, "io.kubernetes.cri.container-name");  // it has no other
  return Told::names;
}

Told read_storage(const json::array& containers, std::string_view id, ContainerNames& names) {
  for (const json::value& each : containers) {
    const json::object* container = each.if_object();
    if (container == nullptr || text_in(*container, "id") != id) continue;
    const json::value* list = container->if_contains("names");
    const json::array* given = list == nullptr ? nullptr : list->if_array();
    if (given != nullptr && !given->empty() && names.name.empty())
      if (const json::string* first = given->front().if_string(); first && first->size() <= kLongestName)
        names.name = std::string(*first);
    // JSON within a text of JSON.
    const json::value* inner = container->if_contains("metadata");
    const json::string* text = inner == nullptr ? nullptr : inner->if_string();
    json::error_code error;
    const json::value metadata = text == nullptr ? json::value() : json::parse(*text, error);
    if (const json::object* more = error ? nullptr : metadata.if_object())
      fill(names.image, *more, "image-name");
    read_kubelets_name(names);
    return Told::names;
  }
  return Told::nothing;
}

std::string read_file(int file) {
  std::string text;
  std::array<char, 65536> part{};
  while (text.size() <= kLargestFile) {
    const ssize_t size = ::pread(file, part.data(), part.size(), static_cast<off_t>(text.size()));
    if (size <= 0) return text;
    text.append(part.data(), static_cast<std::size_t>(size));
  }
  return {};
}

class NamingPublisher final : public EventPublisher {
 public:
  NamingPublisher(EventPublisher& next, ContainerTable& table) : next_(next), table_(table) {}

  void publish(Event event) override {
    if (auto* process = std::get_if<ProcessEvent>(&event)) table_.name(*process);
    next_.publish(std::move(event));
  }

 private:
  EventPublisher& next_;
  ContainerTable& table_;
};

}  // namespace

Told read_container_state(std::string_view text, std::string_view id, ContainerNames& names) {
  json::error_code error;
  const json::value state = json::parse(text, error);
  if (error) return Told::unreadable;
  if (const json::array* containers = state.if_array()) return read_storage(*containers, id, names);
  const json::object* object = state.if_object();
  if (object == nullptr) return Told::unreadable;
  return object->contains("ociVersion") ? read_containerd(*object, names) : read_docker(*object, names);
}

std::shared_ptr<const ContainerNames> ContainerTable::find(const std::string& id) {
  if (id.empty()) return nullptr;
  const auto now = std::chrono::steady_clock::now();
  {
    const std::lock_guard lock(mutex_);
    const auto found = known_.find(id);
    if (found != known_.end() && (found->second.names || now < found->second.asked + kAskedAgainAfter))
      return found->second.names;
  }
  auto names = read(id);
  const std::lock_guard lock(mutex_);
  if (known_.size() >= kMostKnown) std::erase_if(known_, [](const auto& one) { return !one.second.names; });
  if (known_.size() >= kMostKnown) known_.clear();
  known_[id] = {names, now};
  return names;
}

std::shared_ptr<const ContainerNames> ContainerTable::read(const std::string& id) const {
  ContainerNames names;
  bool known = false;
  for (std::uint32_t number = 0;; ++number) {
    const auto file = open_(id, number);
    if (!file) return nullptr;
    if (!*file) break;
    const Told told = read_container_state(read_file((*file)->descriptor.get()), id, names);
    if (told == Told::unreadable) return nullptr;
    known = known || told == Told::names;
    number = (*file)->number;
  }
  return known ? std::make_shared<const ContainerNames>(std::move(names)) : nullptr;
}

void ContainerTable::name(ProcessEvent& process) {
  if (process.cgroup_path.empty()) return;
  const ContainerFacts facts = container_facts(process.cgroup_path);
  if (!facts.claimed) process.container = find(facts.container_id);
}

std::unique_ptr<EventPublisher> with_container_names(EventPublisher& next, ContainerTable& table) {
  return std::make_unique<NamingPublisher>(next, table);
}

}  // namespace weir::agent
