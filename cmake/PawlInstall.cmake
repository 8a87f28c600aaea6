# What others build with: headers, libpawl, the LibTorch helper where it was built, a CMake package and a
# pkg-config file. Component "Development", so that a machine that only trains need not have it.
include(CMakePackageConfigHelpers)

set(PAWL_CMAKE_DIRECTORY "${CMAKE_INSTALL_LIBDIR}/cmake/pawl")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/pawl" TYPE INCLUDE COMPONENT Development)
install(TARGETS libpawl EXPORT pawlTargets
        LIBRARY COMPONENT Runtime NAMELINK_COMPONENT Development)

if(TARGET pawl_torch)
    install(TARGETS pawl_torch EXPORT pawlTorchTargets ARCHIVE COMPONENT Development)
    install(EXPORT pawlTorchTargets NAMESPACE pawl:: DESTINATION "${PAWL_CMAKE_DIRECTORY}" COMPONENT Development)
endif()
install(EXPORT pawlTargets NAMESPACE pawl:: DESTINATION "${PAWL_CMAKE_DIRECTORY}" COMPONENT Development)

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/pawlConfig.cmake.in" "${PROJECT_BINARY_DIR}/packaging/pawlConfig.cmake"
                              INSTALL_DESTINATION "${PAWL_CMAKE_DIRECTORY}")
# Before 1.0 a minor version may break what a program was built against.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/packaging/pawlConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/packaging/pawlConfig.cmake"
              "${PROJECT_BINARY_DIR}/packaging/pawlConfigVersion.cmake"
        DESTINATION "${PAWL_CMAKE_DIRECTORY}" COMPONENT Development)

# The prefix is found from where the file lies: an installed tree can be moved.
file(RELATIVE_PATH PAWL_PREFIX_FROM_PC "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
configure_file("${PROJECT_SOURCE_DIR}/cmake/pawl.pc.in" "${PROJECT_BINARY_DIR}/packaging/pawl.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/packaging/pawl.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig"
        COMPONENT Development)
