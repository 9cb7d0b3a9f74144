# Finds TensorRT's headers and, where there is one, its library.
#
# Searched, in this order: TENSORRT_ROOT and TENSORRT_HOME (CMake variable, then environment), what `make
# headers` fetched (build/TensorRT), Debian's packages and NGC containers (/usr/include/<multiarch>), and the usual places of the tar archive.
# Both the archive's root and its include folder may be given.
#
# Only the headers are required: plugins call nothing in libnvinfer, so they build without it.
#
#   TensorRT_FOUND, TensorRT_VERSION (10.16.0), TensorRT_VERSION_MAJOR, TensorRT_INCLUDE_DIR,
#   TensorRT_LIBRARY (or TensorRT_LIBRARY-NOTFOUND), target TensorRT::headers
include(FindPackageHandleStandardArgs)

set(_trt_roots)
foreach(_trt_name TENSORRT_ROOT TENSORRT_HOME)
  foreach(_trt_value "${${_trt_name}}" "$ENV{${_trt_name}}")
    if(_trt_value)
      file(TO_CMAKE_PATH "${_trt_value}" _trt_value)
      list(APPEND _trt_roots "${_trt_value}")
    endif()
  endforeach()
endforeach()

# A root that was named is the only place to look: a silent fall-back to another TensorRT would build
# plugins of the wrong major version.
if(NOT _trt_roots)
  set(_trt_roots "${CMAKE_CURRENT_LIST_DIR}/../../build/TensorRT" /usr /usr/local/tensorrt /opt/tensorrt)
endif()
set(_trt_searched)
foreach(_trt_root IN LISTS _trt_roots)
  list(APPEND _trt_searched "${_trt_root}/include" "${_trt_root}")
  if(CMAKE_LIBRARY_ARCHITECTURE)
    list(APPEND _trt_searched "${_trt_root}/include/${CMAKE_LIBRARY_ARCHITECTURE}")
  endif()
endforeach()

# Not cached: another TENSORRT_ROOT in the same build folder must not find the last one again.
find_path(TensorRT_INCLUDE_DIR NvInferVersion.h PATHS ${_trt_searched} NO_DEFAULT_PATH NO_CACHE)
find_library(TensorRT_LIBRARY nvinfer HINTS ${_trt_roots} PATH_SUFFIXES lib lib64 NO_CACHE)

# NV_TENSORRT_MAJOR is a number up to 10.x's first releases and TRT_MAJOR_ENTERPRISE after.
if(TensorRT_INCLUDE_DIR)
  foreach(_trt_part MAJOR MINOR PATCH)
    set(TensorRT_VERSION_${_trt_part} "")
    foreach(_trt_macro "NV_TENSORRT_${_trt_part}" "TRT_${_trt_part}_ENTERPRISE")
      file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" _trt_line
           REGEX "^#define[ \t]+${_trt_macro}[ \t]+[0-9]+" LIMIT_COUNT 1)
      if(_trt_line MATCHES "^#define[ \t]+${_trt_macro}[ \t]+([0-9]+)")
        set(TensorRT_VERSION_${_trt_part} "${CMAKE_MATCH_1}")
      endif()
    endforeach()
  endforeach()
  set(TensorRT_VERSION
      "${TensorRT_VERSION_MAJOR}.${TensorRT_VERSION_MINOR}.${TensorRT_VERSION_PATCH}")
endif()

string(REPLACE ";" "\n    " _trt_searched_text "${_trt_searched}")
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_INCLUDE_DIR TensorRT_VERSION_MAJOR
  VERSION_VAR TensorRT_VERSION
  HANDLE_VERSION_RANGE
  REASON_FAILURE_MESSAGE "
  NvInferVersion.h was searched for in
    ${_trt_searched_text}
  The headers alone are enough to build the plugins. To get them, at the release that will run them:
    make headers
  or, from a copy of https://github.com/NVIDIA/TensorRT:
    make plugins TENSORRT_ROOT=$PWD/TensorRT
  Deb packages (libnvinfer-headers-dev) and NGC containers are found by themselves.")

if(TensorRT_FOUND AND NOT TARGET TensorRT::headers)
  add_library(TensorRT::headers INTERFACE IMPORTED)
  # SYSTEM: TensorRT's headers warn about their own deprecations.
  target_include_directories(TensorRT::headers SYSTEM INTERFACE "${TensorRT_INCLUDE_DIR}")
endif()
