// The table itself, or the code that fills it in.
#include "bpf/probes/nss_methods.h"

#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "bpf/probes/sketch_machine.h"

namespace weir::bpf {
namespace {

// struct PRIOMethods, prio.h: a type and 35 pointers.
constexpr std::uint64_t kClose = 0x08, kRead = 0x10, kWrite = 0x18, kShutdown = 0x80, kRecv = 0x88,
                        kSend = 0x90, kAcceptRead = 0xb0;
constexpr std::uint64_t kLayered = 4;  // PR_DESC_LAYERED
constexpr std::string_view kAcceptReadFunction = "PR_EmulateAcceptRead";

constexpr std::uint64_t kImported = 0x6600'0000'0000'0000;  // what stands for the pointer to that function
constexpr std::size_t kMaxPlaces = 16;
constexpr std::uint64_t kMaxCodeBytes = 4 * 1024;

// The methods of a table, whatever holds it, if it is the one.
template <class LoadType, class LoadPointer>
std::optional<NssMethods> methods_at(ElfFile& file, std::uint64_t table, LoadType&& type,
                                     LoadPointer&& pointer) {
  if (type(table) != Value(kLayered) || pointer(table + kAcceptRead) != Value(kImported)) return std::nullopt;
  NssMethods methods;
  const std::pair<std::uint64_t, std::uint64_t NssMethods::*> places[] = {
      {kClose, &NssMethods::close},       {kRead, &NssMethods::read}, {kWrite, &NssMethods::write},
      {kShutdown, &NssMethods::shutdown}, {kRecv, &NssMethods::recv}, {kSend, &NssMethods::send},
  };
  for (const auto& [place, member] : places) {
    const Value address = pointer(table + place);
    const auto function = address ? file.function_at(*address) : std::nullopt;
    if (!function || function->address != *address) return std::nullopt;
    methods.*member = *address;
  }
  return methods;
}

// A table of constants: `slot` is where the linker is to put the imported function.
std::optional<NssMethods> methods_around(ElfFile& file, std::uint64_t slot) {
  const auto type = [&](std::uint64_t address) -> Value {
    std::uint32_t value = 0;
    if (!file.read_at(address, {reinterpret_cast<std::uint8_t*>(&value), sizeof(value)})) return std::nullopt;
    return value;
  };
  const auto pointer = [&](std::uint64_t address) -> Value {
    if (address == slot) return kImported;
    const auto pointers = file.constant_pointers(address, 1);
    return pointers && pointers->front() != 0 ? Value(pointers->front()) : std::nullopt;
  };
  return methods_at(file, slot - kAcceptRead, type, pointer);
}

// The places of code that name an address from where they stand: the last four bytes of an instruction.
std::vector<std::uint64_t> references(ElfFile& file, std::uint64_t address) {
  std::vector<std::uint64_t> places;
  for (const Elf64_Phdr& segment : file.segments()) {
    if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X)) continue;
    const auto look = [&](std::span<const std::uint8_t> piece, std::uint64_t at) {
      for (std::size_t i = 0; i + 4 <= piece.size() && places.size() < kMaxPlaces; ++i) {
        std::int32_t distance = 0;
        std::memcpy(&distance, piece.data() + i, sizeof(distance));
        const std::uint64_t place = segment.p_vaddr + (at - segment.p_offset) + i;
        if (place + 4 + static_cast<std::uint64_t>(std::int64_t{distance}) == address)
          places.push_back(place);
      }
      return places.size() < kMaxPlaces;
    };
    (void)file.reader().scan({segment.p_offset, segment.p_filesz}, 3, look);
  }
  return places;
}

// What the function that holds `place` writes. `slot` is where the loader puts the imported function.
std::optional<NssMethods> methods_written(ElfFile& file, std::uint64_t place, std::uint64_t slot) {
  const auto function = file.function_at(place);
  if (!function || function->size > kMaxCodeBytes) return std::nullopt;
  FunctionCode code{function->address, std::vector<std::uint8_t>(function->size)};
  if (!file.read_at(code.address, code.bytes)) return std::nullopt;
  const auto load = [&](std::uint64_t address, std::size_t bytes) -> Value {
    if (bytes != 8) return std::nullopt;
    if (address == slot) return kImported;
    const auto pointers = file.constant_pointers(address, 1);
    return pointers && pointers->front() != 0 ? Value(pointers->front()) : std::nullopt;
  };
  const SketchMachine start(load, [](SketchMachine&) {});
  for (const SketchMachine& machine : SketchMachine::run(start, code)) {
    const auto type = [&](std::uint64_t address) { return machine.load(address, 4); };
    const auto pointer = [&](std::uint64_t address) { return machine.load(address, 8); };
    for (const std::uint64_t table : machine.places_of(kImported)) {
      if (auto methods = methods_at(file, table - kAcceptRead, type, pointer)) return methods;
    }
  }
  return std::nullopt;
}

}  // namespace

std::expected<NssMethods, std::string> find_nss_methods(ElfFile& file) {
  for (const std::uint64_t slot : file.slots_of(kAcceptReadFunction)) {
    if (auto methods = methods_around(file, slot)) return *methods;
    for (const std::uint64_t place : references(file, slot)) {
      if (auto methods = methods_written(file, place, slot)) return *methods;
    }
  }
  return std::unexpected("its table of methods can't be found");
}

}  // namespace weir::bpf
