# What pawl is built from, each a Debian package (tools/setup.sh installs them).
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(RocksDB REQUIRED CONFIG)
pkg_check_modules(LIBUV REQUIRED IMPORTED_TARGET libuv)
pkg_check_modules(SYSTEMD REQUIRED IMPORTED_TARGET libsystemd)
find_library(ISAL_LIBRARY isal REQUIRED)
# Debian builds it with OpenSSL, zlib and brotli; its classes have another size without the same macros.
pkg_check_modules(HTTPLIB REQUIRED IMPORTED_TARGET cpp-httplib)
find_path(XXHASH_INCLUDE_DIRECTORY xxhash.h REQUIRED)
find_path(EXPECTED_INCLUDE_DIRECTORY tl/expected.hpp REQUIRED)
find_path(JSON_INCLUDE_DIRECTORY nlohmann/json.hpp REQUIRED)
find_path(CLI11_INCLUDE_DIRECTORY CLI/CLI.hpp REQUIRED)

if(PAWL_WITH_TORCH)
    # By hand: the TorchConfig.cmake of Debian's 1.13 asks for gflags, glog and protobuf, which nothing of
    # ours uses, and does not configure with them. TORCH_ROOT names another LibTorch.
    set(TORCH_ROOT "" CACHE PATH "Where LibTorch is, if not in the system's folders")
    find_path(TORCH_INCLUDE_DIRECTORY torch/script.h HINTS "${TORCH_ROOT}/include")
    find_path(TORCH_API_INCLUDE_DIRECTORY torch/torch.h
              HINTS "${TORCH_ROOT}/include/torch/csrc/api/include"
              PATH_SUFFIXES torch/csrc/api/include)
    find_library(TORCH_LIBRARY torch HINTS "${TORCH_ROOT}/lib")
    find_library(TORCH_CPU_LIBRARY torch_cpu HINTS "${TORCH_ROOT}/lib")
    find_library(C10_LIBRARY c10 HINTS "${TORCH_ROOT}/lib")
    # The headers of LibTorch 1 use a vector of an incomplete type, which clang refuses in C++20.
    set(torch_fits TRUE)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND TORCH_API_INCLUDE_DIRECTORY)
        file(STRINGS "${TORCH_API_INCLUDE_DIRECTORY}/torch/version.h" torch_1 REGEX "TORCH_VERSION_MAJOR 1$")
        if(torch_1)
            set(torch_fits FALSE)
            message(STATUS "clang can't compile the headers of LibTorch 1 as C++20")
        endif()
    endif()
    if(torch_fits AND TORCH_INCLUDE_DIRECTORY AND TORCH_API_INCLUDE_DIRECTORY AND TORCH_LIBRARY AND TORCH_CPU_LIBRARY AND C10_LIBRARY)
        set(Torch_FOUND TRUE)
        add_library(pawl_libtorch INTERFACE)
        target_include_directories(pawl_libtorch SYSTEM INTERFACE "${TORCH_INCLUDE_DIRECTORY}"
                                                                  "${TORCH_API_INCLUDE_DIRECTORY}")
        target_link_libraries(pawl_libtorch INTERFACE "${TORCH_LIBRARY}" "${TORCH_CPU_LIBRARY}" "${C10_LIBRARY}")
    else()
        set(Torch_FOUND FALSE)
        message(STATUS "LibTorch was not found: the LibTorch helper and the example trainer are left out")
    endif()
endif()
