// The child makes no call that is not safe after a fork of a threaded process.
#include "bpf/self_test.h"

#include <fcntl.h>
#include <link.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>

// 2x + 1, with x kept in the red zone (System V AMD64 ABI, 3.2.2) over the whole body. It begins as most
// probed functions do.
asm(R"(
  .pushsection .text
  .balign 16
  .type weir_probed, @function
weir_probed:
  sub $8, %rsp
  mov %rdi, -16(%rsp)
  lea 1(%rdi), %rax
weir_probed_nop:
  .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
  add -16(%rsp), %rax
  add $8, %rsp
weir_probed_return:
  ret
  .size weir_probed, . - weir_probed
  .popsection
)");
extern "C" long weir_probed(long);
extern "C" const char weir_probed_return[];
extern "C" const char weir_probed_nop[];

namespace weir::bpf {
namespace {

constexpr std::chrono::seconds kLimit{10};
constexpr int kWrongResult = 1;
constexpr int kNoFilter = 2;

// Where in its file the code at an address stands.
std::optional<std::uint64_t> file_offset(const void* address) {
  struct Search {
    std::uintptr_t address;
    std::optional<std::uint64_t> offset;
  } search{reinterpret_cast<std::uintptr_t>(address), {}};
  const auto look = [](dl_phdr_info* object, std::size_t, void* data) {
    auto& wanted = *static_cast<Search*>(data);
    for (int i = 0; i < object->dlpi_phnum; ++i) {
      const auto& segment = object->dlpi_phdr[i];
      const std::uintptr_t start = object->dlpi_addr + segment.p_vaddr;
      if (segment.p_type == PT_LOAD && wanted.address >= start && wanted.address < start + segment.p_filesz)
        wanted.offset = wanted.address - start + segment.p_offset;
    }
    return 1;  // the first object is the executable
  };
  ::dl_iterate_phdr(look, &search);
  return search.offset;
}

bool results_are_right() {
  for (long i = 0; i < static_cast<long>(self_test_calls / 2); ++i)
    if (weir_probed(i) != 2 * i + 1) return false;
  return true;
}

// AddressSanitizer makes a system call of its own before a call that doesn't return: not one of strict
// mode's.
[[noreturn, gnu::no_sanitize_address]] void leave(int status) {
  // Strict mode knows exit, not exit_group.
  for (;;) ::syscall(SYS_exit, status);
}

[[noreturn, gnu::no_sanitize_address]] void be_probed() {
  if (!results_are_right()) leave(kWrongResult);
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) leave(kNoFilter);
  leave(results_are_right() ? 0 : kWrongResult);
}

// The wait status; nothing when the child had to be ended.
std::optional<int> wait_for(pid_t child) {
  const auto limit = std::chrono::steady_clock::now() + kLimit;
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > limit) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      return std::nullopt;
    }
    ::poll(nullptr, 0, 1);
  }
  return status;
}

}  // namespace

std::expected<std::vector<ProbeSite>, std::string> self_test_sites(std::uint32_t program) {
  const auto entry = file_offset(reinterpret_cast<const void*>(&weir_probed));
  const auto leave = file_offset(weir_probed_return);
  if (!entry || !leave) return std::unexpected("weir's own code is not where its file says");
  return std::vector<ProbeSite>{{program, *entry, 0}, {program, *leave, 0}};
}

std::optional<std::uint64_t> self_test_nop() {
  return file_offset(weir_probed_nop);
}

std::expected<void, std::string> run_probed_child() {
  const pid_t child = ::fork();
  if (child < 0) return std::unexpected(std::string("fork: ") + std::strerror(errno));
  if (child == 0) be_probed();
  const auto status = wait_for(child);
  if (!status) return std::unexpected("a probed process hangs");
  if (WIFSIGNALED(*status))
    return std::unexpected("a probed process is killed (signal " + std::to_string(WTERMSIG(*status)) + ")");
  if (WEXITSTATUS(*status) == kNoFilter) return std::unexpected("no seccomp filter to try");
  if (WEXITSTATUS(*status) != 0) return std::unexpected("a probed function gives wrong results");
  return {};
}

}  // namespace weir::bpf
