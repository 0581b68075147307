# SPDX-License-Identifier: Apache-2.0
# Stands in for CANN's CMake package in tests: find_package(ASC) makes the language ASC known to project(), as the
# public documentation of CANN 8.5 to 9.1 says, and the build type's flags for C++ are empty afterwards, as seen there.
list(APPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}/language")
set(ASC_COMPILER_OF_PACKAGE "${CMAKE_CURRENT_LIST_DIR}/../../bin/bisheng")
set(CMAKE_CXX_FLAGS_RELEASE "")
set(ASC_FOUND TRUE)
