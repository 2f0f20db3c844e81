// `weir ca`: the local certificate authority, as files.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "agent/command.h"
#include "agent/command_line.h"
#include "agent/commands/ca_commands.h"
#include "agent/host_trust.h"
#include "agent/state.h"
#include "agent/trust_files.h"
#include "ca/rotation.h"
#include "ca/truststore.h"

namespace weir::agent {
namespace {

std::string describe(const ca::RootDescription& root, const ca::Paths& paths) {
  std::ostringstream text;
  const std::time_t end = std::chrono::system_clock::to_time_t(root.not_after);
  std::tm utc{};
  ::gmtime_r(&end, &utc);
  text << "subject      " << root.subject << '\n'
       << "sha256       " << root.sha256_fingerprint << '\n'
       << "valid until  " << std::put_time(&utc, "%Y-%m-%dT%H:%M:%SZ") << '\n'
       << "certificate  " << paths.certificate().string()
       << (root.in_overlap ? " (with the former root: a rotation is under way)" : "") << '\n'
       << "key          " << paths.key().string() << '\n';
  return text.str();
}

int show_root(const StateDir& state) {
  const auto root = ca::describe_root(state.ca());
  if (!root) return report(to_error(root.error()));
  std::cout << describe(*root, state.ca());
  return 0;
}

int init(const StateDir& state) {
  auto authority = ca::Authority::load_or_create(state.ca());
  if (!authority) return report(to_error(authority.error()));
  return show_root(state);
}

// Its owner is told what is wrong with it, too.
int show(const StateDir& state) {
  if (auto found = find_authority(state); !found) return report(found.error());
  struct stat status{};
  const bool is_owner = ::stat(state.ca().directory.c_str(), &status) == 0 && status.st_uid == ::geteuid();
  return is_owner ? init(state) : show_root(state);
}

int copy_out(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return report({file.string() + ": " + std::strerror(errno), ""});
  std::cout << in.rdbuf() << std::flush;
  return std::cout ? 0 : report({"standard output: write failed", ""});
}

using WriteStore = std::expected<std::size_t, ca::Error> (*)(const std::filesystem::path&, std::string_view);

// The stores that merge the system's roots are made afresh, as these change under us.
int export_merged(const StateDir& state, WriteStore write) {
  std::ifstream in(state.ca().certificate());
  std::stringstream root;
  if (!in || !(root << in.rdbuf()))
    return report({state.ca().certificate().string() + ": " + std::strerror(errno), ""});
  std::string directory = (std::filesystem::temp_directory_path() / "weir-XXXXXX").string();
  if (::mkdtemp(directory.data()) == nullptr) return report({directory + ": can't be made", ""});
  const std::filesystem::path file = std::filesystem::path(directory) / "store";
  auto written = write(file, root.str());
  const int status = written ? copy_out(file) : report(to_error(written.error()));
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  return status;
}

int export_as(const StateDir& state, const std::string& format) {
  if (auto found = find_authority(state); !found) return report(found.error());
  if (format == "pem") return copy_out(state.ca().certificate());
  if (format == "bundle") return export_merged(state, ca::write_bundle);
  if (format == "pkcs12") return export_merged(state, ca::write_pkcs12);
  return export_merged(state, ca::write_jks);
}

// A running agent takes the new root without losing a connection.
std::expected<void, Error> tell_agent(const StateDir& state) {
  const auto broker = running_broker(state);
  if (!broker) return {};
  auto authority = ca::Authority::load_or_create(state.ca());
  if (!authority) return std::unexpected(to_error(authority.error()));
  ::kill(*broker, SIGHUP);
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < limit) {
    const auto agent = find_agent(state);
    if (agent && agent->ca_sha256 == (*authority)->sha256_fingerprint() &&
        agent->ca_overlap == (*authority)->in_overlap())
      return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return std::unexpected(Error{"the agent (pid " + std::to_string(*broker) + ") has not taken the new root",
                               "see its log, and start it anew"});
}

// A host on which the root was installed trusts the next one, too.
std::expected<void, Error> follow_on_host(const StateDir& state, std::string_view roots) {
  if (!is_installed(state)) return {};
  auto done = install_on_host(state, roots);
  if (!done) return std::unexpected(done.error());
  return {};
}

int rotate(const StateDir& state, bool without_overlap) {
  const auto trust = [&](std::string_view roots) -> std::expected<void, ca::Error> {
    auto written = write_trust_files(state, roots);
    if (written) written = follow_on_host(state, roots);
    if (!written) return std::unexpected(ca::Error{written.error().what, written.error().remedy});
    return {};
  };
  if (auto begun = ca::begin_rotation(state.ca(), {without_overlap}, trust); !begun)
    return report(to_error(begun.error()));
  if (auto told = tell_agent(state); !told) return report(told.error());
  return show(state);
}

// First the agent stops sending what the old root has signed, then nothing trusts that root any more.
int finish_rotation(const StateDir& state) {
  if (auto finished = ca::finish_rotation(state.ca()); !finished) return report(to_error(finished.error()));
  if (auto told = tell_agent(state); !told) return report(told.error());
  auto authority = ca::Authority::load_or_create(state.ca());
  if (!authority) return report(to_error(authority.error()));
  const std::string root = (*authority)->roots_pem();
  if (auto written = write_trust_files(state, root); !written) return report(written.error());
  if (auto done = follow_on_host(state, root); !done) return report(done.error());
  return show(state);
}

void add_rotate_command(CLI::App& command, Action& action) {
  CLI::App* rotate_command = command.add_subcommand("rotate", "Replace it by a new one");
  rotate_command->footer(
      "Example:\n  weir ca rotate\n  weir ca rotate --finish    (once no program from before it runs)\n\n"
      "A running agent takes the new root at once. Until --finish both roots are trusted, and programs that "
      "know only the old one go on.");
  auto state_dir = add_state_dir_option(*rotate_command);
  auto finish = std::make_shared<bool>(false);
  auto without_overlap = std::make_shared<bool>(false);
  auto* finish_flag = rotate_command->add_flag("--finish", *finish, "drop the old root");
  rotate_command
      ->add_flag("--without-overlap", *without_overlap,
                 "also when the old root can't sign the new one: programs that run must be started anew")
      ->excludes(finish_flag);
  rotate_command->callback([=, &action] {
    action = [=] { return *finish ? finish_rotation(*state_dir) : rotate(*state_dir, *without_overlap); };
  });
}

}  // namespace

std::expected<void, Error> find_authority(const StateDir& state) {
  std::error_code failed;
  const auto certificate = state.ca().certificate();
  if (std::filesystem::exists(certificate, failed)) return {};
  if (failed && failed != std::errc::not_a_directory)
    return std::unexpected(
        Error{certificate.string() + ": " + failed.message(), "run this as the directory's owner"});
  return std::unexpected(
      Error{"no certificate authority in " + state.path.string(), "make one with `weir ca init`"});
}

void add_ca_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("ca", "The local certificate authority");
  command->require_subcommand(1);
  command->footer("Example:\n  weir ca export --format pem > weir-root.pem");

