// Where probes stand, on code written for this.
#include "bpf/probes/placement.h"

#include <gtest/gtest.h>

#include <string>

namespace weir::bpf {
namespace {

using Bytes = std::vector<std::uint8_t>;
constexpr std::uint64_t kStart = 0x1000;
constexpr GeneralRegister kArguments[] = {GeneralRegister::rdi, GeneralRegister::rsi, GeneralRegister::rdx};

// A file of one function, and of pointers to it.
class NothingElse : public CodeSource {
 public:
  std::optional<FunctionCode> function_at(std::uint64_t) override { return std::nullopt; }
  bool read_at(std::uint64_t, std::span<std::uint8_t>) override { return false; }
  // What a table of jumps has.
  std::optional<std::uint64_t> pointer_at(std::uint64_t) override { return kStart; }
};

CallCode read(const std::initializer_list<Bytes>& instructions) {
  FunctionCode function{kStart, {}};
  for (const Bytes& instruction : instructions)
    function.bytes.insert(function.bytes.end(), instruction.begin(), instruction.end());
  NothingElse nothing;
  auto code = read_call(function, nothing);
  EXPECT_TRUE(code) << (code ? "" : code.error());
  return code.value_or(CallCode{{{function, {}, false}}, {}, {}});
}

Place entry(const std::initializer_list<Bytes>& instructions) {
  return place_entry(read(instructions), kArguments);
}

std::vector<Place> returns(const std::initializer_list<Bytes>& instructions) {
  return place_returns(read(instructions));
}

const Bytes kRet{0xc3}, kPushRbx{0x53}, kPushR12{0x41, 0x54}, kPopRbx{0x5b}, kPopR12{0x41, 0x5c};
const Bytes kSub24{0x48, 0x83, 0xec, 0x18}, kAdd24{0x48, 0x83, 0xc4, 0x18};  // rsp
const Bytes kTestLength{0x85, 0xd2};                                         // test edx,edx
const Bytes kEndbr{0xf3, 0x0f, 0x1e, 0xfa};
const Bytes kLoadCanary{0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0};   // mov rax,fs:[0x28]
const Bytes kCheckCanary{0x64, 0x48, 0x2b, 0x14, 0x25, 0x28, 0, 0, 0};  // sub rdx,fs:[0x28]
const Bytes kCall{0xe8, 0x00, 0x10, 0, 0};

Bytes jne(std::int8_t distance) {
  return {0x75, static_cast<std::uint8_t>(distance)};
}
Bytes js(std::int8_t distance) {
  return {0x78, static_cast<std::uint8_t>(distance)};
}

TEST(PlaceEntry, AtTheFirstInstructionWhenTheKernelEmulatesIt) {
  EXPECT_EQ(entry({kPushRbx, kPopRbx, kRet}), (Place{kStart, 0, true}));
  EXPECT_EQ(entry({kPushR12, kPopR12, kRet}), (Place{kStart, 0, true}));
  EXPECT_EQ(entry({kCall, kRet}), (Place{kStart, 0, true}));
}

TEST(PlaceEntry, AtTheFirstJumpBehindThePrologue) {
  EXPECT_EQ(entry({kSub24, kLoadCanary, {0x31, 0xc0}, kTestLength, js(4), kAdd24, kRet}),
            (Place{0x1011, 24, true}));
  EXPECT_EQ(entry({kEndbr, kPushRbx, kPopRbx, kRet}), (Place{0x1004, 0, true}));
  // sub rsp,8; call
  EXPECT_EQ(entry({{0x48, 0x83, 0xec, 0x08}, kCall, {0x48, 0x83, 0xc4, 0x08}, kRet}),
            (Place{0x1004, 8, true}));
  // lea rsp,[rsp-0x80]; js
  EXPECT_EQ(entry({{0x48, 0x8d, 0x64, 0x24, 0x80}, js(0), kRet}), (Place{0x1005, 128, true}));
  // pop and a negative balance are no prologue's
  EXPECT_EQ(entry({kPopRbx, js(0), kRet}), (Place{kStart, 0, false}));
}

TEST(PlaceEntry, NeverAtANop) {
  const Bytes nop5{0x0f, 0x1f, 0x44, 0x00, 0x00};
  EXPECT_EQ(entry({{0x90}, nop5, kPushRbx, kPopRbx, kRet}), (Place{0x1006, 0, true}));
  EXPECT_EQ(entry({{0x90}, nop5, kRet}), (Place{kStart, 0, false}));
}

TEST(PlaceEntry, AtTheFunctionsBeginningWhenAnArgumentIsGone) {
  for (const Bytes& change : {Bytes{0x31, 0xff},                 // xor edi,edi
                              Bytes{0x89, 0xc6},                 // mov esi,eax
                              Bytes{0x66, 0xba, 0x01, 0x00},     // mov dx,1
                              Bytes{0x48, 0x63, 0xd2},           // movsxd rdx,edx
                              Bytes{0x48, 0x87, 0xf8},           // xchg rax,rdi
                              Bytes{0x0f, 0xa2},                 // cpuid
                              Bytes{0xf3, 0xa4},                 // rep movsb
                              Bytes{0x48, 0x0f, 0x44, 0xf8}}) {  // cmove rdi,rax
    EXPECT_EQ(entry({change, js(0), kRet}), (Place{kStart, 0, false}))
        << int(change[0]) << " " << int(change[1]);
  }
  // mov ecx,1: not asked for
  EXPECT_EQ(entry({{0xb9, 1, 0, 0, 0}, js(0), kRet}), (Place{0x1005, 0, true}));
}

TEST(PlaceEntry, AtTheFunctionsBeginningWhenTheStackPointerIsNotKnown) {
  EXPECT_EQ(entry({{0x48, 0x83, 0xe4, 0xf0}, js(0), kRet}), (Place{kStart, 0, false}));  // and
  EXPECT_EQ(entry({{0x48, 0x29, 0xc4}, js(0), kRet}), (Place{kStart, 0, false}));        // sub rsp,rax
  EXPECT_EQ(entry({{0x48, 0x81, 0xec, 0x00, 0x04, 0, 0}, js(0), kRet}),
            (Place{kStart, 0, false}));  // sub 1024
  EXPECT_EQ(entry({{0x48, 0x81, 0xec, 0xf8, 0x03, 0, 0}, js(0), kRet}),
            (Place{0x1007, kMostBelow, true}));                                          // sub 1016
  EXPECT_EQ(entry({{0x48, 0x83, 0xec, 0x04}, js(0), kRet}), (Place{kStart, 0, false}));  // sub 4
}

TEST(PlaceEntry, AtTheFunctionsBeginningWhenAJumpLeadsBehindIt) {
  // test edx,edx; 1: js 2; sub edx,1; jmp 1; 2: ret. The loop passes the js more than once.
  EXPECT_EQ(entry({kTestLength, js(5), {0x83, 0xea, 0x01}, {0xeb, 0xf9}, kRet}), (Place{kStart, 0, false}));
  // The same, and the jump leads to the beginning: that is another call, as before.
  EXPECT_EQ(entry({kTestLength, js(5), {0x83, 0xea, 0x01}, {0xeb, 0xf7}, kRet}), (Place{0x1002, 0, true}));
}

TEST(PlaceEntry, AtTheFunctionsBeginningWhenASwitchMayLeadBehindIt) {
  // test edx,edx; js 2; jmp [rax*8+0x2000]; 2: ret
  EXPECT_EQ(entry({kTestLength, js(7), {0xff, 0x24, 0xc5, 0x00, 0x20, 0, 0}, kRet}),
            (Place{kStart, 0, false}));
  // Its first instruction is passed whatever comes later.
  EXPECT_EQ(entry({kPushRbx, {0xff, 0x24, 0xc5, 0x00, 0x20, 0, 0}, kRet}), (Place{kStart, 0, true}));
}

TEST(PlaceEntry, NotWhereTheKernelDoesNotEmulate) {
  // ret, call [rax], a jump with a prefix, push of memory
  EXPECT_FALSE(entry({kRet}).emulated);
  EXPECT_FALSE(entry({{0xff, 0x10}, kRet}).emulated);
  EXPECT_FALSE(entry({{0xf2, 0xeb, 0x00}, kRet}).emulated);
  EXPECT_EQ(entry({{0xff, 0x36}, js(0), kRet}), (Place{0x1002, 8, true}));
}

TEST(PlaceReturns, AtTheStackProtectorsJump) {
  EXPECT_EQ(returns({kSub24, kCheckCanary, jne(7), kAdd24, {0x31, 0xd2}, kRet, kCall}),
            (std::vector{Place{0x100d, 24, true}}));
  EXPECT_EQ(
      returns({kPushR12, kPushRbx, kSub24, kCheckCanary, jne(8), kAdd24, kPopRbx, kPopR12, kRet, kCall}),
      (std::vector{Place{0x1010, 40, true}}));
}

TEST(PlaceReturns, AtTheReturnWhenTheResultComesLater) {
  // mov eax,ebp behind the check
  EXPECT_EQ(returns({kSub24, kCheckCanary, jne(7), kAdd24, {0x89, 0xe8}, kRet, kCall}),
            (std::vector{Place{0x1015, 0, false}}));
}

TEST(PlaceReturns, AtTheReturnWhenTheJumpIsNoStackProtectors) {
  EXPECT_EQ(returns({kSub24, kTestLength, jne(5), kAdd24, kRet, kCall}),
            (std::vector{Place{0x100c, 0, false}}));
  // sub rdx,fs:[0x30]
  EXPECT_EQ(returns({kSub24, {0x64, 0x48, 0x2b, 0x14, 0x25, 0x30, 0, 0, 0}, jne(5), kAdd24, kRet, kCall}),
            (std::vector{Place{0x1013, 0, false}}));
  // sub rdx,fs:[0x28]; je
  EXPECT_EQ(returns({kSub24, kCheckCanary, {0x74, 0x05}, kAdd24, kRet, kCall}),
            (std::vector{Place{0x1013, 0, false}}));
}

TEST(PlaceReturns, AtTheReturnWhenSomethingJumpsBehindTheCheck) {
  // js to the `add` behind the jne
  EXPECT_EQ(returns({kSub24, js(11), kCheckCanary, jne(5), kAdd24, kRet, kCall}),
            (std::vector{Place{0x1015, 0, false}}));
  // to the check
  EXPECT_EQ(returns({kSub24, js(0), kCheckCanary, jne(5), kAdd24, kRet, kCall}),
            (std::vector{Place{0x100f, 24, true}}));
  // to the jne: it is passed once all the same
  EXPECT_EQ(returns({kSub24, js(9), kCheckCanary, jne(5), kAdd24, kRet, kCall}),
            (std::vector{Place{0x100f, 24, true}}));
}

TEST(PlaceReturns, AtTheReturnWhenTheFrameIsNotKnown) {
  // leave
  EXPECT_EQ(returns({kSub24, kCheckCanary, jne(2), {0xc9}, kRet, kCall}),
            (std::vector{Place{0x1010, 0, false}}));
}

TEST(PlaceReturns, EachHasItsOwn) {
  EXPECT_EQ(returns({kSub24, kTestLength, js(16), kCheckCanary, jne(12), kAdd24, kRet, kAdd24, kRet, kCall}),
            (std::vector{Place{0x1011, 24, true}, Place{0x101c, 0, false}}));
}

}  // namespace
}  // namespace weir::bpf
