// The ways out of functions, on code written for this.
#include "bpf/probes/machine_code.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace weir::bpf {
namespace {

using Bytes = std::vector<std::uint8_t>;
using Returns = std::vector<std::uint64_t>;

// A file of a few functions, data and pointers.
class Program : public CodeSource {
 public:
  Program& function(std::uint64_t address, Bytes code) {
    functions_[address] = std::move(code);
    return *this;
  }
  Program& data(std::uint64_t address, Bytes bytes) {
    data_[address] = std::move(bytes);
    return *this;
  }
  Program& pointer(std::uint64_t address, std::uint64_t target) {
    pointers_[address] = target;
    return *this;
  }
  std::expected<Returns, std::string> returns() {
    const auto& [address, code] = *functions_.begin();
    const auto call = read_call({address, code}, *this);
    if (!call) return std::unexpected(call.error());
    return call->returns;
  }
  std::string error() {
    const auto found = returns();
    return found ? "" : found.error();
  }

  std::optional<FunctionCode> function_at(std::uint64_t address) override {
    for (const auto& [start, code] : functions_)
      if (address - start < code.size()) return FunctionCode{start, code};
    return std::nullopt;
  }
  bool read_at(std::uint64_t address, std::span<std::uint8_t> into) override {
    for (const auto* parts : {&functions_, &data_}) {
      for (const auto& [start, bytes] : *parts) {
        if (address < start || address - start > bytes.size() ||
            into.size() > bytes.size() - (address - start))
          continue;
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(address - start), into.size(), into.begin());
        return true;
      }
    }
    return false;
  }
  std::optional<std::uint64_t> pointer_at(std::uint64_t address) override {
    const auto found = pointers_.find(address);
    return found == pointers_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  std::map<std::uint64_t, Bytes> functions_, data_;
  std::map<std::uint64_t, std::uint64_t> pointers_;
};

Program only(Bytes code) {
  Program program;
  program.function(0x1000, std::move(code));
  return program;
}

TEST(FindReturns, ReturnsAreInstructionsNotBytes) {
  // test edi,edi; je +1; ret; xor eax,eax; ret
  EXPECT_EQ(only({0x85, 0xff, 0x74, 0x01, 0xc3, 0x31, 0xc0, 0xc3}).returns(), (Returns{0x1004, 0x1007}));
  // mov eax,0xc3c3c3c3; ret
  EXPECT_EQ(only({0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3}).returns(), (Returns{0x1005}));
  // jmp +0; ret
  EXPECT_EQ(only({0xeb, 0x00, 0xc3}).returns(), (Returns{0x1002}));
}

TEST(FindReturns, CodeThatCanNotBeFollowedIsAnError) {
  EXPECT_EQ(only({0x90}).error(), "has no return");
  EXPECT_EQ(only({}).error(), "has no return");
  EXPECT_EQ(only({0x0f}).error(), "has code that can't be decoded");
  EXPECT_EQ(only({0xff, 0xe0, 0xc3}).error(), "leaves through a pointer");              // jmp rax
  EXPECT_EQ(only({0xff, 0x60, 0x10, 0xc3}).error(), "leaves through a pointer");        // jmp [rax+16]
  EXPECT_EQ(only({0xff, 0x25, 0, 0, 0, 0, 0xc3}).error(), "leaves through a pointer");  // jmp [rip]
  EXPECT_EQ(only({0xe9, 0x00, 0x10, 0x00, 0x00, 0xc3}).error(), "leaves by a jump to code of unknown extent");
  EXPECT_EQ(only({0x74, 0x7f, 0xc3}).error(), "leaves by a jump to code of unknown extent");  // je elsewhere
}

TEST(FindReturns, JumpsToOtherFunctionsAreFollowed) {
  // je to the middle of the second; jmp to the third, which jumps back to the first
  Program program = only({0x0f, 0x84, 0xfb, 0x0f, 0x00, 0x00, 0xe9, 0xf5, 0x1f, 0x00, 0x00});
  program.function(0x2000, {0x90, 0xc3, 0xc3}).function(0x3000, {0xc3, 0xe9, 0xfa, 0xdf, 0xff, 0xff});
  EXPECT_EQ(program.returns(), (Returns{0x2001, 0x2002, 0x3000}));
}

TEST(FindReturns, JumpsThroughTheLinkageTableAreFollowed) {
  // jmp 0x2000; there: endbr64; jmp [0x4000], which is the third function
  Program program = only({0xe9, 0xfb, 0x0f, 0x00, 0x00});
  program.data(0x2000, {0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0xf6, 0x1f, 0x00, 0x00, 0x90})
      .function(0x3000, {0xc3});
  EXPECT_EQ(program.error(), "leaves by a jump to another file");
  program.pointer(0x4000, 0x3000);
  EXPECT_EQ(program.returns(), (Returns{0x3000}));
  // The same without the table: jmp [0x4000]
  EXPECT_EQ(
      only({0xff, 0x25, 0xfa, 0x2f, 0x00, 0x00}).function(0x3000, {0xc3}).pointer(0x4000, 0x3000).returns(),
      (Returns{0x3000}));
}

TEST(FindReturns, ASwitchStaysInside) {
  // lea rdx,[rip+0xff9] (0x2000); movsxd rax,[rdx+rax*4]; add rax,rdx; jmp rax; ret
  const Bytes offsets{0x48, 0x8d, 0x15, 0xf9, 0x0f, 0x00, 0x00, 0x48, 0x63,
                      0x04, 0x82, 0x48, 0x01, 0xd0, 0xff, 0xe0, 0xc3};
  const auto entry = [](std::int32_t offset) {
    Bytes bytes(4);
    std::memcpy(bytes.data(), &offset, 4);
    return bytes;
  };
  EXPECT_EQ(only(offsets).data(0x2000, entry(-0xff0)).returns(), (Returns{0x1010}));
  EXPECT_EQ(only(offsets).data(0x2000, entry(0x100)).error(), "leaves through a pointer");
  EXPECT_EQ(only(offsets).error(), "leaves through a pointer");
  // jmp [rax*8+0x2000]; ret
  const Bytes pointers{0xff, 0x24, 0xc5, 0x00, 0x20, 0x00, 0x00, 0xc3};
  EXPECT_EQ(only(pointers).pointer(0x2000, 0x1007).returns(), (Returns{0x1007}));
  EXPECT_EQ(only(pointers).pointer(0x2000, 0x5000).error(), "leaves through a pointer");
  // lea rcx,[rip+0xff9] (0x2000); jmp [rcx+rax*8]; ret
  const Bytes by_register{0x48, 0x8d, 0x0d, 0xf9, 0x0f, 0x00, 0x00, 0xff, 0x24, 0xc1, 0xc3};
  EXPECT_EQ(only(by_register).pointer(0x2000, 0x100a).returns(), (Returns{0x100a}));
}

TEST(FindReturns, WhatIsLookedAtIsBounded) {
  Program program;
  for (std::uint64_t i = 0; i < 100; ++i)  // each jumps to the next
    program.function(0x1000 + i * 0x100, {0xe9, 0xfb, 0x00, 0x00, 0x00});
  EXPECT_EQ(program.error(), "leads to too much code");
}

}  // namespace
}  // namespace weir::bpf
