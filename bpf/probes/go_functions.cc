// The build information, and the table of functions (pclntab) in its three layouts.
#include "bpf/probes/go_functions.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <vector>

#include "bpf/probes/instruction.h"
#include "bpf/probes/text_search.h"

namespace weir::bpf {
namespace {

constexpr std::string_view kBuildMagic = "\xff Go buildinf:";
constexpr std::uint64_t kBuildInfoAlignment = 16;
constexpr std::uint64_t kBuildInfoWithin = 64 * 1024;  // of the beginning of a segment of data
constexpr std::size_t kMaxVersionBytes = 128;
constexpr std::uint64_t kMaxTableBytes = 256ull * 1024 * 1024;
constexpr std::uint64_t kMaxFunctions = 4'000'000;
constexpr std::uint64_t kMaxFunctionBytes = 64 * 1024;

// What the linker calls the first function of a program without C code.
constexpr std::string_view kEntryName = "_rt0_amd64_linux";

// ---- build information

// debug/buildinfo: 16 bytes (magic, pointer size, flags), then either the text itself behind its length, or,
// before 1.18, a pointer to a string's header.
struct BuildInfo {
  std::array<char, 14> magic;
  std::uint8_t pointer_bytes;
  std::uint8_t flags;
  std::uint64_t version_pointer;
  std::uint64_t modules_pointer;
};
constexpr std::uint8_t kBigEndian = 1, kInlineTexts = 2;

bool is_build_info(const BuildInfo& info) {
  return std::string_view(info.magic.data(), info.magic.size()) == kBuildMagic;
}

std::optional<std::uint64_t> find_build_info(ElfFile& file) {
  if (file.has_sections()) {
    const auto section = file.section_ending(".go.buildinfo");
    if (!section) return std::nullopt;
    return section->content.offset;
  }
  for (const Elf64_Phdr& segment : file.segments()) {
    if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_W)) continue;
    const FileRange start[] = {
        {segment.p_offset, std::min<std::uint64_t>(segment.p_filesz, kBuildInfoWithin)}};
    const auto found = find_texts(file.reader(), start, std::array{SoughtText{kBuildMagic}}).front();
    if (found && (found->offset - segment.p_offset) % kBuildInfoAlignment == 0) return found->offset;
  }
  return std::nullopt;
}

// "go1.21.3", "go1.22.1 X:boringcrypto", "devel go1.23-4fa5". As far as it is a version: "1.21.3".
std::string version_in(std::string_view text) {
  const auto start = text.find("go1.");
  if (start == std::string_view::npos) return {};
  text.remove_prefix(start + 2);
  return std::string(text.substr(0, text.find_first_not_of("0123456789.")));
}

std::string read_version(ElfFile& file, std::uint64_t build_info) {
  const auto info = file.reader().read_one<BuildInfo>(build_info);
  if (!info || !is_build_info(*info)) return {};
  std::array<char, kMaxVersionBytes> text{};
  const auto bytes = std::as_writable_bytes(std::span(text));
  const auto read_text = [&](std::uint64_t size) {
    return std::span(reinterpret_cast<std::uint8_t*>(bytes.data()),
                     std::min<std::uint64_t>(size, text.size()));
  };
  if (info->flags & kInlineTexts) {
    const auto size = file.reader().read_one<std::uint8_t>(build_info + sizeof(BuildInfo));
    if (!size || *size >= 0x80 || !file.reader().read(build_info + sizeof(BuildInfo) + 1, read_text(*size)))
      return {};
    return version_in({text.data(), *size});
  }
  if (info->pointer_bytes != 8 || (info->flags & kBigEndian)) return {};
  std::array<std::uint64_t, 2> string{};  // a string's header: pointer and length
  if (!file.read_at(info->version_pointer, {reinterpret_cast<std::uint8_t*>(string.data()), sizeof(string)}))
    return {};
  if (!file.read_at(string[0], read_text(string[1]))) return {};
  return version_in({text.data(), std::min<std::uint64_t>(string[1], text.size())});
}

// 21 of "1.21.3".
std::optional<unsigned> minor_version(std::string_view version) {
  unsigned minor = 0;
  if (!version.starts_with("1.")) return std::nullopt;
  const auto [end, error] = std::from_chars(version.data() + 2, version.data() + version.size(), minor);
  return error == std::errc() ? std::optional(minor) : std::nullopt;
}

// ---- the table of functions

enum Magic : std::uint32_t {
  kGo12 = 0xfffffffb,
  kGo116 = 0xfffffffa,
  kGo118 = 0xfffffff0,
  kGo120 = 0xfffffff1,
};

struct TableStart {
  std::uint32_t magic;
  std::uint16_t zero;
  std::uint8_t instruction_bytes;
  std::uint8_t pointer_bytes;
};

