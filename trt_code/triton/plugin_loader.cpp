// Registers liblite_plugins_trt<major>.so with TensorRT when a process opens this library. It is
// for hosts that only dlopen plugin libraries and expect them to register themselves, as Triton's
// TensorRT backend does (--backend-config=tensorrt,plugins=...). The plugin library itself
// registers nothing, since IPluginRegistry::loadLibrary would then find its creators already
// registered.
//
// libnvinfer is looked up at run time. The host has already loaded it, perhaps not globally, and
// linking to it would need TensorRT's libraries where only its headers are available.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <string>

namespace {

constexpr const char* kNvinfer = "libnvinfer.so." LITE_TENSORRT_MAJOR;
constexpr const char* kPlugins = "liblite_plugins_trt" LITE_TENSORRT_MAJOR ".so";

std::string folderOfThisLibrary() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&folderOfThisLibrary), &info) == 0) return "";
  const std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}

std::string registerPlugins() {
  void* const nvinfer = dlopen(kNvinfer, RTLD_LAZY);
  if (nvinfer == nullptr) return dlerror();
  using GetRegistry = nvinfer1::IPluginRegistry*();
  auto* const getRegistry = reinterpret_cast<GetRegistry*>(dlsym(nvinfer, "getPluginRegistry"));
  if (getRegistry == nullptr) return dlerror();
  const std::string plugins = folderOfThisLibrary() + kPlugins;
  if (getRegistry()->loadLibrary(plugins.c_str()) != nullptr) return "";
  return "TensorRT refuses " + plugins;
}

__attribute__((constructor)) void onLoad() {
  const std::string problem = registerPlugins();
  if (!problem.empty()) std::fprintf(stderr, "lite plugins: %s\n", problem.c_str());
}

}  // namespace
