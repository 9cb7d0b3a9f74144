# lite_add_plugins(<variant>): the plugin library and its test host, once as they are ("") and once
# under the sanitizers ("asan"). Both share the kernels, which take far longer to compile.
#
# One library per TensorRT major version: its registry and logger changed their vtables in 11.
function(lite_add_plugins variant)
  set(suffix "")
  if(variant)
    set(suffix "_${variant}")
  endif()

  set(flags "lite_flags${suffix}")
  add_library(${flags} INTERFACE)
  target_compile_options(${flags} INTERFACE -Wall -Wextra)
  if(variant STREQUAL "asan")
    target_compile_options(${flags} INTERFACE
      -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1)
    target_link_options(${flags} INTERFACE -fsanitize=address,undefined)
  endif()
  # The CUDA runtime is linked in: what is built here then needs the driver alone, whichever CUDA
  # release TensorRT or PyTorch brought into the process.
  target_link_libraries(${flags} INTERFACE TensorRT::headers CUDA::cudart_static)

  set(plugins "lite_plugins${suffix}")
  add_library(${plugins} MODULE
    CrfDecodePlugin/crf_decode_plugin.cpp
    DynamicConvPlugin/dynamic_conv_plugin.cpp
    LayerNormPlugin/layer_norm_plugin.cpp
    TopKPlugin/top_k_plugin.cpp
    plugin_common/attributes.cpp
    plugin_common/exports.cpp
    plugin_common/log.cpp
    plugin_common/plugin.cpp)
  target_include_directories(${plugins} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(${plugins} PRIVATE ${flags} lite_kernels)
  # The version script also hides what templates of the C++ library would export.
  set(exports "${CMAKE_CURRENT_SOURCE_DIR}/plugin_common/exports.map")
  target_link_options(${plugins} PRIVATE "-Wl,--version-script=${exports}")
  set_target_properties(${plugins} PROPERTIES
    LINK_DEPENDS "${exports}"
    PREFIX "lib"
    OUTPUT_NAME "${plugins}_trt${TensorRT_VERSION_MAJOR}"
    LIBRARY_OUTPUT_DIRECTORY "${LITE_OUTPUT_DIR}/plugins"
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)

  set(host "lite_plugin_host${suffix}")
  add_executable(${host}
    plugin_host/case_file.cpp
    plugin_host/device.cpp
    plugin_host/expressions.cpp
    plugin_host/guarded_buffer.cpp
    plugin_host/library.cpp
    plugin_host/life.cpp
    plugin_host/main.cpp
    plugin_host/memory_poison.cpp)
  target_compile_options(${host} PRIVATE -O1)  # nothing in it takes time but its compilation
  target_link_libraries(${host} PRIVATE ${flags} ${CMAKE_DL_LIBS})
  set_target_properties(${host} PROPERTIES
    OUTPUT_NAME "${host}_trt${TensorRT_VERSION_MAJOR}"
    RUNTIME_OUTPUT_DIRECTORY "${LITE_OUTPUT_DIR}/plugins")
endfunction()