bool is_table(const TableStart& start) {
  const bool known =
      start.magic == kGo12 || start.magic == kGo116 || start.magic == kGo118 || start.magic == kGo120;
  return known && start.zero == 0 && start.instruction_bytes == 1 && start.pointer_bytes == 8;
}

struct Table {
  std::uint32_t magic = 0;
  FileRange content;
  std::uint64_t address = 0;
};

std::optional<Table> table_at(ElfFile& file, FileRange content, std::uint64_t address) {
  const auto start = file.reader().read_one<TableStart>(content.offset);
  if (!start || !is_table(*start)) return std::nullopt;
  content.size = std::min(content.size, kMaxTableBytes);
  return Table{start->magic, content, address};
}

std::optional<Table> find_table(ElfFile& file) {
  if (const auto section = file.section_ending(".gopclntab"))
    return table_at(file, section->content, section->address);
  // Without sections: wherever data begins as the table does.
  constexpr SoughtText kStarts[] = {
      {{"\xf1\xff\xff\xff\x00\x00\x01\x08", 8}},
      {{"\xf0\xff\xff\xff\x00\x00\x01\x08", 8}},
      {{"\xfa\xff\xff\xff\x00\x00\x01\x08", 8}},
      {{"\xfb\xff\xff\xff\x00\x00\x01\x08", 8}},
  };
  for (const Elf64_Phdr& segment : file.segments()) {
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X)) continue;
    const FileRange range{segment.p_offset, segment.p_filesz};
    for (const auto& found : find_texts(file.reader(), std::array{range}, kStarts)) {
      if (!found) continue;
      const std::uint64_t within = found->offset - range.offset;
      if (const auto table = table_at(file, {found->offset, range.size - within}, segment.p_vaddr + within))
        return table;
    }
  }
  return std::nullopt;
}

// One function's entries in the table.
struct Entry {
  std::string_view name;
  std::uint64_t start = 0;  // from the program's first instruction, or an address, as the layout has it
  std::uint64_t end = 0;
};

// The table since 1.16: a header of eight-byte numbers, the names, and pairs of a function's start and the
// place of its description, in which the place of its name stands second.
class FunctionTable {
 public:
  FunctionTable(ElfFile& file, const Table& table) : file_(file), table_(table) {}

  std::expected<std::vector<Entry>, std::string> find(std::span<const std::string_view> names) {
    if (!read_header()) return std::unexpected("its table of functions can't be read");
    const auto places = find_names(file_.reader(), names_, names);
    if (!places) return std::unexpected("the names of its functions can't be read");
    std::vector<Entry> found;
    if (places->empty()) return found;
    const bool read =
        is_relative() ? search<std::uint32_t>(*places, found) : search<std::uint64_t>(*places, found);
    if (!read) return std::unexpected("its table of functions can't be read");
    return found;
  }

  // 1.18 and later count from the program's first instruction.
  bool is_relative() const { return table_.magic != kGo116; }
  std::uint64_t text_start_address() const { return table_.address + 8 + 2 * sizeof(std::uint64_t); }

 private:
  template <class T>
  struct Row {
    T start;
    T description;
  };

  bool read_header() {
    std::array<std::uint64_t, 8> numbers{};
    const std::size_t count = is_relative() ? 8 : 7;
    const auto bytes = std::span(reinterpret_cast<std::uint8_t*>(numbers.data()), count * sizeof(numbers[0]));
    if (!file_.reader().read(table_.content.offset + sizeof(TableStart), bytes)) return false;
    const std::uint64_t* places = numbers.data() + (is_relative() ? 3 : 2);
    const std::uint64_t names = places[0], names_end = places[1];
    count_ = numbers[0];
    rows_ = places[4];
    if (count_ > kMaxFunctions || names > names_end || names_end > table_.content.size ||
        rows_ > table_.content.size)
      return false;
    names_ = {table_.content.offset + names, names_end - names};
    return true;
  }

  template <class T>
  bool search(const NamePlaces& places, std::vector<Entry>& found) {
    constexpr std::size_t kMaxFound = 64;
    const std::uint64_t base = table_.content.offset + rows_;
    FileWindow rows(file_.reader()), descriptions(file_.reader());
    for (std::uint64_t i = 0; i < count_ && found.size() < kMaxFound; ++i) {
      const auto row = rows.read_one<Row<T>>(base + i * sizeof(Row<T>));
      if (!row || row->description > table_.content.size) return false;
      const auto name = descriptions.read_one<std::uint32_t>(base + row->description + sizeof(T));
      if (!name) return false;
      const auto place = places.find(*name);
      if (place == places.end()) continue;
      const auto next = rows.read_one<T>(base + (i + 1) * sizeof(Row<T>));
      if (!next || *next <= row->start) return false;
      found.push_back({place->second, row->start, *next});
    }
    return true;
  }

  ElfFile& file_;
  Table table_;
  std::uint64_t count_ = 0;
  std::uint64_t rows_ = 0;
  FileRange names_;
};

