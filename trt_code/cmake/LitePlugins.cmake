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
  file(GLOB sources CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}"
       "*Plugin/*.cpp" "plugin_common/*.cpp")
  add_library(${plugins} MODULE ${sources})
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
  file(GLOB sources CONFIGURE_DEPENDS "plugin_host/*.cpp")
  add_executable(${host} ${sources})
  target_compile_options(${host} PRIVATE -O1)  # nothing in it takes time but its compilation
  target_link_libraries(${host} PRIVATE ${flags} ${CMAKE_DL_LIBS})
  set_target_properties(${host} PROPERTIES
    OUTPUT_NAME "${host}_trt${TensorRT_VERSION_MAJOR}"
    RUNTIME_OUTPUT_DIRECTORY "${LITE_OUTPUT_DIR}/plugins")
endfunction()
