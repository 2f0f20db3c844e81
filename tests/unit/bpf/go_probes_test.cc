// Go programs of all toolchains and forms, against their symbols.
#include <elf.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "bpf/wire.h"
#include "tests/unit/bpf/probe_files.h"

namespace weir::bpf {
namespace {

constexpr const char* kToolchains[] = {"1.19", "1.21", "1.23"};

void expect_go_sites(const FoundLibrary& library, const std::string& path_with_symbols) {
  const auto functions = functions_by_nm(path_with_symbols, false);
  const std::pair<const char*, std::uint32_t> calls[] = {{"crypto/tls.(*Conn).Read", WIRE_CALL_GO_READ},
                                                         {"crypto/tls.(*Conn).Write", WIRE_CALL_GO_WRITE}};
  for (const auto& [name, call] : calls) {
    const KnownFunction& known = functions.at(name);
    EXPECT_EQ(entries_meant(path_with_symbols, functions, places(library, WIRE_GO_ENTER, call)),
              std::set{known.offset})
        << path_with_symbols << " " << name;
    const auto returns = returns_by_objdump(path_with_symbols, known);
    EXPECT_GE(returns.size(), 2u);
    EXPECT_EQ(returns_meant(path_with_symbols, known, places(library, WIRE_GO_RETURN, call)), returns)
        << path_with_symbols << " " << name;
  }
  EXPECT_EQ(entries_meant(path_with_symbols, functions, places(library, WIRE_GO_END)),
            std::set{functions.at("crypto/tls.(*Conn).Close").offset});
  for (const ProbeSite& site : library.sites)
    EXPECT_EQ(site.cookie >> 5 & 0xf, std::uint64_t{WIRE_LIBRARY_GO});
}

class GoProbes : public ::testing::TestWithParam<const char*> {
 protected:
  static std::string program(const std::string& form) { return probe_target(form + "-" + GetParam()); }
};

TEST_P(GoProbes, SitesAreThoseOfTheSymbols) {
  for (const std::string form : {"hello", "hello-pie"}) {
    const auto library = only_library(program(form));
    EXPECT_EQ(library.library, TlsLibrary::go);
    EXPECT_TRUE(library.name.starts_with(std::string("Go ") + GetParam())) << library.name;
    expect_go_sites(library, program(form));
    // The linker lays the code out in the same way without symbols.
    const auto stripped = only_library(program(form + "-stripped"));
    EXPECT_EQ(stripped.name, library.name);
    expect_go_sites(stripped, program(form));
  }
}

TEST_P(GoProbes, ProgramsWithoutSectionHeaders) {
  for (const std::string form : {"hello", "hello-stripped"}) {
    std::string contents = contents_of(program(form));
    auto* header = reinterpret_cast<Elf64_Ehdr*>(contents.data());
    header->e_shoff = header->e_shnum = header->e_shstrndx = 0;
    const auto libraries = libraries_of(contents);
    ASSERT_EQ(libraries.size(), 1u) << form;
    EXPECT_EQ(libraries[0].unreadable, "");
    EXPECT_TRUE(libraries[0].name.starts_with("Go ")) << libraries[0].name;
    expect_go_sites(libraries[0], program("hello"));
  }
}

INSTANTIATE_TEST_SUITE_P(Toolchains, GoProbes, ::testing::ValuesIn(kToolchains));

TEST(GoProbes, TheCLinkersCodeMayComeFirst) {
  const std::string path = probe_target("hello-pie-external-1.23");
  expect_go_sites(only_library(path), path);
}

TEST(GoProbes, AProgramWithoutTlsHasNone) {
  EXPECT_TRUE(libraries_in(probe_target("no-tls-1.23")).empty());
}

// The toolchain's own tools are programs of others' making.
TEST(GoProbes, TheGoCommand) {
  for (const char* toolchain : kToolchains)
    EXPECT_EQ(only_library(std::string("/usr/lib/go-") + toolchain + "/bin/go").library, TlsLibrary::go);
}

TEST(GoProbes, BeforeArgumentsWereInRegisters) {
  std::string contents = contents_of(probe_target("hello-1.19"));
  // The version stands right behind the build information's 32 bytes and its own length.
  const auto info = contents.find("\xff Go buildinf:");
  const auto version = contents.find("go1.19", info);
  ASSERT_LT(version, info + 48);
  contents.replace(version, 6, "go1.16");
  const auto libraries = libraries_of(contents);
  ASSERT_EQ(libraries.size(), 1u);
  EXPECT_TRUE(libraries[0].name.starts_with("Go 1.16")) << libraries[0].name;
  EXPECT_EQ(libraries[0].unreadable, "Go before 1.17");
  EXPECT_TRUE(libraries[0].sites.empty());
}

// ---- the layout of 1.16 and 1.17, whose toolchains Debian 12 does not have

template <class T>
T read(const std::string& contents, std::size_t at) {
  T value;
  std::memcpy(&value, contents.data() + at, sizeof(value));
  return value;
}

template <class T>
void append(std::string& contents, T value) {
  contents.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// The table of a program of 1.19, written as 1.17 does (runtime/symtab.go, runtime2.go): addresses in place
// of offsets from the program's first instruction, which the header does not have.
std::string in_layout_of_117(std::string contents) {
  const std::string magic("\xf0\xff\xff\xff\x00\x00\x01\x08", 8);
  const auto table = contents.find(magic);
  const auto number = [&](int i) { return read<std::uint64_t>(contents, table + 8 + 8 * i); };
  const std::uint64_t count = number(0), text = number(2), names = number(3), names_end = number(4),
                      rows = table + number(7);
  std::string all_names = contents.substr(table + names, names_end - names);
  std::string header("\xfa\xff\xff\xff\x00\x00\x01\x08", 8), new_rows, descriptions;
  const std::uint64_t new_names = 8 + 7 * 8, new_rows_at = new_names + all_names.size();
  for (std::uint64_t i = 0; i <= count; ++i) {
    const auto start = text + read<std::uint32_t>(contents, rows + i * 8);
    append<std::uint64_t>(new_rows, start);
    if (i == count) break;
    append<std::uint64_t>(new_rows, (count * 2 + 1) * 8 + descriptions.size());
    append<std::uint64_t>(descriptions, start);
    append(descriptions,
           read<std::uint32_t>(contents, rows + read<std::uint32_t>(contents, rows + i * 8 + 4) + 4));
  }
  for (const std::uint64_t value :
       {count, std::uint64_t{0}, new_names, new_rows_at, new_rows_at, new_rows_at, new_rows_at})
    append(header, value);
  const std::string whole = header + all_names + new_rows + descriptions;
  return contents.replace(table, whole.size(), whole);
}

TEST(GoProbes, TheLayoutOf117) {
  const std::string path = probe_target("hello-1.19");
  const auto libraries = libraries_of(in_layout_of_117(contents_of(path)));
  ASSERT_EQ(libraries.size(), 1u);
  EXPECT_EQ(libraries[0].unreadable, "");
  expect_go_sites(libraries[0], path);
}

// A table that names places where no such function is.
TEST(GoProbes, AWrongTableIsNotBelieved) {
  std::string contents = contents_of(probe_target("hello-1.23"));
  const auto table = contents.find(std::string("\xf1\xff\xff\xff\x00\x00\x01\x08", 8));
  ASSERT_NE(table, std::string::npos);
  const auto rows = table + read<std::uint64_t>(contents, table + 64);
  const auto count = read<std::uint64_t>(contents, table + 8);
  reinterpret_cast<Elf64_Ehdr*>(contents.data())->e_entry += 0x40;
  for (std::uint64_t i = 0; i <= count; ++i) {
    const auto start = read<std::uint32_t>(contents, rows + i * 8) + 5;
    std::memcpy(contents.data() + rows + i * 8, &start, sizeof(start));
  }
  const auto libraries = libraries_of(contents);
  ASSERT_EQ(libraries.size(), 1u);
  EXPECT_EQ(libraries[0].unreadable, "Go: its functions are not where its table says");
}

TEST(GoProbes, DamagedTablesDoNoHarm) {
  std::string contents = contents_of(probe_target("hello-stripped-1.23"));
  const auto table = contents.find(std::string("\xf1\xff\xff\xff\x00\x00\x01\x08", 8));
  const auto info = contents.find("\xff Go buildinf:");
  for (const auto& [start, length] : {std::pair{table, 80}, std::pair{info, 64}}) {
    for (std::size_t at = start; at < start + length; ++at) {
      for (const char value : {'\0', '\x7f', '\xff'}) {
        const char kept = std::exchange(contents[at], value);
        const MemoryFile file(contents);
        (void)find_tls_libraries(file.get());
        contents[at] = kept;
      }
    }
  }
}

}  // namespace
}  // namespace weir::bpf
