// Shared-memory addresses in the form that PTX instructions use.
#pragma once

#include <cstdint>

namespace lite {

__device__ __forceinline__ uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

}  // namespace lite
