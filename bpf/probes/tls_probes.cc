// The tables of probed functions, and the search for them.
#include "bpf/probes/tls_probes.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "bpf/probes/client_random.h"
#include "bpf/probes/elf_file.h"
#include "bpf/probes/go_functions.h"
#include "bpf/probes/library_texts.h"
#include "bpf/probes/machine_code.h"
#include "bpf/probes/nss_methods.h"
#include "bpf/probes/placement.h"
#include "bpf/probes/server_flag.h"
#include "bpf/wire.h"

namespace weir::bpf {
namespace {

constexpr std::uint64_t kMaxFunctionBytes = 64 * 1024;

enum class Need {
  always,      // the library is not read without it
  if_defined,  // the same, when it has the function: what passes through it would be missed
  helpful,     // left out when it can't be probed
};

struct ProbePoint {
  std::string_view symbol;
  wire_tls_call call;
  Need need;
};

struct LibraryTable {
  TlsLibrary library;
  wire_tls_library wire;
  std::string_view title;
  std::string_view file_name_prefix;  // of the library when it is a file of its own
  // The file contains the library when it defines all of the first and none or one of the second.
  std::span<const std::string_view> core;
  std::span<const std::string_view> marks;
  bool marked;
  std::span<const ProbePoint> points;
  // The library's function that tells the client's random bytes, and how its code is read; and the one that
  // tells a server's object.
  std::string_view random;
  std::expected<ClientRandom, std::string> (*find_random)(const FunctionCode&);
  std::string_view is_server;
};

// SSL_do_handshake is what wrappers and stand-ins that bring an SSL_read of their own don't have.
constexpr std::string_view kSslCore[] = {"SSL_do_handshake", "SSL_new"};

// Only BoringSSL has these: from its ssl.h, and one of its C++ functions that every handshake passes through.
constexpr std::string_view kBoringSslMarks[] = {
    "SSL_CTX_set_grease_enabled",
    "SSL_set_enforce_rsa_key_usage",
    "SSL_get_early_data_reason",
    "SSL_process_tls13_new_session_ticket",
    "_ZN4bssl13ssl_run_handshakeEPNS_13SSL_HANDSHAKEEPb",
};

// SSL_peek does not pass through SSL_read.
constexpr ProbePoint kOpenSslPoints[] = {
    {"SSL_read", WIRE_CALL_READ, Need::always},
    {"SSL_read_ex", WIRE_CALL_READ_EX, Need::if_defined},
    {"SSL_write", WIRE_CALL_WRITE, Need::always},
    {"SSL_write_ex", WIRE_CALL_WRITE_EX, Need::if_defined},
    {"SSL_sendfile", WIRE_CALL_SEND_FILE, Need::helpful},
    {"SSL_free", WIRE_CALL_FREE, Need::always},
    {"SSL_clear", WIRE_CALL_CLEAR, Need::helpful},
    {"SSL_shutdown", WIRE_CALL_SHUTDOWN, Need::helpful},
};

// SSL_read calls SSL_peek, which is not probed.
constexpr ProbePoint kBoringSslPoints[] = {
    {"SSL_read", WIRE_CALL_READ, Need::always},          {"SSL_write", WIRE_CALL_WRITE, Need::always},
    {"SSL_free", WIRE_CALL_FREE, Need::always},          {"SSL_clear", WIRE_CALL_CLEAR, Need::helpful},
    {"SSL_shutdown", WIRE_CALL_SHUTDOWN, Need::helpful},
};

// gnutls_record_send jumps to gnutls_record_send2 (3.6.3 and later), gnutls_record_send_file calls
// gnutls_record_send. A corked gnutls_record_send takes the bytes, and gnutls_record_uncork gives them to it
// again.
constexpr std::string_view kGnuTlsCore[] = {"gnutls_handshake", "gnutls_record_send"};
constexpr ProbePoint kGnuTlsPoints[] = {
    {"gnutls_record_recv", WIRE_CALL_READ_LONG, Need::always},
    {"gnutls_record_recv_seq", WIRE_CALL_READ_LONG, Need::if_defined},
    {"gnutls_record_recv_packet", WIRE_CALL_READ_PACKET, Need::if_defined},
    {"gnutls_record_send", WIRE_CALL_WRITE_LONG, Need::always},
    {"gnutls_record_send2", WIRE_CALL_WRITE_LONG, Need::if_defined},
    {"gnutls_record_send_range", WIRE_CALL_WRITE_LONG, Need::helpful},
    {"gnutls_record_uncork", WIRE_CALL_FLUSH, Need::if_defined},
    {"gnutls_deinit", WIRE_CALL_FREE, Need::always},
    {"gnutls_bye", WIRE_CALL_SHUTDOWN, Need::helpful},
};

constexpr std::string_view kSslRandom = "SSL_get_client_random";
constexpr std::string_view kSslIsServer = "SSL_is_server";

constexpr LibraryTable kLibraries[] = {
    {TlsLibrary::openssl, WIRE_LIBRARY_OPENSSL, "OpenSSL", "libssl", kSslCore, kBoringSslMarks, false,
     kOpenSslPoints, kSslRandom, find_client_random, kSslIsServer},
    {TlsLibrary::boringssl, WIRE_LIBRARY_BORINGSSL, "BoringSSL", "libssl", kSslCore, kBoringSslMarks, true,
     kBoringSslPoints, kSslRandom, find_client_random, kSslIsServer},
    {TlsLibrary::gnutls,
     WIRE_LIBRARY_GNUTLS,
     "GnuTLS",
     "libgnutls",
     kGnuTlsCore,
     {},
     false,
     kGnuTlsPoints,
     "gnutls_session_get_random",
     find_session_random,
     ""},
};

// Libraries that can't be read wherever they are, by functions of theirs.
struct OtherLibrary {
  std::string_view title;
  std::string_view function;
};

constexpr OtherLibrary kOtherLibraries[] = {
    {"Mbed TLS", "mbedtls_ssl_read"},
    {"wolfSSL", "wolfSSL_read"},
    {"s2n-tls", "s2n_recv"},
};

constexpr std::string_view kNssCore = "SSL_ImportFD";

bool is_call(wire_tls_call call) {
  return call <= WIRE_CALL_FLUSH;
}

bool has_fourth_argument(wire_tls_call call) {
  return call == WIRE_CALL_READ_EX || call == WIRE_CALL_WRITE_EX || call == WIRE_CALL_READ_FLAGS;
}

std::vector<std::string_view> names_of_tables() {
  std::vector<std::string_view> names;
  for (const LibraryTable& table : kLibraries) {
    for (const ProbePoint& point : table.points) names.push_back(point.symbol);
    names.insert(names.end(), table.core.begin(), table.core.end());
    names.insert(names.end(), table.marks.begin(), table.marks.end());
    names.push_back(table.random);
    if (!table.is_server.empty()) names.push_back(table.is_server);
  }
  for (const OtherLibrary& other : kOtherLibraries) names.push_back(other.function);
  names.push_back(kNssCore);
  std::ranges::sort(names);
  names.erase(std::ranges::unique(names).begin(), names.end());
  return names;
}

bool contains(const LibraryTable& table, const ElfFile::Functions& functions) {
  const auto defined = [&](std::string_view name) { return functions.contains(name); };
  return std::ranges::all_of(table.core, defined) &&
         std::ranges::any_of(table.marks, defined) == table.marked;
}

class FileCode : public CodeSource {
 public:
  explicit FileCode(ElfFile& file) : file_(file) {}

