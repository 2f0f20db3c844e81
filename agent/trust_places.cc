// Each kind of program's places, as data where they are fixed.
#include "agent/trust_places.h"

#include <unistd.h>

#include <fstream>
#include <set>
#include <system_error>

#include "agent/environment.h"
#include "ca/truststore.h"

namespace weir::agent {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_places = 512;
constexpr std::size_t most_entries = 4096;  // of one directory
constexpr std::size_t longest_first_line = 512;

constexpr const char* python_bundles[] = {
    "certifi/cacert.pem",
    "pip/_vendor/certifi/cacert.pem",
    "botocore/cacert.pem",
};

class Places {
 public:
  void add(const fs::path& file) {
    std::error_code error;
    const fs::path real = fs::canonical(file, error);
    if (!error && fs::is_regular_file(real, error) && found_.size() < most_places) found_.insert(real);
  }
  // A directory of Python packages.
  void add_packages(const fs::path& directory) {
    for (const char* bundle : python_bundles) add(directory / bundle);
  }
  // What is installed under `prefix`, as /usr or a virtual environment.
  void add_python(const fs::path& prefix) {
    for (const char* lib : {"lib", "lib64"}) {
      for_each_in(prefix / lib, [&](const fs::path& entry) {
        if (!entry.filename().string().starts_with("python")) return;
        add_packages(entry / "site-packages");
        add_packages(entry / "dist-packages");
      });
    }
  }
  template <typename Function>
  void for_each_in(const fs::path& directory, Function function) {
    std::error_code error;
    std::size_t count = 0;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error))
      if (++count <= most_entries) function(entry->path());
  }
  std::vector<fs::path> take() { return {found_.begin(), found_.end()}; }

 private:
  std::set<fs::path> found_;
};

std::vector<fs::path> split(const std::string& list) {
  std::vector<fs::path> parts;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(':', begin), list.size());
    if (end > begin) parts.emplace_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// As execvp() finds it.
fs::path executable_of(const TrustPlaceInputs& inputs) {
  if (inputs.command.find('/') != std::string::npos) return fs::absolute(inputs.command);
  for (const fs::path& directory : split(inputs.variable("PATH").value_or("/bin:/usr/bin"))) {
    const fs::path file = directory / inputs.command;
    if (::access(file.c_str(), X_OK) == 0) return fs::absolute(file);
  }
  return {};
}

// The first word of "#!/path/to/python3 -B"; empty for what is no script.
fs::path interpreter_of(const fs::path& file) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return {};
  std::ifstream in(file, std::ios::binary);
  std::string line(longest_first_line, '\0');
  in.read(line.data(), static_cast<std::streamsize>(line.size()));
  line.resize(static_cast<std::size_t>(in.gcount()));
  if (!line.starts_with("#!")) return {};
  const std::size_t begin = line.find_first_not_of(" \t", 2);
  const std::size_t end = line.find_first_of(" \t\n", begin);
  if (begin == std::string::npos || end == std::string::npos) return {};
  return line.substr(begin, end - begin);
}

// Installed programs lie in PREFIX/bin, the real ones perhaps elsewhere than their links.
std::set<fs::path> prefixes_of(const fs::path& executable) {
  std::set<fs::path> prefixes;
  for (const fs::path& file : {executable, interpreter_of(executable)}) {
    if (!file.is_absolute()) continue;
    prefixes.insert(file.parent_path().parent_path());
    std::error_code error;
    const fs::path real = fs::canonical(file, error);
    if (!error) prefixes.insert(real.parent_path().parent_path());
  }
  return prefixes;
}

}  // namespace

std::vector<fs::path> trust_places(const TrustPlaceInputs& inputs) {
  Places places;
  const auto directory_in = [&](const char* name) {
    const fs::path value = inputs.variable(name).value_or("");
    return value.is_absolute() ? value : fs::path("/nonexistent");
  };
  for (const fs::path& bundle : ca::system_bundles()) places.add(bundle);
  for (const std::string_view name : root_file_variables()) {
    if (const auto file = inputs.variable(name)) places.add(*file);
  }
  const auto prefixes = prefixes_of(executable_of(inputs));
  for (const fs::path& store : ca::jdk_stores(std::vector(prefixes.begin(), prefixes.end())))
    places.add(store);
  for (const fs::path& prefix : prefixes) places.add_python(prefix);
  for (const fs::path& prefix : {fs::path("/usr"), fs::path("/usr/local"), directory_in("VIRTUAL_ENV"),
                                 directory_in("CONDA_PREFIX"), directory_in("HOME") / ".local"})
    places.add_python(prefix);
  for (const fs::path& root : {directory_in("PYENV_ROOT"), directory_in("HOME") / ".pyenv"})
    places.for_each_in(root / "versions", [&](const fs::path& prefix) { places.add_python(prefix); });
  for (const fs::path& directory : split(inputs.variable("PYTHONPATH").value_or("")))
    places.add_packages(directory);
  return places.take();
}

}  // namespace weir::agent
