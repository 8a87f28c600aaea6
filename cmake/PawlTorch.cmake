# LibTorch: the system's, or the one that TORCH_ROOT names (a folder with include/ and lib/: an unpacked LibTorch, or
# site-packages/torch of a Python environment; tools/build.sh sets it for the preset "torch2"). Sets Torch_FOUND and
# makes the target pawl_libtorch.
#
# By hand: the TorchConfig.cmake of Debian's 1.13 asks for gflags, glog and protobuf, which nothing of ours uses, and
# does not configure with them.
set(TORCH_ROOT "" CACHE PATH "Where LibTorch is, if not in the system's folders")
if(TORCH_ROOT)
    # Debian's is in the default folders: without this it would be mixed with the one asked for.
    set(torch_places PATHS "${TORCH_ROOT}" NO_DEFAULT_PATH)
endif()
find_path(TORCH_INCLUDE_DIRECTORY torch/script.h ${torch_places} PATH_SUFFIXES include)
find_path(TORCH_API_INCLUDE_DIRECTORY torch/torch.h ${torch_places}
          PATH_SUFFIXES include/torch/csrc/api/include torch/csrc/api/include)
find_library(TORCH_LIBRARY torch ${torch_places} PATH_SUFFIXES lib)
find_library(TORCH_CPU_LIBRARY torch_cpu ${torch_places} PATH_SUFFIXES lib)
find_library(C10_LIBRARY c10 ${torch_places} PATH_SUFFIXES lib)
# Only in a LibTorch for GPUs.
find_library(TORCH_CUDA_LIBRARY torch_cuda ${torch_places} PATH_SUFFIXES lib)
find_library(C10_CUDA_LIBRARY c10_cuda ${torch_places} PATH_SUFFIXES lib)

set(Torch_FOUND FALSE)
if(NOT (TORCH_INCLUDE_DIRECTORY AND TORCH_API_INCLUDE_DIRECTORY AND TORCH_LIBRARY AND TORCH_CPU_LIBRARY
        AND C10_LIBRARY))
    if(TORCH_ROOT)
        message(FATAL_ERROR "there is no LibTorch in '${TORCH_ROOT}'")
    endif()
    message(STATUS "LibTorch was not found: the LibTorch helper and the example trainer are left out")
    return()
endif()

set(torch_version_file "${TORCH_API_INCLUDE_DIRECTORY}/torch/version.h")
if(EXISTS "${TORCH_INCLUDE_DIRECTORY}/torch/headeronly/version.h")
    set(torch_version_file "${TORCH_INCLUDE_DIRECTORY}/torch/headeronly/version.h")
endif()
file(STRINGS "${torch_version_file}" torch_major REGEX "define TORCH_VERSION_MAJOR [0-9]+$")
string(REGEX MATCH "[0-9]+$" torch_major "${torch_major}")
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND torch_major EQUAL 1)
    message(STATUS "clang can't compile the headers of LibTorch 1 as C++20 (a vector of an incomplete type): the "
                   "LibTorch helper and the example trainer are left out")
    return()
endif()

# LibTorch 2 brings headers of fmt, newer than the system's library that we link: its folder is seen without them.
set(torch_include "${TORCH_INCLUDE_DIRECTORY}")
if(TORCH_ROOT AND EXISTS "${TORCH_INCLUDE_DIRECTORY}/fmt")
    set(torch_include "${PROJECT_BINARY_DIR}/libtorch-include")
    file(REMOVE_RECURSE "${torch_include}")
    file(MAKE_DIRECTORY "${torch_include}")
    file(GLOB torch_headers RELATIVE "${TORCH_INCLUDE_DIRECTORY}" "${TORCH_INCLUDE_DIRECTORY}/*")
    list(REMOVE_ITEM torch_headers fmt)
    foreach(name IN LISTS torch_headers)
        file(CREATE_LINK "${TORCH_INCLUDE_DIRECTORY}/${name}" "${torch_include}/${name}" SYMBOLIC)
    endforeach()
endif()

set(Torch_FOUND TRUE)
add_library(pawl_libtorch INTERFACE)
target_include_directories(pawl_libtorch SYSTEM INTERFACE "${torch_include}" "${TORCH_API_INCLUDE_DIRECTORY}")
target_link_libraries(pawl_libtorch INTERFACE "${TORCH_LIBRARY}" "${TORCH_CPU_LIBRARY}" "${C10_LIBRARY}")
if(TORCH_CUDA_LIBRARY AND C10_CUDA_LIBRARY)
    # Nothing of ours names a symbol of theirs: they register themselves when they are loaded.
    target_link_libraries(pawl_libtorch INTERFACE -Wl,--push-state,--no-as-needed "${TORCH_CUDA_LIBRARY}"
                                                  "${C10_CUDA_LIBRARY}" -Wl,--pop-state)
endif()
# In a Python environment NVIDIA's libraries lie beside torch's.
if(TORCH_ROOT)
    file(GLOB torch_libraries LIST_DIRECTORIES TRUE "${TORCH_ROOT}/../nvidia/*/lib")
    foreach(folder IN LISTS torch_libraries)
        target_link_options(pawl_libtorch INTERFACE "-Wl,-rpath-link,${folder}")
    endforeach()
endif()