  std::optional<FunctionCode> function_at(std::uint64_t address) override {
    const auto function = file_.function_at(address);
    return function ? code_of(*function) : std::nullopt;
  }
  bool read_at(std::uint64_t address, std::span<std::uint8_t> into) override {
    return file_.read_at(address, into);
  }
  std::optional<std::uint64_t> pointer_at(std::uint64_t address) override {
    const auto pointers = file_.constant_pointers(address, 1);
    return pointers && pointers->front() != 0 ? std::optional(pointers->front()) : std::nullopt;
  }

  std::optional<FunctionCode> code_of(const ElfFunction& function) {
    if (function.size == 0 || function.size > kMaxFunctionBytes || !file_.code_offset(function.address))
      return std::nullopt;
    FunctionCode code{function.address, std::vector<std::uint8_t>(function.size)};
    if (!file_.read_at(function.address, code.bytes)) return std::nullopt;
    return code;
  }

 private:
  ElfFile& file_;
};

// Which programs stand at a call, and where its calling convention has what they read at the entry.
struct CallPrograms {
  std::uint32_t enter, leave, end;
  std::span<const GeneralRegister> arguments;
  std::span<const GeneralRegister> object;  // of them
};

// The object, the buffer, its length and, for some, where the result goes, or flags (System V AMD64
// ABI, 3.2.3).
constexpr GeneralRegister kArguments[] = {GeneralRegister::rdi, GeneralRegister::rsi, GeneralRegister::rdx,
                                          GeneralRegister::rcx};
constexpr CallPrograms kCall{WIRE_TLS_ENTER, WIRE_TLS_RETURN, WIRE_TLS_END, std::span(kArguments).first(3),
                             std::span(kArguments).first(1)};
constexpr CallPrograms kCallOfFour{WIRE_TLS_ENTER, WIRE_TLS_RETURN, WIRE_TLS_END, kArguments,
                                   std::span(kArguments).first(1)};
// The object, and the slice's address and length; the goroutine is in R14.
constexpr GeneralRegister kGoArguments[] = {GeneralRegister::rax, GeneralRegister::r14, GeneralRegister::rbx,
                                            GeneralRegister::rcx};
constexpr CallPrograms kGoCall{WIRE_GO_ENTER, WIRE_GO_RETURN, WIRE_GO_END, kGoArguments,
                               std::span(kGoArguments).first(1)};

// The sites of one library, each place once: functions that jump to the same other function share its
// returns.
class Sites {
 public:
  explicit Sites(ElfFile& file) : file_(file), code_(file) {}

