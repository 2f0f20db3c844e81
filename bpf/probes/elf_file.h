// An ELF file of this machine, read through its descriptor: what of it the search for probe sites needs. The
// file is somebody else's: every offset and count is checked, large tables are streamed, nothing is held that
// grows with the file. What can't be read is missing, never guessed.
//
// Facts: the System V ABI and its x86-64 supplement (elf.h), and for the table of functions the Linux
// Standard Base's description of .eh_frame_hdr. Addresses are those of the file, before it is loaded
// anywhere.
#pragma once

#include <elf.h>

#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bpf/probes/file_reader.h"

namespace weir::bpf {

struct ElfFunction {
  std::uint64_t address = 0;
  std::uint64_t size = 0;  // 0: not known
};

class ElfFile {
 public:
  // Borrows the descriptor.
  static std::expected<ElfFile, std::string> open(int file_descriptor);

  FileReader& reader() { return reader_; }
  std::uint64_t entry() const { return header_.e_entry; }
  // What other files call this one; "" when it doesn't say.
  std::string soname();
  // The names of the files that the loader is to load with it.
  std::vector<std::string> needed();

  // The functions that the file itself defines, by name, from the dynamic symbols and from all symbols. The
  // keys are views of `names`. An error when a table of symbols can't be read.
  using Functions = std::map<std::string_view, ElfFunction>;
  std::expected<Functions, std::string> find_functions(std::span<const std::string_view> names);

  // Where in the file the code at an address stands; nothing when it is no executable code of the file.
  std::optional<std::uint64_t> code_offset(std::uint64_t address) const;
  // Bytes that the file gives an address range, code or not.
  bool read_at(std::uint64_t address, std::span<std::uint8_t> into);
  // The function that holds an address, by the table of the stack unwinder, which stripping leaves alone. A
  // part that the compiler moved elsewhere is a function of its own.
  std::optional<ElfFunction> function_at(std::uint64_t address);
  // What the pointers from an address on are once the file is loaded. 0: one that leads out of the file, or
  // that the program may change. The linkage table's are taken for what this file says of them.
  std::optional<std::vector<std::uint64_t>> constant_pointers(std::uint64_t address, std::size_t count);

  // Where the loader is to put the address of a function that another file defines.
  std::vector<std::uint64_t> slots_of(std::string_view imported);

  // Where the file keeps constants: its read-only data by the section headers, else all that is mapped to be
  // read only.
  std::vector<FileRange> constants() const;
  // The content of the first section whose name ends so.
  struct Section {
    FileRange content;
    std::uint64_t address = 0;
  };
  std::optional<Section> section_ending(std::string_view suffix) const;
  bool has_sections() const { return !sections_.empty(); }
  // Segments that the loader maps.
  const std::vector<Elf64_Phdr>& segments() const { return segments_; }

 private:
  ElfFile(int file_descriptor, const Elf64_Ehdr& header) : reader_(file_descriptor), header_(header) {}

  std::expected<void, std::string> read_headers();
  std::optional<std::uint64_t> file_offset(std::uint64_t address, std::uint64_t size,
                                           std::uint32_t flags) const;
  std::string_view name_of(const Elf64_Shdr& section) const;
  const Elf64_Shdr* linked(const Elf64_Shdr& section) const;
  std::vector<std::string> dynamic_texts(std::int64_t tag, std::size_t limit);
  std::string text_at(const Elf64_Shdr& strings, std::uint64_t offset);
  std::optional<std::uint64_t> unwinder_entry(std::uint64_t address);
  template <class Visit>
  bool each_relocation(Visit&& visit);
  bool is_constant(std::uint64_t address) const;
  std::uint64_t relocated(const Elf64_Rela& relocation, const Elf64_Shdr& section);

  FileReader reader_;
  Elf64_Ehdr header_;
  std::vector<Elf64_Phdr> segments_;
  std::vector<Elf64_Shdr> sections_;
  std::vector<char> section_names_;
};

}  // namespace weir::bpf
