// Where libraries keep the random bytes of their ClientHello: read off their own code, then looked up in a
// live object of the same library and compared with what it sends.
#include "bpf/probes/client_random.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "bpf/wire.h"
#include "tests/unit/bpf/live_library.h"
#include "tests/unit/bpf/probe_files.h"

namespace weir::bpf {
namespace {

using Random = std::array<std::uint8_t, 32>;

Random random_at(const void* object, std::uint64_t cookie) {
  const auto pointer_at = cookie >> 16 & 0xffff, at = cookie >> 32 & 0xffff;
  const auto* bytes = static_cast<const std::uint8_t*>(object);
  if (pointer_at != 0) std::memcpy(&bytes, bytes + pointer_at, sizeof(bytes));
  Random random;
  std::memcpy(random.data(), bytes + at, random.size());
  return random;
}

// A record's header, a handshake message's header and the version come first (RFC 8446, 4.1.2).
Random random_sent(const std::string& client_hello) {
  Random random{};
  EXPECT_GE(client_hello.size(), 11 + random.size());
  if (client_hello.size() >= 11 + random.size())
    std::memcpy(random.data(), client_hello.data() + 11, random.size());
  return random;
}

class OpenSsl : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(OpenSsl, ObjectHoldsItWhereItsCodeSays) {
  const auto& [ssl_name, crypto_name] = GetParam();
  const LiveLibrary ssl(ssl_name), crypto(crypto_name);
  if (!ssl.is_there() && ssl_name == std::string(kOlderOpenSsl)) GTEST_SKIP() << "no " << ssl_name;
  ASSERT_TRUE(ssl.is_there() && crypto.is_there()) << ssl_name << ": run scripts/setup";
  const auto library = only_library(std::string("/usr/lib/x86_64-linux-gnu/") + ssl_name);
  ASSERT_FALSE(library.sites.empty());

  void* context = ssl.get<void*(const void*)>("SSL_CTX_new")(ssl.get<const void*()>("TLS_client_method")());
  void* object = ssl.get<void*(void*)>("SSL_new")(context);
  const auto* memory = crypto.get<const void*()>("BIO_s_mem")();
  void* incoming = crypto.get<void*(const void*)>("BIO_new")(memory);
  void* outgoing = crypto.get<void*(const void*)>("BIO_new")(memory);
  ssl.get<void(void*, void*, void*)>("SSL_set_bio")(object, incoming, outgoing);
  EXPECT_EQ(ssl.get<int(void*)>("SSL_connect")(object), -1);  // wants an answer
  std::string sent(4096, '\0');
  sent.resize(
      static_cast<std::size_t>(std::max(0, crypto.get<int(void*, void*, int)>("BIO_read")(
                                               outgoing, sent.data(), static_cast<int>(sent.size())))));
  Random told{};
  ssl.get<std::size_t(const void*, unsigned char*, std::size_t)>("SSL_get_client_random")(object, told.data(),
                                                                                          told.size());

