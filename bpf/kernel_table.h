// Reading a BPF hash by the raw system call, which a process without capabilities may make on a descriptor
// that it was handed. Internal to this room. Each function gives false with errno set when it can't.
#pragma once

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

namespace weir::bpf {

class KernelTable {
 public:
  explicit KernelTable(int descriptor) : descriptor_(descriptor) {}  // not taken over

  template <class Key, class Value>
  bool look_up(const Key& key, Value& value) const {
    bpf_attr attributes;
    std::memset(&attributes, 0, sizeof attributes);
    attributes.map_fd = static_cast<__u32>(descriptor_);
    attributes.key = reinterpret_cast<__u64>(&key);
    attributes.value = reinterpret_cast<__u64>(&value);
    return ::syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attributes, sizeof attributes) == 0;
  }
  // Takes all values out, in no order; what was taken before an error is there, too.
  template <class Key, class Value>
  bool take_all(std::vector<Value>& values) const {
    constexpr std::size_t kBatch = 1024;
    std::vector<Key> keys(kBatch);
    std::uint32_t place = 0;
    for (bool first = true;; first = false) {
      const std::size_t held = values.size();
      values.resize(held + kBatch);
      bpf_attr attributes;
      std::memset(&attributes, 0, sizeof attributes);
      attributes.batch.map_fd = static_cast<__u32>(descriptor_);
      attributes.batch.in_batch = first ? 0 : reinterpret_cast<__u64>(&place);
      attributes.batch.out_batch = reinterpret_cast<__u64>(&place);
      attributes.batch.keys = reinterpret_cast<__u64>(keys.data());
      attributes.batch.values = reinterpret_cast<__u64>(values.data() + held);
      attributes.batch.count = kBatch;
      const bool more =
          ::syscall(SYS_bpf, BPF_MAP_LOOKUP_AND_DELETE_BATCH, &attributes, sizeof attributes) == 0;
      const int error = more ? 0 : errno;
      values.resize(held + (more || error == ENOENT ? attributes.batch.count : 0));
      if (!more) return error == ENOENT;
    }
  }

 private:
  int descriptor_;
};

}  // namespace weir::bpf
