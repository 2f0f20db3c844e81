// The table of probed functions, and the reading of an ELF file's dynamic symbols. The file is somebody
// else's: everything read from it is checked before use, and nothing is mapped (a file cut short would be
// SIGBUS).
#include "bpf/probes/tls_probes.h"

#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "bpf/probes/machine_code.h"
#include "bpf/wire.h"

namespace weir::bpf {
namespace {

constexpr std::uint64_t site(wire_tls_call call) {
  return WIRE_SITE(WIRE_LIBRARY_OPENSSL, call);
}

// SSL_peek does not pass through SSL_read. SSL_do_handshake leaves by a jump, so its return can't be probed;
// what it would tell (socket, version, name) is told with the first bytes.
constexpr ProbePoint kOpenSslPoints[] = {
    {"SSL_read", WIRE_TLS_ENTER, site(WIRE_CALL_READ), true},
    {"SSL_read", WIRE_TLS_RETURN, site(WIRE_CALL_READ), true},
    {"SSL_read_ex", WIRE_TLS_ENTER, site(WIRE_CALL_READ_EX), true},
    {"SSL_read_ex", WIRE_TLS_RETURN, site(WIRE_CALL_READ_EX), true},
    {"SSL_write", WIRE_TLS_ENTER, site(WIRE_CALL_WRITE), true},
    {"SSL_write", WIRE_TLS_RETURN, site(WIRE_CALL_WRITE), true},
    {"SSL_write_ex", WIRE_TLS_ENTER, site(WIRE_CALL_WRITE_EX), true},
    {"SSL_write_ex", WIRE_TLS_RETURN, site(WIRE_CALL_WRITE_EX), true},
    {"SSL_free", WIRE_TLS_END, site(WIRE_CALL_FREE), true},
    {"SSL_clear", WIRE_TLS_END, site(WIRE_CALL_CLEAR), false},
    {"SSL_shutdown", WIRE_TLS_END, site(WIRE_CALL_SHUTDOWN), false},
    {"SSL_ctrl", WIRE_TLS_NAME, site(WIRE_CALL_CONTROL), false},
};

constexpr LibraryProbes kLibraries[] = {
    {TlsLibrary::openssl, "libssl.so.3", kOpenSslPoints},
    {TlsLibrary::openssl, "libssl.so.1.1", kOpenSslPoints},
};

constexpr std::size_t kMaxHeaders = 4096;
constexpr std::size_t kMaxFunctionBytes = 64 * 1024;
constexpr std::size_t kMaxTableBytes = 16 * 1024 * 1024;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
constexpr unsigned char kByteOrder = ELFDATA2LSB;
#else
constexpr unsigned char kByteOrder = ELFDATA2MSB;
#endif

template <class T>
std::expected<std::vector<T>, std::string> read_table(int file, std::uint64_t offset, std::size_t count) {
  if (count > kMaxTableBytes / sizeof(T)) return std::unexpected("a table is too large");
  if (offset > static_cast<std::uint64_t>(INT64_MAX) - kMaxTableBytes)
    return std::unexpected("an offset is too large");
  std::vector<T> table(count);
  auto* bytes = reinterpret_cast<char*>(table.data());
  std::size_t done = 0;
  while (done < count * sizeof(T)) {
    const ssize_t got =
        ::pread(file, bytes + done, count * sizeof(T) - done, static_cast<off_t>(offset + done));
    if (got <= 0) return std::unexpected("the file ends early");
    done += static_cast<std::size_t>(got);
  }
  return table;
}

struct Elf {
  std::vector<Elf64_Phdr> segments;
  std::vector<Elf64_Sym> symbols;
  std::vector<char> names;
};

std::expected<Elf64_Ehdr, std::string> read_header(int file) {
  auto header = read_table<Elf64_Ehdr>(file, 0, 1);
  if (!header) return std::unexpected("not an ELF file");
  const Elf64_Ehdr& elf = header->front();
  if (std::memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0) return std::unexpected("not an ELF file");
  if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_ident[EI_DATA] != kByteOrder)
    return std::unexpected("not an ELF file of this machine");
  if (elf.e_phentsize != sizeof(Elf64_Phdr) || elf.e_shentsize != sizeof(Elf64_Shdr))
    return std::unexpected("ELF headers of an unknown size");
  if (elf.e_phnum > kMaxHeaders || elf.e_shnum > kMaxHeaders) return std::unexpected("too many ELF headers");
  return elf;
}

std::expected<Elf, std::string> read_elf(int file) {
  const auto header = read_header(file);
  if (!header) return std::unexpected(header.error());
  auto segments = read_table<Elf64_Phdr>(file, header->e_phoff, header->e_phnum);
  if (!segments) return std::unexpected(segments.error());
  auto sections = read_table<Elf64_Shdr>(file, header->e_shoff, header->e_shnum);
  if (!sections) return std::unexpected(sections.error());
  const auto dynamic = std::ranges::find(*sections, Elf64_Word{SHT_DYNSYM}, &Elf64_Shdr::sh_type);
  if (dynamic == sections->end() || dynamic->sh_link >= sections->size())
    return std::unexpected("no dynamic symbols");
  const Elf64_Shdr& strings = (*sections)[dynamic->sh_link];
  auto symbols = read_table<Elf64_Sym>(file, dynamic->sh_offset, dynamic->sh_size / sizeof(Elf64_Sym));
  if (!symbols) return std::unexpected(symbols.error());
  auto names = read_table<char>(file, strings.sh_offset, strings.sh_size);
  if (!names) return std::unexpected(names.error());
  return Elf{std::move(*segments), std::move(*symbols), std::move(*names)};
}

std::string_view name_at(const Elf& elf, std::size_t offset) {
  if (offset >= elf.names.size()) return {};
  const char* text = elf.names.data() + offset;
  return {text, ::strnlen(text, elf.names.size() - offset)};
}

// Where in the file the code of a virtual address stands; 0 when it is not executable code of the file.
std::uint64_t file_offset(const Elf& elf, std::uint64_t address) {
  for (const auto& segment : elf.segments) {
    if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X)) continue;
    if (address < segment.p_vaddr || address - segment.p_vaddr >= segment.p_filesz) continue;
    const std::uint64_t offset = address - segment.p_vaddr + segment.p_offset;
    return offset >= segment.p_offset ? offset : 0;
  }
  return 0;
}