  EXPECT_EQ(told, random_sent(sent));
  EXPECT_EQ(random_at(object, library.sites.front().cookie), told);
  ssl.get<void(void*)>("SSL_free")(object);
  ssl.get<void(void*)>("SSL_CTX_free")(context);
}

INSTANTIATE_TEST_SUITE_P(Versions, OpenSsl,
                         ::testing::Values(std::pair{"libssl.so.3", "libcrypto.so.3"},
                                           std::pair{kOlderOpenSsl, "libcrypto.so.1.1"}));

TEST(GnuTls, SessionHoldsItWhereItsCodeSays) {
  const LiveLibrary tls("libgnutls.so.30");
  ASSERT_TRUE(tls.is_there()) << "run scripts/setup";
  const auto library = only_library("/usr/lib/x86_64-linux-gnu/libgnutls.so.30");
  ASSERT_FALSE(library.sites.empty());

  constexpr unsigned kClientNonblocking = 2 | 8;  // GNUTLS_CLIENT | GNUTLS_NONBLOCK, gnutls.h
  constexpr int kCertificates = 1;                // GNUTLS_CRD_CERTIFICATE
  void *session = nullptr, *credentials = nullptr;
  ASSERT_EQ(tls.get<int(void**, unsigned)>("gnutls_init")(&session, kClientNonblocking), 0);
  ASSERT_EQ(tls.get<int(void**)>("gnutls_certificate_allocate_credentials")(&credentials), 0);
  tls.get<int(void*, int, void*)>("gnutls_credentials_set")(session, kCertificates, credentials);
  tls.get<int(void*)>("gnutls_set_default_priority")(session);
  std::string sent;
  using Push = ssize_t (*)(void*, const void*, std::size_t);
  using Pull = ssize_t (*)(void*, void*, std::size_t);
  tls.get<void(void*, void*)>("gnutls_transport_set_ptr")(session, &sent);
  tls.get<void(void*, Push)>("gnutls_transport_set_push_function")(
      session, [](void* text, const void* data, std::size_t size) -> ssize_t {
        static_cast<std::string*>(text)->append(static_cast<const char*>(data), size);
        return static_cast<ssize_t>(size);
      });
  tls.get<void(void*, Pull)>("gnutls_transport_set_pull_function")(session,
                                                                   [](void*, void*, std::size_t) -> ssize_t {
                                                                     errno = EAGAIN;
                                                                     return -1;
                                                                   });
  EXPECT_LT(tls.get<int(void*)>("gnutls_handshake")(session), 0);

  EXPECT_EQ(random_at(session, library.sites.front().cookie), random_sent(sent));
  tls.get<void(void*)>("gnutls_deinit")(session);
  tls.get<void(void*)>("gnutls_certificate_free_credentials")(credentials);
}

// ---- code as other compilers and libraries write it

std::expected<ClientRandom, std::string> found(std::vector<std::uint8_t> code) {
  return find_client_random({0x1000, std::move(code)});
}

TEST(FindClientRandom, AStructThatAPointerLeadsTo) {
  // BoringSSL by clang: push rbx; mov rax,[rdi+0x30]; add rax,0x30; mov rdi,rsi; mov rsi,rax; call memcpy;
  // pop rbx; ret
  EXPECT_EQ(found({0x53, 0x48, 0x8b, 0x47, 0x30, 0x48, 0x83, 0xc0, 0x30, 0x48, 0x89,
                   0xf7, 0x48, 0x89, 0xc6, 0xe8, 0x00, 0x10, 0x00, 0x00, 0x5b, 0xc3}),
            (ClientRandom{0x30, 0x30}));
}

TEST(FindClientRandom, AnObjectWhoseTypeIsLookedAtFirst) {
  // cmp dword [rdi],0; jne +16; movups xmm0,[rdi+0x148]; movups [rsi],xmm0 and the same for the second half;
  // ret; the other way: xor eax,eax; ret
  EXPECT_EQ(found({0x83, 0x3f, 0x00, 0x75, 0x16, 0x0f, 0x10, 0x87, 0x48, 0x01, 0x00, 0x00, 0x0f, 0x11, 0x06,
                   0x0f, 0x10, 0x87, 0x58, 0x01, 0x00, 0x00, 0x0f, 0x11, 0x46, 0x10, 0xc3, 0x31, 0xc0, 0xc3}),
            (ClientRandom{0, 0x148}));
}

TEST(FindClientRandom, ACopyLoopOfTheProcessor) {
  // mov rax,rdi; mov rdi,rsi; lea rsi,[rax+0x160]; mov ecx,32; rep movsb; ret
  EXPECT_EQ(found({0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x8d, 0xb0, 0x60, 0x01,
                   0x00, 0x00, 0xb9, 0x20, 0x00, 0x00, 0x00, 0xf3, 0xa4, 0xc3}),
            (ClientRandom{0, 0x160}));
}

TEST(FindClientRandom, NothingIsGuessed) {
  EXPECT_FALSE(found({}));
  EXPECT_FALSE(found({0xc3}));
  EXPECT_FALSE(found({0xeb, 0xfe}));  // jmp to itself
  // Half of the bytes: movups xmm0,[rdi+0x148]; movups [rsi],xmm0; ret
  EXPECT_FALSE(found({0x0f, 0x10, 0x87, 0x48, 0x01, 0x00, 0x00, 0x0f, 0x11, 0x06, 0xc3}));
  // Two ways with two answers: cmp dword [rdi],0; je +7; add rdi,8; ...: mov rax,rdi; mov rdi,rsi; lea
  // rsi,[rax+0x20]; jmp memcpy
  EXPECT_FALSE(found({0x83, 0x3f, 0x00, 0x74, 0x04, 0x48, 0x83, 0xc7, 0x08, 0x48, 0x89, 0xf8,
                      0x48, 0x89, 0xf7, 0x48, 0x8d, 0x70, 0x20, 0xe9, 0x00, 0x10, 0x00, 0x00}));
  // From what another function answered: push rsi; call; pop rdi; lea rsi,[rax+0x20]; mov edx,32; jmp memcpy
  EXPECT_FALSE(found({0x56, 0xe8, 0x00, 0x10, 0x00, 0x00, 0x5f, 0x48, 0x8d, 0x70, 0x20,
                      0xba, 0x20, 0x00, 0x00, 0x00, 0xe9, 0x00, 0x10, 0x00, 0x00}));
}

}  // namespace
}  // namespace weir::bpf
