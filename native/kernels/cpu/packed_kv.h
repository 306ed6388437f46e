// Which caches are kept packed: those the attention kernels can read. The others stay as the reference ops keep them.
#pragma once

#include "device/device.h"
#include "kernels/cpu/packed_attention.h"

namespace drivlm::cpu {

constexpr bool packs_head(int64_t head_dim) { return head_dim > 0 && head_dim % 16 == 0 && head_dim <= 128; }

constexpr bool packs(const KvShape& shape) { return packs_head(shape.head_dim) && shape.page_tokens % 32 == 0; }

constexpr KvLayout layout_of(const KvShape& shape) {
  return {shape.layers, shape.kv_heads, shape.head_dim, shape.page_tokens, shape.format == KvFormat::int8};
}

}  // namespace drivlm::cpu
