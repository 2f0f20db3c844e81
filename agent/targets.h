// Finds the files that the native tap probes and has them attached: the host's own TLS libraries before
// anybody maps them, and each file with a TLS library's code that a process maps. By inode, once a file,
// whoever maps it. What can't be read is told to the engine, of each process that maps it.
//
// One thread calls scan() and look(); counts() is thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "agent/channel.h"
#include "attribution/events.h"
#include "bpf/filters.h"
#include "bpf/mappings.h"
#include "bpf/probes/library_cache.h"
#include "bpf/probes/tls_probes.h"

namespace weir::agent {

class Targets {
 public:
  // `filters`: libraries that the configuration leaves out are not probed.
  // `changes`: file_changes.h. `exec_event`: borrowed; who waits to be started goes before all else.
  Targets(BrokerClient& broker, EventPublisher& publisher, bpf::Filters filters, Descriptor changes,
          int exec_event)
      : broker_(broker),
        publisher_(publisher),
        filters_(std::move(filters)),
        changes_(std::move(changes)),
        exec_event_(exec_event) {}

  // Looks at the known libraries and at all mappings, attaches what is new, and forgets what nobody maps any
  // more.
  void scan();
  // A process has just mapped a file.
  void look(const bpf::Mapped& mapped);
  // Files were changed since they were looked at: what was found in them holds no longer. True when all
  // mappings are to be looked at again.
  bool look_at_changes();
  int changes_descriptor() const { return changes_.get(); }
  // Programs wait to be started, perhaps.
  void look_at_execs();

  struct Counts {
    std::uint64_t attached = 0;  // files now
    std::uint64_t failed = 0;
    std::string last_error;
  };
  Counts counts() const;

 private:
  struct File {
    std::vector<std::uint32_t> targets;  // the broker's handles
    std::vector<TlsLibraryNoted> notes;  // of what it contains, for a process yet to be named
    bool known = false;                  // the host's own: stays probed though nobody maps it now
    Time used{};                         // when it was last seen mapped, or about to be
    bool unreadable = false;
    bool counted = false;    // as attached
    std::int32_t watch = 0;  // of its content
  };

  void warm_up();
  std::map<bpf::FileIdentity, File>::iterator forget(std::map<bpf::FileIdentity, File>::iterator entry);
  static bool is_fresh(const File& file);
  void scan_known_libraries();
  // Looks at a process's mappings (0: at all), and notes what is new, or unreadable, of each.
  bool look_at(std::uint32_t pid, std::set<bpf::FileIdentity>& mapped);
  void look_at(const bpf::Mapping& mapping);
  void consider(const BrokerClient::Answer& answer, const std::string& name, bool known);
  // Finds what a file contains, and has it attached.
  void search(int descriptor, const std::string& name, std::uint32_t handle, File& into);
  void attach(std::uint32_t file, const bpf::FoundLibrary& library, File& into, std::string& error);
  static void note(TlsLibraryNoted found, File& into);
  void count(File& file);
  void publish(const File& file, std::uint32_t pid);
  void release(const File& file);
  void failed(const std::string& why);

  BrokerClient& broker_;
  EventPublisher& publisher_;
  const bpf::Filters filters_;
  std::map<bpf::FileIdentity, File> files_;
  bpf::LibraryCache cache_;
  Descriptor changes_;
  int exec_event_;  // readable when a program waits to be started; -1: none does
  std::map<std::int32_t, bpf::FileIdentity> watched_;
  // Files under overlayfs, as stat() tells of them: whether a process that maps one is to be looked at again.
  std::map<bpf::FileIdentity, bool> aliases_;
  mutable std::mutex mutex_;
  Counts counts_;
};

}  // namespace weir::agent
