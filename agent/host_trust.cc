// Installing and undoing. The journal is written before anything is touched and goes when all is undone.
#include "agent/host_trust.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <optional>
#include <set>

#include "agent/descriptor.h"
#include "agent/host_files.h"
#include "ca/files.h"
#include "ca/truststore.h"

namespace weir::agent {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

// How distributions take in a root: a file in a directory, and a program that makes the stores anew.
struct Way {
  const char* anchors;
  const char* tool;
};
constexpr Way ways[] = {
    {"/usr/local/share/ca-certificates", "update-ca-certificates"},    // Debian, Ubuntu, Alpine
    {"/etc/pki/ca-trust/source/anchors", "update-ca-trust"},           // Fedora, RHEL
    {"/etc/pki/trust/anchors", "update-ca-certificates"},              // openSUSE
    {"/etc/ca-certificates/trust-source/anchors", "update-ca-trust"},  // Arch
};
// What these programs make.
constexpr const char* made_by_tools[] = {"/etc/ssl/certs", "/etc/pki/ca-trust/extracted",
                                         "/var/lib/ca-certificates", "/etc/ca-certificates/extracted"};

struct Journal {
  std::string tool;                  // absolute
  std::vector<std::string> anchors;  // our files in the directory for them
  std::string roots;                 // PEM
  HostFiles before;
  HostFiles after;
};

fs::path directory_of(const StateDir& state) {
  return state.ca().directory / "installed";
}
fs::path journal_of(const StateDir& state) {
  return directory_of(state) / "journal.json";
}

json::object to_json(const HostFiles& files) {
  json::object object;
  for (const auto& [path, file] : files) {
    object[path] = {{"link", file.is_link},
                    {"content", file.content},
                    {"mode", file.mode},
                    {"user", file.user},
                    {"group", file.group}};
  }
  return object;
}

HostFiles files_from(const json::value& value) {
  HostFiles files;
  for (const auto& [path, file] : value.as_object()) {
    files[std::string(path)] = {file.at("link").as_bool(), std::string(file.at("content").as_string()),
                                file.at("mode").to_number<mode_t>(), file.at("user").to_number<uid_t>(),
                                file.at("group").to_number<gid_t>()};
  }
  return files;
}

std::expected<void, Error> write_journal(const StateDir& state, const Journal& journal) {
  const json::object object{{"tool", journal.tool},
                            {"anchors", json::array(journal.anchors.begin(), journal.anchors.end())},
                            {"roots", journal.roots},
                            {"before", to_json(journal.before)},
                            {"after", to_json(journal.after)}};
  auto written = ca::publish(journal_of(state), json::serialize(object), 0600, ca::Existing::replace);
  if (!written) return std::unexpected(to_error(written.error()));
  return {};
}

// Nothing when there is none.
std::expected<std::optional<Journal>, Error> read_journal(const StateDir& state) {
  if (!is_installed(state)) return std::nullopt;
  auto text = read_host_file(journal_of(state));
  if (!text) return std::unexpected(text.error());
  try {
    const json::value value = json::parse(*text);
    Journal journal;
    journal.tool = value.at("tool").as_string();
    for (const auto& anchor : value.at("anchors").as_array())
      journal.anchors.emplace_back(anchor.as_string());
    journal.roots = value.at("roots").as_string();
    journal.before = files_from(value.at("before"));
    journal.after = files_from(value.at("after"));
    return journal;
  } catch (const std::exception& malformed) {
    return std::unexpected(
        Error{journal_of(state).string() + ": " + malformed.what(),
              "it is damaged: bring the files back that " + directory_of(state).string() + " has copies of"});
  }
}

std::optional<std::string> find_tool(const char* name) {
  for (const char* directory : {"/usr/sbin", "/usr/bin", "/sbin", "/bin"}) {
    const std::string path = std::string(directory) + "/" + name;
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return std::nullopt;
}

struct FoundWay {
  fs::path anchors;
  std::string tool;
};
std::expected<FoundWay, Error> find_way() {
  for (const Way& way : ways) {
    const auto tool = find_tool(way.tool);
    std::error_code error;
    if (tool && fs::is_directory(way.anchors, error)) return FoundWay{way.anchors, *tool};
  }
  return std::unexpected(Error{"this host has no known way to take in a root",
                               "install its package ca-certificates, or give programs the file that `weir ca "
                               "export --format bundle` writes"});
}

// With nothing of the caller's environment; its output goes to standard error.
std::expected<void, Error> run_tool(const std::string& tool) {
  const pid_t child = ::fork();
  if (child < 0) return std::unexpected(Error{std::string("fork: ") + std::strerror(errno), ""});
  if (child == 0) {
    const int nothing = ::open("/dev/null", O_RDONLY);
    ::dup2(nothing, STDIN_FILENO);
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
    const char* environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", nullptr};
    ::execle(tool.c_str(), tool.c_str(), static_cast<char*>(nullptr), environment);
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status == 0) return {};
  return std::unexpected(Error{tool + " failed", "see above"});
}

bool is_made_by_tools(const fs::path& file) {
  return std::ranges::any_of(made_by_tools,
                             [&](const std::string place) { return file.string().starts_with(place + "/"); });
}

std::vector<fs::path> watched(const HostFiles& known) {
  std::vector<fs::path> places(std::begin(made_by_tools), std::end(made_by_tools));
  std::set<fs::path> stores;
  for (const fs::path& store : ca::jdk_stores({})) stores.insert(store);
  for (const auto& [path, file] : known) stores.insert(path);
  for (const fs::path& store : stores)
    if (!is_made_by_tools(store)) places.push_back(store);
  return places;
}

std::vector<std::string> split_pem(std::string_view roots_pem) {
  constexpr std::string_view end = "-----END CERTIFICATE-----\n";
  std::vector<std::string> roots;
  for (std::size_t at = 0; (at = roots_pem.find(end)) != std::string_view::npos;) {
    roots.emplace_back(roots_pem.substr(0, at + end.size()));
    roots_pem.remove_prefix(at + end.size());
  }
  return roots;
}

std::expected<void, Error> write_anchors(const Journal& journal) {
  const auto roots = split_pem(journal.roots);
  for (std::size_t i = 0; i < roots.size(); ++i) {
    auto written = ca::publish_if_changed(journal.anchors[i], roots[i], 0644);
    if (!written) return std::unexpected(to_error(written.error()));
  }
  return {};
}

// Removes it, and the links in the tools' directories that lead to it or to a link that does.
void remove_anchor(const std::string& anchor) {
  std::set<std::string> targets{anchor};
  std::error_code error;
  fs::remove(anchor, error);
  for (int depth = 0; depth < 2; ++depth) {
    std::set<std::string> links;
    for (const char* place : made_by_tools) {
      for (fs::directory_iterator entry(place, error), end; !error && entry != end; entry.increment(error)) {
        if (!entry->is_symlink(error)) continue;
        if (targets.contains(fs::read_symlink(entry->path(), error).string())) links.insert(entry->path());
      }
    }
    targets.clear();
    for (const std::string& link : links) {
      targets.insert(fs::path(link).filename());
      fs::remove(link, error);
    }
  }
}

// JDKs that bring a store of their own, and the distribution's where its program left ours out or an earlier
// one of ours in.
void mend_stores(const std::string& roots, const std::string& gone, HostTrustDone& done) {
  const auto ours = ca::certificates_in(roots);
  const auto not_ours = ca::certificates_in(gone);
  for (const fs::path& store : ca::jdk_stores({})) {
    const auto content = read_own_host_file(store);
    if (!content) {
      done.notes.push_back("left as it is: " + content.error().what);
      continue;
    }
    const auto present = ca::certificates_in(*content);
    const bool right = std::ranges::includes(present, ours) &&
                       std::ranges::none_of(not_ours, [&](const auto& der) { return present.contains(der); });
    if (right) continue;
    auto merged = ca::without_roots(*content, gone);
    if (merged) merged = ca::with_roots(*merged, roots);
    const std::vector<fs::path> just_it{store};
    const auto like = look_at_host_files(just_it, {});
    if (!merged) {
      done.notes.push_back(store.string() + ": left as it is: " + merged.error());
    } else if (like && like->contains(store)) {
      if (auto written = write_host_file(store, like->at(store), *merged); !written)
        done.notes.push_back(written.error().what);
    }
  }
}

const HostFile* find(const HostFiles& files, const std::string& path) {
  const auto found = files.find(path);
  return found == files.end() ? nullptr : &found->second;
}

bool same(const HostFile* one, const HostFile* other) {
  return one == nullptr ? other == nullptr : other != nullptr && *one == *other;
}

class Undoing {
 public:
  Undoing(const StateDir& state, const Journal& journal, HostTrustDone& done)
      : journal_(journal), copies_(directory_of(state)), done_(done) {}

  std::expected<void, Error> all() {
    const auto now = look_at_host_files(watched(journal_.before), {});
    if (!now) return std::unexpected(now.error());
    std::set<std::string> paths;
    for (const HostFiles* files : {&journal_.before, &journal_.after, &*now})
      for (const auto& [path, file] : *files) paths.insert(path);
    for (const std::string& path : paths)
      if (auto undone = one(path, find(*now, path)); !undone) return undone;
    return {};
  }

 private:
  std::expected<void, Error> one(const std::string& path, const HostFile* now) {
    const HostFile* before = find(journal_.before, path);
    const HostFile* after = find(journal_.after, path);
    if (same(now, before)) return {};
    // One that was cut short has not written down what it did.
    const bool cut_short = journal_.after.empty();
    const bool by_us = cut_short || !same(before, after);
    if (by_us) {
      const bool as_we_left_it = same(now, after) || (cut_short && now != nullptr && now->is_link);
      if (before == nullptr && as_we_left_it && now != nullptr) return take_away(path);
      if (before != nullptr && (now == nullptr || as_we_left_it)) return put_back(path, *before, copies_);
    }
    return now == nullptr || now->is_link ? std::expected<void, Error>()
                                          : made_anew(path, by_us ? before : nullptr, *now);
  }

  static std::expected<void, Error> take_away(const std::string& path) {
    std::error_code error;
    fs::remove(path, error);
    if (error) return std::unexpected(Error{path + ": " + error.message(), "remove it"});
    return {};
  }

  // A file that somebody (the distribution's program, too) wrote since: with the same certificates but ours,
  // or with others.
  std::expected<void, Error> made_anew(const std::string& path, const HostFile* before, const HostFile& now) {
    const auto content = read_own_host_file(path);
    if (!content) return {};  // not what we would have written
    auto certificates = ca::certificates_in(*content);
    const std::size_t all = certificates.size();
    for (const std::string& der : ca::certificates_in(journal_.roots)) certificates.erase(der);
    if (before != nullptr && !before->is_link && !certificates.empty()) {
      const auto kept = read_host_file(copies_ / before->content);
      if (!kept) return std::unexpected(kept.error());
      if (certificates == ca::certificates_in(*kept)) return put_back(path, *before, copies_);
    }
    if (certificates.size() == all) return {};
    const auto stripped = ca::without_roots(*content, journal_.roots);
    if (!stripped)
      return std::unexpected(Error{path + ": " + stripped.error(), "take weir's root out by hand"});
    done_.notes.push_back(path + " has changed since the installation: it lost weir's root alone");
    return write_host_file(path, now, *stripped);
  }

  const Journal& journal_;
  const fs::path copies_;
  HostTrustDone& done_;
};

bool is_complete(const Journal& journal, std::string_view roots_pem) {
  return journal.roots == roots_pem && !journal.after.empty() &&
         std::ranges::all_of(journal.anchors, [](const auto& file) { return ca::is_present(file); });
}

std::string gone_roots(std::string_view earlier, std::string_view roots_pem) {
  std::string gone;
  for (const std::string& root : split_pem(earlier))
    if (roots_pem.find(root) == std::string_view::npos) gone += root;
  return gone;
}

// What is going to be, written down together with what was.
std::expected<Journal, Error> plan(const StateDir& state, const FoundWay& way, const Journal& earlier,
                                   std::string_view roots_pem) {
  const fs::path copies = directory_of(state);
  if (auto made = ca::prepare_directory(copies); !made) return std::unexpected(to_error(made.error()));
  ::chmod(copies.c_str(), 0700);
  Journal planned{way.tool, {}, std::string(roots_pem), earlier.before, {}};
  if (planned.before.empty()) {
    auto before = look_at_host_files(watched({}), copies);
    if (!before) return std::unexpected(before.error());
    planned.before = std::move(*before);
  }
  for (const std::string& root : split_pem(roots_pem)) {
    const std::string name = "weir-" + ca::sha256_hex(root).substr(0, 16) + ".crt";
    planned.anchors.push_back((way.anchors / name).string());
  }
  Journal both = planned;  // until the former ones are gone
  both.anchors.insert(both.anchors.end(), earlier.anchors.begin(), earlier.anchors.end());
  both.roots += gone_roots(earlier.roots, roots_pem);
  if (auto written = write_journal(state, both); !written) return std::unexpected(written.error());
  return planned;
}

std::expected<void, Error> need_root() {
  if (::geteuid() == 0) return {};
  return std::unexpected(Error{"changing what the host trusts needs root", "run it with sudo"});
}

}  // namespace

bool is_installed(const StateDir& state) {
  return ca::is_present(journal_of(state));
}

std::expected<HostTrustDone, Error> install_on_host(const StateDir& state, std::string_view roots_pem) {
  if (auto root = need_root(); !root) return std::unexpected(root.error());
  const auto way = find_way();
  if (!way) return std::unexpected(way.error());
  auto journal = read_journal(state);
  if (!journal) return std::unexpected(journal.error());
  Journal earlier = journal->value_or(Journal());
  if (is_complete(earlier, roots_pem)) return HostTrustDone{};
  auto planned = plan(state, *way, earlier, roots_pem);
  if (!planned) return std::unexpected(planned.error());
  if (auto written = write_anchors(*planned); !written) return std::unexpected(written.error());
  for (const std::string& anchor : earlier.anchors)
    if (std::ranges::find(planned->anchors, anchor) == planned->anchors.end()) remove_anchor(anchor);
  if (auto ran = run_tool(planned->tool); !ran) return std::unexpected(ran.error());
  HostTrustDone done{true, {}};
  mend_stores(planned->roots, gone_roots(earlier.roots, roots_pem), done);
  auto after = look_at_host_files(watched(planned->before), {});
  if (!after) return std::unexpected(after.error());
  planned->after = std::move(*after);
  if (auto written = write_journal(state, *planned); !written) return std::unexpected(written.error());
  return done;
}

std::expected<HostTrustDone, Error> uninstall_from_host(const StateDir& state) {
  if (auto root = need_root(); !root) return std::unexpected(root.error());
  const auto journal = read_journal(state);
  if (!journal) return std::unexpected(journal.error());
  if (!*journal) return HostTrustDone{};
  HostTrustDone done{true, {}};
  for (const std::string& anchor : (*journal)->anchors) remove_anchor(anchor);
  if (auto ran = run_tool((*journal)->tool); !ran)
    done.notes.push_back(ran.error().what + ": the files are brought back from copies");
  if (auto undone = Undoing(state, **journal, done).all(); !undone) return std::unexpected(undone.error());
  std::error_code error;
  fs::remove_all(directory_of(state), error);
  if (error)
    return std::unexpected(Error{directory_of(state).string() + ": " + error.message(), "remove it"});
  return done;
}

}  // namespace weir::agent
