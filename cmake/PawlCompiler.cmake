# The language, the warnings and the compiler cache.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE_PROGRAM}")
    set(CMAKE_C_COMPILER_LAUNCHER "${CCACHE_PROGRAM}")
endif()

# What every target of ours is compiled with.
add_library(pawl_options INTERFACE)
target_compile_options(pawl_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wconversion;-Wnon-virtual-dtor;-Wold-style-cast>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    # A designated initialiser that names what differs and leaves the rest to its default is our style.
    target_compile_options(pawl_options INTERFACE -Wno-missing-designated-field-initializers
                                                  -Wno-unknown-warning-option
                                                  -Wno-missing-field-initializers)
else()
    target_compile_options(pawl_options INTERFACE
        $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers>)
endif()
if(PAWL_WARNINGS_AS_ERRORS)
    target_compile_options(pawl_options INTERFACE -Werror)
endif()
if(PAWL_CRASH_POINTS)
    target_compile_definitions(pawl_options INTERFACE PAWL_CRASH_POINTS)
endif()
target_include_directories(pawl_options INTERFACE "${PROJECT_SOURCE_DIR}/src" "${PROJECT_SOURCE_DIR}/include"
                                                  "${PROJECT_SOURCE_DIR}")

# pawl_add_room(NAME SOURCES … LINK …): the static library pawl_NAME of a folder of src/.
function(pawl_add_room name)
    cmake_parse_arguments(ROOM "" "" "SOURCES;LINK" ${ARGN})
    add_library(pawl_${name} STATIC ${ROOM_SOURCES})
    target_link_libraries(pawl_${name} PUBLIC pawl_options ${ROOM_LINK})
endfunction()
