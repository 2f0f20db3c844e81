// Bounded reading of ELF structures.
#include "bpf/probes/elf_file.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "bpf/probes/text_search.h"

namespace weir::bpf {
namespace {

constexpr std::size_t kMaxHeaders = 4096;
constexpr std::uint64_t kMaxTableBytes = 256ull * 1024 * 1024;
constexpr std::size_t kMaxNeeded = 256;
constexpr std::size_t kMaxDynamicEntries = 4096;
constexpr std::uint64_t kMaxSectionNames = 64 * 1024;
constexpr std::size_t kMaxPointers = 1024;

template <class T>
bool read_table(FileReader& reader, std::uint64_t offset, std::size_t count, std::vector<T>& table) {
  table.resize(count);
  return reader.read(offset, {reinterpret_cast<std::uint8_t*>(table.data()), count * sizeof(T)});
}

bool too_large(const Elf64_Shdr& section) {
  return section.sh_size > kMaxTableBytes;
}

FileRange content_of(const Elf64_Shdr& section) {
  return {section.sh_offset, section.sh_size};
}

// Whether an address could mean two places of the file. The ABI has the segments sorted.
bool overlap(const std::vector<Elf64_Phdr>& segments) {
  std::uint64_t end = 0;
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_LOAD) continue;
    const std::uint64_t bytes = std::max(segment.p_filesz, segment.p_memsz);
    if (segment.p_vaddr < end || bytes > UINT64_MAX - segment.p_vaddr) return true;
    end = segment.p_vaddr + bytes;
  }
  return false;
}

}  // namespace

std::expected<ElfFile, std::string> ElfFile::open(int file_descriptor) {
  const auto header = FileReader(file_descriptor).read_one<Elf64_Ehdr>(0);
  if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
    return std::unexpected("not an ELF file");
  if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
      header->e_machine != EM_X86_64)
    return std::unexpected("not an ELF file of this machine");
  ElfFile file(file_descriptor, *header);
  if (auto read = file.read_headers(); !read) return std::unexpected(read.error());
  return file;
}

std::expected<void, std::string> ElfFile::read_headers() {
  if (header_.e_phnum > kMaxHeaders || header_.e_shnum > kMaxHeaders)
    return std::unexpected("too many ELF headers");
  if (header_.e_phnum != 0 && header_.e_phentsize != sizeof(Elf64_Phdr))
    return std::unexpected("ELF headers of an unknown size");
  if (!read_table(reader_, header_.e_phoff, header_.e_phnum, segments_))
    return std::unexpected("the file ends early");
  if (overlap(segments_)) return std::unexpected("segments that overlap");
  // The loader needs no section headers; some programs come without.
  if (header_.e_shnum == 0) return {};
  if (header_.e_shentsize != sizeof(Elf64_Shdr)) return std::unexpected("ELF headers of an unknown size");
  if (!read_table(reader_, header_.e_shoff, header_.e_shnum, sections_))
    return std::unexpected("the file ends early");
  if (header_.e_shstrndx >= sections_.size() || sections_[header_.e_shstrndx].sh_size > kMaxSectionNames)
    return {};
  const Elf64_Shdr& names = sections_[header_.e_shstrndx];
  if (!read_table(reader_, names.sh_offset, names.sh_size, section_names_))
    return std::unexpected("the file ends early");
  return {};
}

std::string_view ElfFile::name_of(const Elf64_Shdr& section) const {
  if (section.sh_name >= section_names_.size()) return {};
  const char* text = section_names_.data() + section.sh_name;
  return {text, ::strnlen(text, section_names_.size() - section.sh_name)};
}

const Elf64_Shdr* ElfFile::linked(const Elf64_Shdr& section) const {
  return section.sh_link < sections_.size() ? &sections_[section.sh_link] : nullptr;
}

std::string ElfFile::text_at(const Elf64_Shdr& strings, std::uint64_t offset) {
  constexpr std::size_t kLongest = 255;
  std::string text;
  FileWindow window(reader_);
  while (text.size() < kLongest && offset + text.size() < strings.sh_size) {
    const auto character = window.read_one<char>(strings.sh_offset + offset + text.size());
    if (!character || *character == '\0') break;
    text.push_back(*character);
  }
  return text;
}