  // A probe where the function is entered.
  std::expected<void, std::string> add_entry(std::string_view name, const ElfFunction& function,
                                             const CallPrograms& programs, std::uint64_t cookie) {
    const auto code = read(function);
    const Place entry = code ? place_entry(*code, programs.object) : Place{function.address, 0, false};
    placed_.push_back({std::string(name), entry.emulated, 0, 0});
    return put(programs.end, entry, cookie);
  }

  // The same, and one for each return.
  std::expected<void, std::string> add_call(std::string_view name, const ElfFunction& function,
                                            const CallPrograms& programs, std::uint64_t cookie) {
    const auto code = read(function);
    if (!code) return std::unexpected(code.error());
    const Place entry = place_entry(*code, programs.arguments);
    if (auto site = put(programs.enter, entry, cookie); !site) return site;
    PlacedFunction placed{std::string(name), entry.emulated, 0, 0};
    for (const Place& place : place_returns(*code)) {
      if (auto site = put(programs.leave, place, cookie); !site) return site;
      ++placed.returns;
      placed.returns_emulated += place.emulated ? 1 : 0;
    }
    placed_.push_back(std::move(placed));
    return {};
  }

  void move_to(FoundLibrary& library) {
    library.sites = std::move(sites_);
    library.functions = std::move(placed_);
  }

 private:
  std::expected<CallCode, std::string> read(ElfFunction function) {
    if (function.size == 0) function = file_.function_at(function.address).value_or(function);
    const auto code = code_.code_of(function);
    if (!code) return std::unexpected("has a size that can't be");
    return read_call(*code, code_);
  }

  std::expected<void, std::string> put(std::uint32_t program, const Place& place, std::uint64_t cookie) {
    const auto offset = file_.code_offset(place.address);
    std::uint8_t first = 0;
    if (!offset || !file_.read_at(place.address, {&first, 1})) return std::unexpected("is not in the file");
    if (places_.emplace(program, *offset).second)
      sites_.push_back({program, *offset, cookie | WIRE_SITE_BELOW(place.below)});
    return {};
  }