  CLI::App* init_command = command->add_subcommand("init", "Make it, if there is none");
  init_command->footer("Example:\n  weir ca init");
  auto init_dir = add_state_dir_option(*init_command);
  init_command->callback([init_dir, &action] { action = [init_dir] { return init(*init_dir); }; });

  CLI::App* show_command = command->add_subcommand("show", "Its name, fingerprint and files");
  show_command->footer("Example:\n  weir ca show");
  auto show_dir = add_state_dir_option(*show_command);
  show_command->callback([show_dir, &action] { action = [show_dir] { return show(*show_dir); }; });

  add_rotate_command(*command, action);
  add_ca_install_commands(*command, action);

  CLI::App* export_command = command->add_subcommand("export", "Write a trust store to standard output");
  export_command->footer(
      "Example:\n  weir ca export --format pkcs12 > truststore.p12    (password: changeit)");
  auto export_dir = add_state_dir_option(*export_command);
  auto format = std::make_shared<std::string>("pem");
  export_command
      ->add_option("--format", *format,
                   "pem: the root alone (in a rotation, both); the others: with the system's roots")
      ->check(CLI::IsMember({"pem", "bundle", "pkcs12", "jks"}))
      ->capture_default_str();
  export_command->callback([export_dir, format, &action] {
    action = [export_dir, format] { return export_as(*export_dir, *format); };
  });
}

}  // namespace weir::agent