std::string ElfFile::soname() {
  const auto names = dynamic_texts(DT_SONAME, 1);
  return names.empty() ? std::string() : names.front();
}

std::vector<std::string> ElfFile::needed() {
  return dynamic_texts(DT_NEEDED, kMaxNeeded);
}

std::vector<std::string> ElfFile::dynamic_texts(std::int64_t tag, std::size_t limit) {
  const auto dynamic = std::ranges::find(sections_, Elf64_Word{SHT_DYNAMIC}, &Elf64_Shdr::sh_type);
  if (dynamic == sections_.end()) return {};
  const Elf64_Shdr* strings = linked(*dynamic);
  if (strings == nullptr) return {};
  std::vector<std::string> texts;
  std::size_t left = kMaxDynamicEntries;
  reader_.each<Elf64_Dyn>(content_of(*dynamic), [&](const Elf64_Dyn& entry) {
    if (entry.d_tag == tag) texts.push_back(text_at(*strings, entry.d_un.d_val));
    return entry.d_tag != DT_NULL && texts.size() < limit && --left > 0;
  });
  return texts;
}

// Names stand in the string table without their version: the functions that are sought have had one version
// each. What is exported goes before what a file keeps to itself under the same name.
std::expected<ElfFile::Functions, std::string> ElfFile::find_functions(
    std::span<const std::string_view> names) {
  Functions functions;
  for (const Elf64_Word type : {SHT_DYNSYM, SHT_SYMTAB}) {
    const auto table = std::ranges::find(sections_, type, &Elf64_Shdr::sh_type);
    if (table == sections_.end()) continue;
    const Elf64_Shdr* strings = linked(*table);
    if (strings == nullptr) return std::unexpected("symbols without names");
    if (too_large(*table) || too_large(*strings)) return std::unexpected("a table is too large");
    const auto places = find_names(reader_, content_of(*strings), names);
    if (!places) return std::unexpected("the names of the symbols can't be read");
    if (places->empty()) continue;
    Functions local;
    const bool read = reader_.each<Elf64_Sym>(content_of(*table), [&](const Elf64_Sym& symbol) {
      if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF) return true;
      const auto place = places->find(symbol.st_name);
      if (place == places->end() || !code_offset(symbol.st_value)) return true;
      (ELF64_ST_BIND(symbol.st_info) == STB_LOCAL ? local : functions)
          .emplace(place->second, ElfFunction{symbol.st_value, symbol.st_size});
      return true;
    });
    if (!read) return std::unexpected("the symbols can't be read");
    functions.merge(local);
  }
  return functions;
}

