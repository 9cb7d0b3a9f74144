// A stand-in for libnvinfer. Its plugin registry prints the library that it should load and the
// number of creators found in it. It contains no TensorRT code.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>

namespace {

using namespace nvinfer1;

class Registry : public IPluginRegistry {
 public:
  void* loadLibrary(const char* path) noexcept override {
    void* library = dlopen(path, RTLD_LAZY);
    if (library == nullptr) return nullptr;
    using GetCreators = IPluginCreatorInterface* const*(int32_t&);
    int32_t count = 0;
    reinterpret_cast<GetCreators*>(dlsym(library, "getCreators"))(count);
    std::printf("%s %d\n", path, count);
    return library;
  }

  void deregisterLibrary(void*) noexcept override {}
  void setErrorRecorder(IErrorRecorder*) noexcept override {}
  IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool isParentSearchEnabled() const override { return false; }
  void setParentSearchEnabled(bool) override {}
  bool registerCreator(IPluginCreatorInterface&, const char*) noexcept override { return false; }
  bool deregisterCreator(const IPluginCreatorInterface&) noexcept override { return false; }
  IPluginCreatorInterface* const* getAllCreators(int32_t*) const noexcept override {
    return nullptr;
  }
  IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t*) noexcept override {
    return nullptr;
  }
  IPluginCreatorInterface* getCreator(const char*, const char*, const char*) noexcept override {
    return nullptr;
  }
  IPluginResource* acquirePluginResource(const char*, IPluginResource*) noexcept override {
    return nullptr;
  }
  int32_t releasePluginResource(const char*) noexcept override { return 0; }
#if NV_TENSORRT_MAJOR == 10  // its registry still has the second plugin interface
  bool registerCreator(IPluginCreator&, const char*) noexcept override { return false; }
  bool deregisterCreator(const IPluginCreator&) noexcept override { return false; }
  IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { return nullptr; }
  IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override {
    return nullptr;
  }
#endif
};

}  // namespace

extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  static Registry registry;
  return &registry;
}