// Whether a function begins as Go's do that use more than a little stack: by comparing the stack pointer, or
// what it will be (in r12), with the limit of the goroutine's stack, which stands at 0x10 of what r14 points
// to.
bool begins_as_go(ElfFile& file, const ElfFunction& function) {
  constexpr std::size_t kInstructions = 4;  // mov r12,rsp; sub r12,N; jb; cmp
  constexpr std::int64_t kStackGuard = 0x10;
  std::vector<std::uint8_t> code(std::min<std::uint64_t>(function.size, 64));
  if (!file.code_offset(function.address) || !file.read_at(function.address, code)) return false;
  const Decoder decoder;
  std::span<const std::uint8_t> left = code;
  for (std::size_t i = 0; i < kInstructions; ++i) {
    Instruction instruction;
    if (!decoder.decode(left, instruction)) return false;
    const auto& first = instruction.operands[0];
    const auto& second = instruction.operands[1];
    const auto compared = i == 0 ? ZYDIS_REGISTER_RSP : ZYDIS_REGISTER_R12;
    if (instruction.is(ZYDIS_MNEMONIC_CMP))
      return first.type == ZYDIS_OPERAND_TYPE_REGISTER && first.reg.value == compared &&
             second.type == ZYDIS_OPERAND_TYPE_MEMORY && second.mem.base == ZYDIS_REGISTER_R14 &&
             second.mem.disp.value == kStackGuard;
    const bool prepares = first.type == ZYDIS_OPERAND_TYPE_REGISTER && first.reg.value == ZYDIS_REGISTER_R12;
    if (!prepares && !(i > 0 && instruction.is_jump())) return false;
    left = left.subspan(instruction.what.length);
  }
  return false;
}

// Where the program's first instruction may be. The table says it, but the loader may have to fill it in, and
// newer toolchains leave it out.
std::vector<std::uint64_t> text_starts(ElfFile& file, const FunctionTable& table,
                                       const std::vector<Entry>& entries) {
  if (!table.is_relative()) return {0};
  std::vector<std::uint64_t> starts;
  if (const auto told = file.constant_pointers(table.text_start_address(), 1); told && told->front() != 0)
    starts.push_back(told->front());
  const auto entry = std::ranges::find(entries, kEntryName, &Entry::name);
  if (entry != entries.end()) starts.push_back(file.entry() - entry->start);
  if (const auto text = file.section_ending(".text")) starts.push_back(text->address);
  return starts;
}

std::optional<std::map<std::string_view, ElfFunction>> placed(ElfFile& file,
                                                              const std::vector<Entry>& entries,
                                                              std::uint64_t text_start) {
  std::map<std::string_view, ElfFunction> functions;
  for (const Entry& entry : entries) {
    if (entry.name == kEntryName) continue;
    const ElfFunction function{text_start + entry.start, entry.end - entry.start};
    if (function.size > kMaxFunctionBytes || !begins_as_go(file, function)) return std::nullopt;
    if (!functions.emplace(entry.name, function).second) return std::nullopt;
  }
  return functions;
}

std::expected<GoProgram, std::string> read_functions(ElfFile& file, const Table& table, GoProgram program,
                                                     std::span<const std::string_view> names) {
  std::vector<std::string_view> sought(names.begin(), names.end());
  sought.push_back(kEntryName);
  FunctionTable functions(file, table);
  const auto entries = functions.find(sought);
  if (!entries) return std::unexpected(entries.error());
  if (std::ranges::all_of(*entries, [](const Entry& entry) { return entry.name == kEntryName; }))
    return program;
  for (const std::uint64_t start : text_starts(file, functions, *entries)) {
    if (auto found = placed(file, *entries, start)) {
      program.functions = *std::move(found);
      return program;
    }
  }
  return std::unexpected("its functions are not where its table says");
}

// Which of the functions an older program has: its names stand anywhere in the table.
GoProgram older_program(ElfFile& file, const Table& table, GoProgram program,
                        std::span<const std::string_view> names) {
  program.arguments_in_registers = false;
  if (const auto places = find_names(file.reader(), table.content, names)) {
    for (const auto& [place, name] : *places) program.functions.emplace(name, ElfFunction{});
  }
  return program;
}

}  // namespace

std::expected<std::optional<GoProgram>, std::string> read_go_program(
    ElfFile& file, std::span<const std::string_view> names) {
  const auto build_info = find_build_info(file);
  if (!build_info) return std::nullopt;
  GoProgram program;
  program.version = read_version(file, *build_info);
  const auto table = find_table(file);
  if (!table) return std::unexpected("no table of functions");
  const auto minor = minor_version(program.version);
  if (table->magic == kGo12 || (minor && *minor < 17))
    return older_program(file, *table, std::move(program), names);
  auto read = read_functions(file, *table, std::move(program), names);
  if (!read) return std::unexpected(read.error());
  return *std::move(read);
}

}  // namespace weir::bpf
