#include "guarded_buffer.h"

#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace host {
namespace {

constexpr size_t kAlignment = 16;

void require(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
  }
}

template <typename Function>
Function driver(const char* name) {
  static void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  void* address = library != nullptr ? dlsym(library, name) : nullptr;
  if (address == nullptr) throw std::runtime_error(std::string("the driver has no ") + name);
  return reinterpret_cast<Function>(address);
}

#define LITE_DRIVER(name, ...)                                       \
  if (driver<decltype(&name)>(#name)(__VA_ARGS__) != CUDA_SUCCESS) { \
    throw std::runtime_error(#name " failed");                       \
  }

CUmemAllocationProp allocationProperties() {
  int device = 0;
  require(cudaGetDevice(&device), "cudaGetDevice");
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, {device}};
  return properties;
}

size_t granularity() {
  const CUmemAllocationProp properties = allocationProperties();
  size_t bytes = 0;
  LITE_DRIVER(cuMemGetAllocationGranularity, &bytes, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
  return bytes;
}

CUdeviceptr devicePointer(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

size_t roundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

GuardedBuffer::GuardedBuffer(size_t bytes, Guard guard, size_t offset) : bytes_(bytes) {
  require(cudaFree(nullptr), "CUDA context");
  const size_t granule = granularity();
  const size_t padded = roundUp(offset + bytes, kAlignment);
  mapped_ = roundUp(padded + 1, granule);
  const CUmemAllocationProp properties = allocationProperties();
  CUdeviceptr reserved = 0;
  LITE_DRIVER(cuMemAddressReserve, &reserved, mapped_ + 2 * granule, granule, 0, 0);
  reserved_ = reinterpret_cast<unsigned char*>(reserved);
  start_ = reserved_ + granule;
  LITE_DRIVER(cuMemCreate, &allocation_, mapped_, &properties, 0);
  LITE_DRIVER(cuMemMap, devicePointer(start_), mapped_, 0, allocation_, 0);
  CUmemAccessDesc access{};
  access.location = properties.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  LITE_DRIVER(cuMemSetAccess, devicePointer(start_), mapped_, &access, 1);
  data_ = offset + (guard == Guard::kBehind ? start_ + mapped_ - padded : start_);
  require(cudaMemset(start_, kPoison, mapped_), "cudaMemset");
}

GuardedBuffer::~GuardedBuffer() {
  // Failures here only follow a lost device, which has already been reported.
  driver<decltype(&cuMemUnmap)>("cuMemUnmap")(devicePointer(start_), mapped_);
  driver<decltype(&cuMemRelease)>("cuMemRelease")(allocation_);
  driver<decltype(&cuMemAddressFree)>("cuMemAddressFree")(
      devicePointer(reserved_), mapped_ + 2 * static_cast<size_t>(start_ - reserved_));
}

void GuardedBuffer::fill(unsigned char value) {
  require(cudaMemset(data_, value, bytes_), "cudaMemset");
}

Bytes GuardedBuffer::download() const {
  Bytes bytes(bytes_);
  require(cudaMemcpy(bytes.data(), data_, bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy");
  return bytes;
}

void GuardedBuffer::checkGuards() const {
  Bytes all(mapped_);
  require(cudaMemcpy(all.data(), start_, mapped_, cudaMemcpyDeviceToHost), "cudaMemcpy");
  const size_t first = static_cast<size_t>(data_ - start_);
  for (size_t i = 0; i < all.size(); ++i) {
    const bool inside = i >= first && i < first + bytes_;
    if (!inside && all[i] != kPoison) {
      throw std::runtime_error(
          "something was written outside a buffer, " +
          (i < first ? std::to_string(first - i) + " bytes before its start"
                     : std::to_string(i - first - bytes_ + 1) + " bytes past its end"));
    }
  }
}

}  // namespace host
