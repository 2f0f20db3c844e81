// Where libraries note that an object is a server's: read off their own code, then looked up in live objects
// of the same library.
#include "bpf/probes/server_flag.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/unit/bpf/live_library.h"
#include "tests/unit/bpf/probe_files.h"

namespace weir::bpf {
namespace {

// As the kernel side reads it.
bool is_server(const void* object, std::uint64_t cookie) {
  const auto at = cookie >> 48 & 0xfff, flag = cookie >> 60;
  EXPECT_NE(at, 0u);
  std::uint32_t value = 0;
  std::memcpy(&value, static_cast<const std::uint8_t*>(object) + at, sizeof(value));
  if (flag == WIRE_SERVER_INT) return value != 0;
  return value & (flag == WIRE_SERVER_BYTE ? 0xffu : 1u << flag);
}

class ServerFlagOf : public ::testing::TestWithParam<const char*> {};

TEST_P(ServerFlagOf, LiveObjectsIsWhereTheCodeSays) {
  const std::string name = GetParam();
  const LiveLibrary ssl("/usr/lib/x86_64-linux-gnu/" + name);
  if (!ssl.is_there() && name == kOlderOpenSsl) GTEST_SKIP() << "no " << name;
  ASSERT_TRUE(ssl.is_there()) << name << ": run scripts/setup";
  const auto library = only_library("/usr/lib/x86_64-linux-gnu/" + name);
  ASSERT_FALSE(library.sites.empty());
  const std::uint64_t cookie = library.sites.front().cookie;

  void* context = ssl.get<void*(const void*)>("SSL_CTX_new")(ssl.get<const void*()>("TLS_method")());
  const auto make = ssl.get<void*(void*)>("SSL_new");
  void *client = make(context), *server = make(context);
  ssl.get<void(void*)>("SSL_set_connect_state")(client);
  ssl.get<void(void*)>("SSL_set_accept_state")(server);
  EXPECT_FALSE(is_server(client, cookie));
  EXPECT_TRUE(is_server(server, cookie));
  // The members beside it make no difference.
  for (void* object : {client, server}) {
    ssl.get<void(void*, int)>("SSL_set_quiet_shutdown")(object, 1);
    ssl.get<void(void*, int)>("SSL_set_shutdown")(object, 3);
    EXPECT_EQ(is_server(object, cookie), object == server);
    ssl.get<void(void*)>("SSL_free")(object);
  }
  ssl.get<void(void*)>("SSL_CTX_free")(context);
}

INSTANTIATE_TEST_SUITE_P(Libraries, ServerFlagOf,
                         ::testing::Values("libssl.so.3", kOlderOpenSsl, "android/libssl.so.0"));

// ---- code as other compilers and versions have it

std::expected<ServerFlag, std::string> found(std::vector<std::uint8_t> code) {
  return find_server_flag({0x1000, std::move(code)});
}

TEST(FindServerFlag, AnInt) {
  // mov eax,[rdi+0x38]; ret
  EXPECT_EQ(found({0x8b, 0x47, 0x38, 0xc3}), (ServerFlag{0x38, WIRE_SERVER_INT}));
}

TEST(FindServerFlag, ABitOfAByte) {
  // BoringSSL: movzx eax, byte [rdi+0xa4]; and eax,1; ret
  EXPECT_EQ(found({0x0f, 0xb6, 0x87, 0xa4, 0x00, 0x00, 0x00, 0x83, 0xe0, 0x01, 0xc3}), (ServerFlag{0xa4, 0}));
  // mov eax,[rdi+0xa4]; and eax,0x400; ret
  EXPECT_EQ(found({0x8b, 0x87, 0xa4, 0x00, 0x00, 0x00, 0x25, 0x00, 0x04, 0x00, 0x00, 0xc3}),
            (ServerFlag{0xa5, 2}));
}

TEST(FindServerFlag, AByte) {
  // movzx eax, byte [rdi+0x90]; ret
  EXPECT_EQ(found({0x0f, 0xb6, 0x87, 0x90, 0x00, 0x00, 0x00, 0xc3}), (ServerFlag{0x90, WIRE_SERVER_BYTE}));
}

TEST(FindServerFlag, AnObjectWhoseTypeIsLookedAtFirst) {
  // OpenSSL 3.5 of Debian 13: 0 for no object and for what is neither TLS nor QUIC; for TLS [rdi+0x78]; for
  // QUIC that of the object that a call answers.
  EXPECT_EQ(found({0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x85, 0xff, 0x74, 0x47, 0x8b, 0x07, 0x85, 0xc0, 0x74, 0x21,
                   0xa8, 0x80, 0x74, 0x3d, 0x48, 0x83, 0xec, 0x08, 0xe8, 0xf4, 0x61, 0x03, 0x00, 0x48, 0x85,
                   0xc0, 0x74, 0x1f, 0x8b, 0x40, 0x78, 0x48, 0x83, 0xc4, 0x08, 0x31, 0xff, 0xc3, 0x0f, 0x1f,
                   0x44, 0x00, 0x00, 0x8b, 0x47, 0x78, 0x31, 0xff, 0xc3, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00,
                   0x00, 0x00, 0x00, 0x00, 0x31, 0xc0, 0x48, 0x83, 0xc4, 0x08, 0x31, 0xff, 0xc3, 0x0f, 0x1f,
                   0x80, 0x00, 0x00, 0x00, 0x00, 0x31, 0xc0, 0x31, 0xff, 0xc3}),
            (ServerFlag{0x78, WIRE_SERVER_INT}));
}

TEST(FindServerFlag, NothingIsGuessed) {
  EXPECT_FALSE(found({}));
  EXPECT_FALSE(found({0xc3}));
  EXPECT_FALSE(found({0xeb, 0xfe}));              // jmp to itself
  EXPECT_FALSE(found({0x31, 0xc0, 0xc3}));        // xor eax,eax; ret
  EXPECT_FALSE(found({0x8b, 0x07, 0xc3}));        // the type itself: mov eax,[rdi]; ret
  EXPECT_FALSE(found({0x8b, 0x46, 0x38, 0xc3}));  // not of the object: mov eax,[rsi+0x38]; ret
  // Too far for a site's cookie: mov eax,[rdi+0x1000]; ret
  EXPECT_FALSE(found({0x8b, 0x87, 0x00, 0x10, 0x00, 0x00, 0xc3}));
  // Of what a pointer leads to: mov rax,[rdi+8]; mov eax,[rax+0x38]; ret
  EXPECT_FALSE(found({0x48, 0x8b, 0x47, 0x08, 0x8b, 0x40, 0x38, 0xc3}));
  // 1 for a client: mov eax,[rdi+0x38]; xor eax,1; ret
  EXPECT_FALSE(found({0x8b, 0x47, 0x38, 0x83, 0xf0, 0x01, 0xc3}));
  // Two members: mov eax,[rdi+0x38]; or eax,[rdi+0x40]; ret
  EXPECT_FALSE(found({0x8b, 0x47, 0x38, 0x0b, 0x47, 0x40, 0xc3}));
  // Another decides whether it counts: xor eax,eax; cmp dword [rdi+0x40],0; jne +3; mov eax,[rdi+0x38]; ret
  EXPECT_FALSE(found({0x31, 0xc0, 0x83, 0x7f, 0x40, 0x00, 0x75, 0x03, 0x8b, 0x47, 0x38, 0xc3}));
  // The same, looked at after it: mov eax,[rdi+0x38]; test eax,eax; je +8; cmp dword [rdi+0x40],0; je +2; xor
  // eax,eax; ret
  EXPECT_FALSE(found(
      {0x8b, 0x47, 0x38, 0x85, 0xc0, 0x74, 0x08, 0x83, 0x7f, 0x40, 0x00, 0x74, 0x02, 0x31, 0xc0, 0xc3}));
  // What a call answers: sub rsp,8; call; add rsp,8; ret
  EXPECT_FALSE(found({0x48, 0x83, 0xec, 0x08, 0xe8, 0x00, 0x10, 0x00, 0x00, 0x48, 0x83, 0xc4, 0x08, 0xc3}));
}

}  // namespace
}  // namespace weir::bpf
