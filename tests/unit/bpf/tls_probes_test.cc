// Which TLS libraries a file contains and where they are probed: the system's own files and programs built
// for this, against what binutils say; and damaged copies.
#include "bpf/probes/tls_probes.h"

#include <dlfcn.h>
#include <elf.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "bpf/wire.h"
#include "tests/unit/bpf/probe_files.h"

namespace weir::bpf {
namespace {

constexpr char kLibraries[] = "/usr/lib/x86_64-linux-gnu/";

std::string system_library(const std::string& name) {
  return kLibraries + name;
}

struct Call {
  std::string function;
  std::uint32_t call;
};

const Call kOpenSslCalls[] = {
    {"SSL_read", WIRE_CALL_READ},
    {"SSL_read_ex", WIRE_CALL_READ_EX},
    {"SSL_write", WIRE_CALL_WRITE},
    {"SSL_write_ex", WIRE_CALL_WRITE_EX},
};
const Call kOpenSslEnds[] = {
    {"SSL_free", WIRE_CALL_FREE},
    {"SSL_clear", WIRE_CALL_CLEAR},
    {"SSL_shutdown", WIRE_CALL_SHUTDOWN},
};

void expect_openssl_sites(const FoundLibrary& library, const std::string& path, bool dynamic) {
  const auto functions = functions_by_nm(path, dynamic);
  for (const auto& [function, call] : kOpenSslCalls) {
    ASSERT_TRUE(functions.contains(function)) << path << " " << function;
    const KnownFunction& known = functions.at(function);
    EXPECT_EQ(entries_meant(path, functions, places(library, WIRE_TLS_ENTER, call)), std::set{known.offset})
        << path << " " << function;
    const auto returns = returns_by_objdump(path, known);
    EXPECT_FALSE(returns.empty());
    EXPECT_EQ(returns_meant(path, known, places(library, WIRE_TLS_RETURN, call)), returns)
        << path << " " << function;
  }
  for (const auto& [function, call] : kOpenSslEnds)
    EXPECT_EQ(entries_meant(path, functions, places(library, WIRE_TLS_END, call)),
              std::set{functions.at(function).offset})
        << path << " " << function;
}

void expect_cookies(const FoundLibrary& library, std::uint64_t wire_library, std::uint64_t facts) {
  for (const ProbeSite& site : library.sites)
    EXPECT_EQ(site.cookie & ~std::uint64_t{0xfe1f}, WIRE_SITE(wire_library, 0) | facts);
}

TEST(TlsProbes, SharedOpenSsl3) {
  const std::string path = system_library("libssl.so.3");
  const auto library = only_library(path);
  EXPECT_EQ(library.library, TlsLibrary::openssl);
  EXPECT_EQ(library.name, "libssl.so.3");
  expect_openssl_sites(library, path, true);
  expect_cookies(library, WIRE_LIBRARY_OPENSSL,
                 WIRE_SITE_RANDOM(0, 0x160) | WIRE_SITE_SERVER(0x38, WIRE_SERVER_INT));
  const auto functions = functions_by_nm(path, true);
  EXPECT_EQ(entries_meant(path, functions, places(library, WIRE_TLS_ENTER, WIRE_CALL_SEND_FILE)),
            std::set{functions.at("SSL_sendfile").offset});
}

// Their calls enter at the jump that tells a length below zero, and leave by the stack protector's.
TEST(TlsProbes, Debians12sOpenSslIsReadWithoutSingleSteps) {
  const auto library = only_library(system_library("libssl.so.3"));
  for (const char* name : {"SSL_read", "SSL_write"}) {
    const auto function = std::ranges::find(library.functions, name, &PlacedFunction::name);
    ASSERT_NE(function, library.functions.end());
    EXPECT_TRUE(function->entry_emulated) << name;
    EXPECT_EQ(function->returns, 1u) << name;
    EXPECT_EQ(function->returns_emulated, 1u) << name;
  }
}

TEST(TlsProbes, SharedOpenSsl11) {
  const std::string path = system_library("libssl.so.1.1");
  if (::access(path.c_str(), R_OK) != 0) GTEST_SKIP() << "no OpenSSL 1.1 on this system";
  const auto library = only_library(path);
  EXPECT_EQ(library.name, "libssl.so.1.1");
  expect_openssl_sites(library, path, true);
  expect_cookies(library, WIRE_LIBRARY_OPENSSL,
                 WIRE_SITE_RANDOM(0xa8, 0xb8) | WIRE_SITE_SERVER(0x38, WIRE_SERVER_INT));
}

TEST(TlsProbes, StaticOpenSsl) {
  const std::string path = probe_target("static_client");
  const auto library = only_library(path);
  EXPECT_EQ(library.library, TlsLibrary::openssl);
  EXPECT_TRUE(library.name.starts_with("static OpenSSL 3.0.")) << library.name;
  expect_openssl_sites(library, path, false);
}

TEST(TlsProbes, StrippedStaticOpenSslIsNamedAndNotReadable) {
  const auto libraries = libraries_in(probe_target("static_client-stripped"));
  ASSERT_EQ(libraries.size(), 1u);
  EXPECT_EQ(libraries[0].library, TlsLibrary::openssl);
  EXPECT_TRUE(libraries[0].name.starts_with("static OpenSSL 3.0.")) << libraries[0].name;
  EXPECT_EQ(libraries[0].unreadable, "static OpenSSL without symbols");
  EXPECT_TRUE(libraries[0].sites.empty());
}

// Debian's node uses libssl.so.3; others bring their own OpenSSL and export it.
TEST(TlsProbes, Node) {
  const std::string path = "/usr/bin/node";
  const auto libraries = libraries_in(path);
  if (libraries.empty()) {
    EXPECT_LT(contents_of(path).size(), 80'000'000u);
    return;
  }
  const auto library = only_library(path);
  EXPECT_TRUE(library.name.starts_with("static OpenSSL ")) << library.name;
  expect_openssl_sites(library, path, true);
  EXPECT_NE(library.sites.front().cookie >> 32 & 0xffff, 0u);
  EXPECT_NE(library.sites.front().cookie >> 48, 0u);
}

// Its calls leave by jumps: gnutls_record_recv to a local function, gnutls_record_send through the linkage
// table.
TEST(TlsProbes, GnuTls) {
  const std::string path = system_library("libgnutls.so.30");
  const auto library = only_library(path);
  EXPECT_EQ(library.library, TlsLibrary::gnutls);
  EXPECT_EQ(library.name, "libgnutls.so.30");
  EXPECT_NE(library.sites.front().cookie >> 32 & 0xffff, 0u);
  const auto functions = functions_by_nm(path, true);
  const auto entries = [&](std::initializer_list<const char*> names) {
    std::set<std::uint64_t> offsets;
    for (const char* name : names) offsets.insert(functions.at(name).offset);
    return offsets;
  };
  const auto meant = [&](std::uint32_t program, std::uint32_t call) {
    return entries_meant(path, functions, places(library, program, call));
  };
  EXPECT_EQ(meant(WIRE_TLS_ENTER, WIRE_CALL_READ_LONG),
            entries({"gnutls_record_recv", "gnutls_record_recv_seq"}));
  EXPECT_EQ(meant(WIRE_TLS_ENTER, WIRE_CALL_WRITE_LONG),
            entries({"gnutls_record_send", "gnutls_record_send2", "gnutls_record_send_range"}));
  EXPECT_EQ(meant(WIRE_TLS_ENTER, WIRE_CALL_READ_PACKET), entries({"gnutls_record_recv_packet"}));
  EXPECT_EQ(meant(WIRE_TLS_ENTER, WIRE_CALL_FLUSH), entries({"gnutls_record_uncork"}));
  EXPECT_EQ(meant(WIRE_TLS_END, WIRE_CALL_FREE), entries({"gnutls_deinit"}));
  EXPECT_EQ(meant(WIRE_TLS_END, WIRE_CALL_SHUTDOWN), entries({"gnutls_bye"}));
  const auto returns = places(library, WIRE_TLS_RETURN);
  std::size_t within = 0;
  for (const char* name : {"gnutls_record_recv", "gnutls_record_send2", "gnutls_record_send_range"}) {
    const auto known = returns_by_objdump(path, functions.at(name));
    EXPECT_EQ(returns_meant(path, functions.at(name), returns), known) << name;
    within += known.size();
  }
  EXPECT_GT(returns.size(), within);  // and those of the local function
}

TEST(TlsProbes, Nss) {
  const std::string path = system_library("libssl3.so");
  const auto library = only_library(path);
  EXPECT_EQ(library.library, TlsLibrary::nss);
  EXPECT_EQ(library.name, "libssl3.so");
  EXPECT_EQ(places(library, WIRE_TLS_ENTER, WIRE_CALL_READ).size(), 1u);
  EXPECT_EQ(places(library, WIRE_TLS_ENTER, WIRE_CALL_READ_FLAGS).size(), 1u);
  EXPECT_EQ(places(library, WIRE_TLS_ENTER, WIRE_CALL_WRITE).size(), 2u);
  EXPECT_EQ(places(library, WIRE_TLS_END).size(), 2u);
  const std::string contents = contents_of(path);
  for (const std::uint64_t offset : places(library, WIRE_TLS_RETURN)) {
    const std::string_view there = std::string_view(contents).substr(offset, 2);
    EXPECT_TRUE(there[0] == '\xc3' || there[0] == '\x75' || there == "\x0f\x85") << offset;
  }
}

TEST(TlsProbes, FilesThatOnlyUseALibraryDoNotContainIt) {
  for (const std::string path :
       {"/bin/ls", "/usr/bin/curl", "/usr/bin/openssl", "/usr/lib/x86_64-linux-gnu/libnspr4.so",
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/lib/x86_64-linux-gnu/libc.so.6"})
    EXPECT_TRUE(libraries_in(path).empty()) << path;
}

TEST(TlsProbes, OtherFilesAreRefused) {
  for (const auto& contents : {std::string(), std::string("#!/bin/sh\n"), std::string(5000, '\0')}) {
    const MemoryFile file(contents);
    EXPECT_FALSE(find_tls_libraries(file.get()));
  }
}

TEST(TlsProbes, NoPlaceIsProbedTwiceByOneProgram) {
  for (const char* name : {"libssl.so.3", "libgnutls.so.30", "libssl3.so"}) {
    const auto library = only_library(system_library(name));
    std::set<std::pair<std::uint32_t, std::uint64_t>> seen;
    for (const ProbeSite& site : library.sites) {
      EXPECT_LT(site.program, static_cast<std::uint32_t>(WIRE_UPROBE_PROGRAMS));
      EXPECT_TRUE(seen.emplace(site.program, site.offset).second) << name << " " << site.offset;
    }
  }
}

TEST(TlsProbes, AMissingFunctionIsNamed) {
  std::string contents = contents_of(system_library("libssl.so.3"));
  for (std::size_t at = 0; (at = contents.find(std::string("\0SSL_write\0", 11), at)) != std::string::npos;)
    contents[at + 1] = 'X';
  const auto libraries = libraries_of(contents);
  ASSERT_EQ(libraries.size(), 1u);
  EXPECT_EQ(libraries[0].unreadable, "no function SSL_write");
  EXPECT_TRUE(libraries[0].sites.empty());
}

Elf64_Phdr& last_loaded_segment(std::string& contents) {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(contents.data());
  auto* segments = reinterpret_cast<Elf64_Phdr*>(contents.data() + header->e_phoff);
  Elf64_Phdr* last = nullptr;
  for (int i = 0; i < header->e_phnum; ++i)
    if (segments[i].p_type == PT_LOAD) last = &segments[i];
  return *last;
}

// The kernel refuses a probe behind the file's end, and with it all others of the file.
TEST(TlsProbes, AFunctionBehindTheFilesEndIsNotProbed) {
  std::string contents = contents_of(system_library("libssl.so.3"));
  const auto address = functions_by_nm(system_library("libssl.so.3"), true).at("SSL_free").offset;
  Elf64_Phdr& segment = last_loaded_segment(contents);
  segment.p_flags |= PF_X;
  segment.p_filesz = segment.p_memsz = contents.size() * 2;
  const std::uint64_t beyond = segment.p_vaddr + contents.size();
  auto* header = reinterpret_cast<Elf64_Ehdr*>(contents.data());
  auto* sections = reinterpret_cast<Elf64_Shdr*>(contents.data() + header->e_shoff);
  const auto* dynamic = std::find_if(sections, sections + header->e_shnum,
                                     [](const Elf64_Shdr& section) { return section.sh_type == SHT_DYNSYM; });
  auto* symbols = reinterpret_cast<Elf64_Sym*>(contents.data() + dynamic->sh_offset);
  auto* symbol = std::find_if(symbols, symbols + dynamic->sh_size / sizeof(Elf64_Sym),
                              [&](const Elf64_Sym& candidate) { return candidate.st_value == address; });
  symbol->st_value = beyond;
  const auto libraries = libraries_of(contents);
  ASSERT_EQ(libraries.size(), 1u);
  EXPECT_EQ(libraries[0].unreadable, "SSL_free is not in the file");
  EXPECT_TRUE(libraries[0].sites.empty());
}

TEST(TlsProbes, AnAddressMeansOnePlace) {
  std::string contents = contents_of(system_library("libssl.so.3"));
  last_loaded_segment(contents).p_vaddr = 0;
  const MemoryFile file(contents);
  const auto libraries = find_tls_libraries(file.get());
  ASSERT_FALSE(libraries);
  EXPECT_EQ(libraries.error(), "segments that overlap");
}

TEST(TlsProbes, TextsThatNameOtherLibraries) {
  const auto with = [](const std::string& text) {
    std::string contents = contents_of("/bin/ls");
    const auto at = contents.find("Configuration file for dircolors, a utility");
    EXPECT_NE(at, std::string::npos);
    contents.replace(at, text.size(), text);
    const auto libraries = libraries_of(contents);
    return libraries.empty() ? std::string() : libraries[0].name + ": " + libraries[0].unreadable;
  };
  EXPECT_EQ(with("/rustls-0.23.37/src/a.rs"), "rustls 0.23.37: rustls");
  EXPECT_EQ(with(std::string("ssl/ssl_lib.cc\0", 15)), "static BoringSSL: static BoringSSL without symbols");
  EXPECT_EQ(with(std::string("ssl/ssl_lib.c\0", 14)), "static OpenSSL: static OpenSSL without symbols");
  EXPECT_EQ(with(std::string("mbedtls_ssl_fetch_input\0", 24)), "Mbed TLS: Mbed TLS");
  // What users of a library say about it.
  EXPECT_EQ(with("OpenSSL 3.0.11 19 Sep 2023"), "");
  EXPECT_EQ(with("/rustls-native-certs-0.6/"), "");
}

// What it seeks is not in it as it is sought.
TEST(TlsProbes, TheSearchDoesNotFindItself) {
  for (const auto& library : libraries_in(probe_target("searcher")))
    ADD_FAILURE() << library.name << ": " << library.unreadable;
}

class Damaged : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    contents_ = contents_of(name.starts_with("lib") ? system_library(name) : probe_target(name));
  }
  void search() const {
    const MemoryFile file(contents_);
    (void)find_tls_libraries(file.get());
  }
  std::string contents_;
};

TEST_P(Damaged, FilesCutShortAreRefused) {
  const std::string whole = contents_;
  for (std::size_t size = 0; size < whole.size(); size += whole.size() / 29) {
    const MemoryFile file(whole.substr(0, size));
    EXPECT_FALSE(find_tls_libraries(file.get())) << size;
  }
}

// Each damaged copy gives an error or an answer; it must not crash, hang or allocate without bound.
TEST_P(Damaged, DamagedHeadersDoNoHarm) {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(contents_.data());
  const std::pair<std::size_t, std::size_t> regions[] = {
      {0, sizeof(Elf64_Ehdr)},
      {header->e_phoff, header->e_phnum * sizeof(Elf64_Phdr)},
      {header->e_shoff, header->e_shnum * sizeof(Elf64_Shdr)},
  };
  for (const auto& [start, length] : regions) {
    for (std::size_t at = start; at < start + length; at += 7) {
      for (const char value : {'\0', '\x7f', '\xff'}) {
        const char kept = std::exchange(contents_[at], value);
        search();
        contents_[at] = kept;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Files, Damaged, ::testing::Values("libssl.so.3", "libssl3.so"));

// A sparse file that is large in everything: the search gives up within its budget.
TEST(TlsProbes, HugeTablesAreGivenUp) {
  constexpr std::uint64_t kTableBytes = 250ull * 1024 * 1024;
  std::string contents = contents_of("/bin/ls");
  auto* header = reinterpret_cast<Elf64_Ehdr*>(contents.data());
  header->e_shnum = 40;
  header->e_shstrndx = 0;
  header->e_shoff = contents.size();
  std::vector<Elf64_Shdr> sections(header->e_shnum);
  for (std::size_t i = 0; i < sections.size(); ++i) {
    sections[i].sh_type = i == 1 ? SHT_DYNSYM : i == 2 ? SHT_SYMTAB : i % 2 ? SHT_PROGBITS : SHT_RELA;
    sections[i].sh_flags = SHF_ALLOC;
    sections[i].sh_offset = 1024 * 1024;
    sections[i].sh_size = kTableBytes;
    sections[i].sh_link = 3;
  }
  contents.append(reinterpret_cast<const char*>(sections.data()), sections.size() * sizeof(Elf64_Shdr));
  const MemoryFile file(contents);
  ASSERT_EQ(::ftruncate(file.get(), 1ll << 40), 0);
  const auto libraries = find_tls_libraries(file.get());
  EXPECT_TRUE(!libraries || libraries->empty());
}

}  // namespace
}  // namespace weir::bpf