std::optional<std::uint64_t> ElfFile::file_offset(std::uint64_t address, std::uint64_t size,
                                                  std::uint32_t flags) const {
  for (const Elf64_Phdr& segment : segments_) {
    if (segment.p_type != PT_LOAD || (segment.p_flags & flags) != flags) continue;
    if (address < segment.p_vaddr || address - segment.p_vaddr >= segment.p_filesz) continue;
    const std::uint64_t within = address - segment.p_vaddr;
    if (size > segment.p_filesz - within || within > UINT64_MAX - segment.p_offset) continue;
    return segment.p_offset + within;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> ElfFile::code_offset(std::uint64_t address) const {
  return file_offset(address, 1, PF_X);
}

bool ElfFile::read_at(std::uint64_t address, std::span<std::uint8_t> into) {
  const auto offset = file_offset(address, into.size(), PF_R);
  return offset && reader_.read(*offset, into);
}

// The table of .eh_frame_hdr: pairs of a function's address and its description's, both from the header's own
// address, sorted. Answers the last description that does not begin behind `address`.
std::optional<std::uint64_t> ElfFile::unwinder_entry(std::uint64_t address) {
  const auto segment = std::ranges::find(segments_, Elf64_Word{PT_GNU_EH_FRAME}, &Elf64_Phdr::p_type);
  if (segment == segments_.end()) return std::nullopt;
  struct Header {
    std::uint8_t version, pointer_encoding, count_encoding, table_encoding;
    std::uint32_t pointer, count;
  };
  struct Entry {
    std::int32_t function, description;
  };
  constexpr std::uint8_t kFourBytesFromHere = 0x1b, kUnsignedFourBytes = 0x03, kFourBytesFromHeader = 0x3b;
  const auto header = reader_.read_one<Header>(segment->p_offset);
  if (!header || header->version != 1 || header->pointer_encoding != kFourBytesFromHere ||
      header->count_encoding != kUnsignedFourBytes || header->table_encoding != kFourBytesFromHeader)
    return std::nullopt;
  std::uint64_t first = 0, end = std::min<std::uint64_t>(header->count, segment->p_filesz / sizeof(Entry));
  std::optional<std::uint64_t> description;
  while (first < end) {
    const std::uint64_t middle = first + (end - first) / 2;
    const auto entry = reader_.read_one<Entry>(segment->p_offset + sizeof(Header) + middle * sizeof(Entry));
    if (!entry) return std::nullopt;
    const std::uint64_t function =
        segment->p_vaddr + static_cast<std::uint64_t>(std::int64_t{entry->function});
    if (function > address) {
      end = middle;
    } else {
      description = segment->p_vaddr + static_cast<std::uint64_t>(std::int64_t{entry->description});
      first = middle + 1;
    }
  }
  return description;
}

std::optional<ElfFunction> ElfFile::function_at(std::uint64_t address) {
  const auto at = unwinder_entry(address);
  if (!at) return std::nullopt;
  struct Description {
    std::uint32_t length, common;
    std::int32_t
        begin;  // from this field's own address: what every compiler writes (DW_EH_PE_pcrel | sdata4)
    std::uint32_t size;
  };
  std::array<std::uint8_t, sizeof(Description)> bytes;
  if (!read_at(*at, bytes)) return std::nullopt;
  Description description;
  std::memcpy(&description, bytes.data(), sizeof(description));
  const ElfFunction function{
      *at + offsetof(Description, begin) + static_cast<std::uint64_t>(std::int64_t{description.begin}),
      description.size};
  if (function.address > address || address - function.address >= function.size) return std::nullopt;
  return function;
}

// What the loader is to do: calls visit(relocation, its section) until it returns false. False: not all could
// be read.
template <class Visit>
bool ElfFile::each_relocation(Visit&& visit) {
  bool wanted = true;
  for (const Elf64_Shdr& section : sections_) {
    if (!wanted || section.sh_type != SHT_RELA || !(section.sh_flags & SHF_ALLOC)) continue;
    if (too_large(section)) return false;
    const bool read = reader_.each<Elf64_Rela>(content_of(section), [&](const Elf64_Rela& relocation) {
      wanted = visit(relocation, section);
      return wanted;
    });
    if (!read) return false;
  }
  return true;
}

std::vector<std::uint64_t> ElfFile::slots_of(std::string_view imported) {
  constexpr std::size_t kMaxSlots = 16;
  std::vector<std::uint64_t> slots;
  const auto symbols = std::ranges::find(sections_, Elf64_Word{SHT_DYNSYM}, &Elf64_Shdr::sh_type);
  const Elf64_Shdr* strings = symbols == sections_.end() ? nullptr : linked(*symbols);
  if (strings == nullptr || too_large(*symbols) || too_large(*strings)) return slots;
  const auto places = find_names(reader_, content_of(*strings), {&imported, 1});
  if (!places) return slots;
  std::uint64_t index = 0, sought = 0;
  (void)reader_.each<Elf64_Sym>(content_of(*symbols), [&](const Elf64_Sym& symbol) {
    if (symbol.st_shndx == SHN_UNDEF && places->contains(symbol.st_name)) sought = index;
    return ++index != 0 && sought == 0;
  });
  if (sought == 0) return slots;
  (void)each_relocation([&](const Elf64_Rela& relocation, const Elf64_Shdr&) {
    const auto type = ELF64_R_TYPE(relocation.r_info);
    if (ELF64_R_SYM(relocation.r_info) == sought && (type == R_X86_64_GLOB_DAT || type == R_X86_64_64))
      slots.push_back(relocation.r_offset);
    return slots.size() < kMaxSlots;
  });
  return slots;
}

// Whether nothing writes there once the file is loaded.
bool ElfFile::is_constant(std::uint64_t address) const {
  return std::ranges::any_of(segments_, [&](const Elf64_Phdr& segment) {
    const bool holds = address - segment.p_vaddr < segment.p_memsz;
    return holds &&
           (segment.p_type == PT_GNU_RELRO || (segment.p_type == PT_LOAD && !(segment.p_flags & PF_W)));
  });
}

std::uint64_t ElfFile::relocated(const Elf64_Rela& relocation, const Elf64_Shdr& section) {
  const auto type = ELF64_R_TYPE(relocation.r_info);
  const bool of_linkage = type == R_X86_64_GLOB_DAT || type == R_X86_64_JUMP_SLOT;
  if (!of_linkage && !is_constant(relocation.r_offset)) return 0;
  const auto addend = static_cast<std::uint64_t>(relocation.r_addend);
  if (type == R_X86_64_RELATIVE) return addend;
  if (!of_linkage && type != R_X86_64_64) return 0;
  const Elf64_Shdr* symbols = linked(section);
  const std::uint64_t index = ELF64_R_SYM(relocation.r_info);
  if (symbols == nullptr || index >= symbols->sh_size / sizeof(Elf64_Sym)) return 0;
  const auto symbol = reader_.read_one<Elf64_Sym>(symbols->sh_offset + index * sizeof(Elf64_Sym));
  if (!symbol || symbol->st_shndx == SHN_UNDEF) return 0;
  return symbol->st_value + (of_linkage ? 0 : addend);
}

std::optional<std::vector<std::uint64_t>> ElfFile::constant_pointers(std::uint64_t address,
                                                                     std::size_t count) {
  if (count > kMaxPointers) return std::nullopt;
  constexpr std::size_t kBytes = sizeof(std::uint64_t);
  std::vector<std::uint64_t> pointers(count);
  if (!read_at(address, {reinterpret_cast<std::uint8_t*>(pointers.data()), count * kBytes}))
    return std::nullopt;
  for (std::size_t i = 0; i < count; ++i)
    if (!is_constant(address + i * kBytes)) pointers[i] = 0;
  const bool read = each_relocation([&](const Elf64_Rela& relocation, const Elf64_Shdr& section) {
    const std::uint64_t index = (relocation.r_offset - address) / kBytes;
    if (index < count) pointers[index] = relocated(relocation, section);
    return true;
  });
  if (!read) return std::nullopt;
  return pointers;
}

std::vector<FileRange> ElfFile::constants() const {
  // Tables without texts, which may be larger than all else.
  constexpr std::string_view kTables[] = {".eh_frame", ".gcc_except_table", ".gopclntab"};
  std::vector<FileRange> ranges;
  for (const Elf64_Shdr& section : sections_) {
    const auto kind = section.sh_flags & (SHF_ALLOC | SHF_WRITE | SHF_EXECINSTR);
    const auto is_named = [&](std::string_view start) { return name_of(section).starts_with(start); };
    if (section.sh_type == SHT_PROGBITS && kind == SHF_ALLOC && std::ranges::none_of(kTables, is_named))
      ranges.push_back(content_of(section));
  }
  if (!ranges.empty()) return ranges;
  for (const Elf64_Phdr& segment : segments_)
    if (segment.p_type == PT_LOAD && !(segment.p_flags & PF_W))
      ranges.push_back({segment.p_offset, segment.p_filesz});
  return ranges;
}

std::optional<ElfFile::Section> ElfFile::section_ending(std::string_view suffix) const {
  for (const Elf64_Shdr& section : sections_) {
    if (section.sh_type != SHT_NOBITS && name_of(section).ends_with(suffix))
      return Section{content_of(section), section.sh_addr};
  }
  return std::nullopt;
}

}  // namespace weir::bpf