struct Function {
  std::uint64_t offset = 0;  // in the file
  std::uint64_t size = 0;
};

// Names stand in the string table without their version. Only a default or sole version is looked for: the
// functions of the table have had one version each.
std::map<std::string_view, Function> find_functions(const Elf& elf, std::span<const ProbePoint> points) {
  std::map<std::string_view, Function> functions;
  for (const auto& symbol : elf.symbols) {
    if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF) continue;
    const std::string_view name = name_at(elf, symbol.st_name);
    const auto point = std::ranges::find(points, name, &ProbePoint::symbol);
    if (point == points.end()) continue;
    if (const auto offset = file_offset(elf, symbol.st_value))
      functions[point->symbol] = {offset, symbol.st_size};
  }
  return functions;
}

std::expected<void, std::string> add_sites(int file, const ProbePoint& point, const Function& function,
                                           std::vector<ProbeSite>& sites) {
  if (point.program != WIRE_TLS_RETURN) {
    sites.push_back({point.program, function.offset, point.cookie});
    return {};
  }
  if (function.size == 0 || function.size > kMaxFunctionBytes) return std::unexpected("a size that can't be");
  const auto code = read_table<std::uint8_t>(file, function.offset, function.size);
  if (!code) return std::unexpected(code.error());
  const auto returns = find_returns(*code);
  if (!returns) return std::unexpected(returns.error());
  for (const std::uint64_t at : *returns)
    sites.push_back({point.program, function.offset + at, point.cookie});
  return {};
}

}  // namespace

std::span<const LibraryProbes> library_probes() {
  return kLibraries;
}

const LibraryProbes* probes_for_file_name(std::string_view file_name) {
  for (const auto& library : kLibraries)
    if (file_name.starts_with(library.file_name_prefix)) return &library;
  return nullptr;
}

std::expected<std::vector<ProbeSite>, std::string> resolve_sites(int file_descriptor,
                                                                 const LibraryProbes& probes) {
  const auto elf = read_elf(file_descriptor);
  if (!elf) return std::unexpected(elf.error());
  const auto functions = find_functions(*elf, probes.points);
  std::vector<ProbeSite> sites;
  for (const auto& point : probes.points) {
    const auto found = functions.find(point.symbol);
    const std::string name(point.symbol);
    if (found == functions.end() && point.required) return std::unexpected("no function " + name);
    if (found == functions.end()) continue;
    if (auto added = add_sites(file_descriptor, point, found->second, sites); !added)
      return std::unexpected(name + ": " + added.error());
  }
  return sites;
}

}  // namespace weir::bpf
