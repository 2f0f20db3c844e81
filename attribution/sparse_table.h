// A hash table never gives its buckets back by itself.
#pragma once

#include <cstddef>

namespace weir {

// To be called after an erasure. Constant on average: it takes many insertions to make it due again.
template <typename Table>
void shrink_if_sparse(Table& table) {
  constexpr std::size_t kWorthwhile = 1'024;
  if (table.bucket_count() > kWorthwhile && table.size() < table.bucket_count() / 8)
    table.rehash(2 * table.size());
}

}  // namespace weir
