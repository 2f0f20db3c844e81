// Reading a BPF hash by the raw system call, which a process without capabilities may make on a descriptor
// that it was handed. Internal to this room. Each function gives false with errno set when it can't.
#pragma once

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace weir::bpf {

class KernelTable {
 public:
  explicit KernelTable(int descriptor) : descriptor_(descriptor) {}  // not taken over

  template <class Key, class Value>
  bool look_up(const Key& key, Value& value) const {
    return call(BPF_MAP_LOOKUP_ELEM, &key, &value);
  }
  template <class Key, class Value>
  bool look_up_and_delete(const Key& key, Value& value) const {
    return call(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &key, &value);
  }
  template <class Key>
  bool any_key(Key& key) const {
    return call(BPF_MAP_GET_NEXT_KEY, nullptr, &key);
  }

 private:
  bool call(bpf_cmd command, const void* key, void* out) const {
    bpf_attr attributes;
    std::memset(&attributes, 0, sizeof attributes);
    attributes.map_fd = static_cast<__u32>(descriptor_);
    attributes.key = reinterpret_cast<__u64>(key);
    attributes.value = reinterpret_cast<__u64>(out);  // shares its place with next_key
    return ::syscall(SYS_bpf, command, &attributes, sizeof attributes) == 0;
  }

  int descriptor_;
};

}  // namespace weir::bpf
