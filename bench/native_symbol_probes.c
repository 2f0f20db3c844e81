// Symbol probes that do nothing: a program of two instructions at the entry and the return (uprobe and
// uretprobe) of each function of a file, as a tracer places them. The floor of what capturing there costs.
// Made and run by bench/native.
//
//   native_symbol_probes FILE OFFSET...      says "ready", stays until stdin ends
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Noreturn void fail(const char* what) {
  perror(what);
  exit(1);
}

static int load_empty_program(void) {
  const struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
  union bpf_attr attributes = {
      .prog_type = BPF_PROG_TYPE_KPROBE,
      .insns = (uintptr_t)code,
      .insn_cnt = sizeof(code) / sizeof(*code),
      .license = (uintptr_t)"GPL",
  };
  int program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof(attributes));
  if (program < 0) fail("cannot load");
  return program;
}

static unsigned uprobe_type(void) {
  FILE* file = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
  unsigned type = 0;
  if (!file || fscanf(file, "%u", &type) != 1) fail("no uprobes");
  fclose(file);
  return type;
}

static void attach(int program, unsigned type, const char* path, uint64_t offset, int at_return) {
  struct perf_event_attr attributes = {
      .type = type,
      .size = sizeof(attributes),
      .config = at_return,  // of its bits the first: /sys/bus/event_source/devices/uprobe/format/retprobe
      .uprobe_path = (uintptr_t)path,
      .probe_offset = offset,
  };
  int event = (int)syscall(SYS_perf_event_open, &attributes, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
  if (event < 0 || ioctl(event, PERF_EVENT_IOC_SET_BPF, program) || ioctl(event, PERF_EVENT_IOC_ENABLE, 0))
    fail("cannot attach");
}

int main(int count, char** arguments) {
  int program = load_empty_program();
  unsigned type = uprobe_type();
  for (int i = 2; i < count; i++)
    for (int at_return = 0; at_return < 2; at_return++)
      attach(program, type, arguments[1], strtoull(arguments[i], NULL, 0), at_return);
  puts("ready");
  fflush(stdout);
  while (getchar() != EOF) continue;
  return 0;
}