  ElfFile& file_;
  FileCode code_;
  std::set<std::pair<std::uint32_t, std::uint64_t>> places_;
  std::vector<ProbeSite> sites_;
  std::vector<PlacedFunction> placed_;
};

// The part of each site's cookie that says what of an object tells its socket; 0 for what isn't known.
std::uint64_t object_facts(const LibraryTable& table, ElfFile& file, const ElfFile::Functions& functions) {
  const auto code_of = [&](std::string_view name) -> std::optional<FunctionCode> {
    const auto function = functions.find(name);
    return function == functions.end() ? std::nullopt : FileCode(file).code_of(function->second);
  };
  std::uint64_t facts = 0;
  if (const auto code = code_of(table.random))
    if (const auto place = table.find_random(*code))
      facts |= WIRE_SITE_RANDOM(place->pointer_at, place->random_at);
  if (const auto code = code_of(table.is_server))
    if (const auto server = find_server_flag(*code)) facts |= WIRE_SITE_SERVER(server->at, server->flag);
  return facts;
}

std::expected<Sites, std::string> sites_of(const LibraryTable& table, ElfFile& file,
                                           const ElfFile::Functions& functions) {
  Sites sites(file);
  const std::uint64_t facts = object_facts(table, file, functions);
  for (const ProbePoint& point : table.points) {
    const auto found = functions.find(point.symbol);
    const std::string name(point.symbol);
    if (found == functions.end()) {
      if (point.need == Need::always) return std::unexpected("no function " + name);
      continue;
    }
    const std::uint64_t cookie = WIRE_SITE(table.wire, point.call) | facts;
    const auto& programs = has_fourth_argument(point.call) ? kCallOfFour : kCall;
    const auto added = is_call(point.call) ? sites.add_call(name, found->second, programs, cookie)
                                           : sites.add_entry(name, found->second, programs, cookie);
    if (!added && point.need != Need::helpful) return std::unexpected(name + " " + added.error());
  }
  return sites;
}

std::expected<Sites, std::string> sites_of(const NssMethods& methods, ElfFile& file) {
  const auto cookie = [](wire_tls_call call) { return WIRE_SITE(WIRE_LIBRARY_NSS, call); };
  const std::tuple<std::string_view, std::uint64_t, wire_tls_call> calls[] = {
      {"read", methods.read, WIRE_CALL_READ},
      {"recv", methods.recv, WIRE_CALL_READ_FLAGS},
      {"write", methods.write, WIRE_CALL_WRITE},
      {"send", methods.send, WIRE_CALL_WRITE},
  };
  Sites sites(file);
  for (const auto& [name, address, call] : calls) {
    const auto& programs = has_fourth_argument(call) ? kCallOfFour : kCall;
    const auto added = sites.add_call(name, {address, 0}, programs, cookie(call));
    if (!added) return std::unexpected("a method of its table " + added.error());
  }
  const bool placed = sites.add_entry("close", {methods.close, 0}, kCall, cookie(WIRE_CALL_FREE)) &&
                      sites.add_entry("shutdown", {methods.shutdown, 0}, kCall, cookie(WIRE_CALL_SHUTDOWN));
  if (!placed) return std::unexpected("a method of its table is not in the file");
  return sites;
}

std::optional<FoundLibrary> find_nss(ElfFile& file, const ElfFile::Functions& functions) {
  if (!functions.contains(kNssCore)) return std::nullopt;
  FoundLibrary library{TlsLibrary::nss, file.soname(), {}, {}, {}};
  if (!library.name.starts_with("lib")) library.name = "static NSS";
  const auto methods = find_nss_methods(file);
  auto sites = methods ? sites_of(*methods, file) : std::unexpected(methods.error());
  if (sites) {
    sites->move_to(library);
  } else {
    library.unreadable = "NSS: " + sites.error();
  }
  return library;
}

std::string with_version(std::string_view title, const std::vector<LibraryText>& texts) {
  const auto text = std::ranges::find(texts, title, &LibraryText::title);
  const bool known = text != texts.end() && !text->version.empty();
  return std::string(title) + (known ? " " + text->version : "");
}

// A library that is a file of its own has its file's name.
std::string name_of(const LibraryTable& table, ElfFile& file, const std::vector<LibraryText>& texts) {
  const std::string soname = file.soname();
  if (soname.starts_with(table.file_name_prefix)) return soname;
  return "static " + with_version(table.title, texts);
}

bool is_read_with_symbols(std::string_view title) {
  return std::ranges::find(kLibraries, title, &LibraryTable::title) != std::end(kLibraries);
}

TlsLibrary library_titled(std::string_view title) {
  const auto table = std::ranges::find(kLibraries, title, &LibraryTable::title);
  return table == std::end(kLibraries) ? TlsLibrary::unknown : table->library;
}

// What can't be read, unless it was found with its symbols.
void add_unreadable(const ElfFile::Functions& functions, const std::vector<LibraryText>& texts,
                    std::vector<FoundLibrary>& libraries) {
  std::vector<std::string_view> titles;
  for (const OtherLibrary& other : kOtherLibraries)
    if (functions.contains(other.function)) titles.push_back(other.title);
  for (const LibraryText& text : texts) {
    const bool found = std::ranges::any_of(kLibraries, [&](const LibraryTable& table) {
      return table.title == text.title && contains(table, functions);
    });
    if (text.present && !found && std::ranges::find(titles, text.title) == titles.end())
      titles.push_back(text.title);
  }
  for (const std::string_view title : titles) {
    const std::string name = with_version(title, texts);
    if (is_read_with_symbols(title)) {
      libraries.push_back({library_titled(title),
                           "static " + name,
                           {},
                           {},
                           "static " + std::string(title) + " without symbols"});
    } else {
      libraries.push_back({TlsLibrary::unknown, name, {}, {}, std::string(title)});
    }
  }
}

struct GoPoint {
  std::string_view symbol;
  wire_uprobe_program program;
  wire_tls_call call;
};

// A program that lacks one of them never calls it: the linker leaves out what nothing refers to.
constexpr GoPoint kGoPoints[] = {
    {"crypto/tls.(*Conn).Read", WIRE_GO_ENTER, WIRE_CALL_GO_READ},
    {"crypto/tls.(*Conn).Write", WIRE_GO_ENTER, WIRE_CALL_GO_WRITE},
    {"crypto/tls.(*Conn).Close", WIRE_GO_END, WIRE_CALL_GO_CLOSE},
};

std::expected<Sites, std::string> sites_of(const GoProgram& program, ElfFile& file) {
  Sites sites(file);
  for (const GoPoint& point : kGoPoints) {
    const auto found = program.functions.find(point.symbol);
    if (found == program.functions.end()) continue;
    const std::uint64_t cookie = WIRE_SITE(WIRE_LIBRARY_GO, point.call);
    const auto added = point.program == WIRE_GO_END
                           ? sites.add_entry(point.symbol, found->second, kGoCall, cookie)
                           : sites.add_call(point.symbol, found->second, kGoCall, cookie);
    if (!added) return std::unexpected(std::string(point.symbol) + " " + added.error());
  }
  return sites;
}

std::optional<FoundLibrary> find_go(ElfFile& file) {
  std::vector<std::string_view> names;
  for (const GoPoint& point : kGoPoints) names.push_back(point.symbol);
  const auto program = read_go_program(file, names);
  FoundLibrary library{TlsLibrary::go, "Go", {}, {}, {}};
  if (!program) {
    library.unreadable = "Go: " + program.error();
    return library;
  }
  if (!*program || (*program)->functions.empty()) return std::nullopt;
  if (!(*program)->version.empty()) library.name += " " + (*program)->version;
  if (!(*program)->arguments_in_registers) {
    library.unreadable = "Go before 1.17";
  } else if (auto sites = sites_of(**program, file)) {
    sites->move_to(library);
  } else {
    library.unreadable = sites.error();
  }
  return library;
}

}  // namespace

std::expected<std::vector<FoundLibrary>, std::string> find_tls_libraries(int file_descriptor) {
  auto file = ElfFile::open(file_descriptor);
  if (!file) return std::unexpected(file.error());
  const auto functions = file->find_functions(names_of_tables());
  if (!functions) return std::unexpected(functions.error());
  const auto texts = find_library_texts(*file);
  std::vector<FoundLibrary> libraries;
  for (const LibraryTable& table : kLibraries) {
    if (!contains(table, *functions)) continue;
    FoundLibrary library{table.library, name_of(table, *file, texts), {}, {}, {}};
    if (auto sites = sites_of(table, *file, *functions)) {
      sites->move_to(library);
    } else {
      library.unreadable = sites.error();
    }
    libraries.push_back(std::move(library));
  }
  if (auto nss = find_nss(*file, *functions)) libraries.push_back(*std::move(nss));
  add_unreadable(*functions, texts, libraries);
  if (auto go = find_go(*file)) libraries.push_back(*std::move(go));
  return libraries;
}

bool brings_libraries(int file_descriptor) {
  static constexpr std::string_view kLanguages[] = {"libc.so.6",     "libm.so.6",     "libdl.so.2",
                                                    "librt.so.1",    "libgcc_s.so.1", "libpthread.so.0",
                                                    "libstdc++.so.6"};
  auto file = ElfFile::open(file_descriptor);
  return file && std::ranges::any_of(file->needed(), [](const std::string& name) {
           return std::ranges::find(kLanguages, name) == std::end(kLanguages) &&
                  !name.starts_with("ld-linux");
         });
}

}  // namespace weir::bpf
