// A TLS library that a test calls itself, to compare what was read off its file with its living objects.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <string>

namespace weir::bpf {

class LiveLibrary {
 public:
  explicit LiveLibrary(const std::string& name) : handle_(::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {}
  bool is_there() const { return handle_ != nullptr; }
  template <class Function>
  Function* get(const char* name) const {
    auto* function = reinterpret_cast<Function*>(::dlsym(handle_, name));
    EXPECT_NE(function, nullptr) << name;
    return function;
  }

 private:
  void* handle_;  // never closed: OpenSSL has handlers for the process's end
};

constexpr char kOlderOpenSsl[] = "libssl.so.1.1";  // the only one that a machine may be without

}  // namespace weir::bpf
