# SPDX-License-Identifier: Apache-2.0
# Operators: every table becomes one translation unit; the ATen headers are compiled once, ahead of them.
if(NOT TORCH_DIR)
  message(FATAL_ERROR "Pass -DTORCH_DIR=<site-packages>/torch: libopapi runs operators with that torch")
endif()
find_package(Python3 REQUIRED COMPONENTS Interpreter)

set(opapi_folder ${CMAKE_CURRENT_LIST_DIR})
file(GLOB opapi_sources CONFIGURE_DEPENDS ${opapi_folder}/*.cpp ${opapi_folder}/../mc2/*.cpp
     ${opapi_folder}/../sparse_attention/*.cpp ${opapi_folder}/../gated_delta/*.cpp
     ${opapi_folder}/../aclop/*.cpp)
file(GLOB opapi_tables CONFIGURE_DEPENDS ${opapi_folder}/tables/*.def)
set(opapi_generated)
foreach(table IN LISTS opapi_tables)
  get_filename_component(stem ${table} NAME_WE)
  set(generated ${CMAKE_BINARY_DIR}/opapi/${stem}.cpp)
  add_custom_command(
    OUTPUT ${generated}
    COMMAND ${Python3_EXECUTABLE} ${opapi_folder}/generate.py ${table} ${generated}
    DEPENDS ${table} ${opapi_folder}/generate.py
    VERBATIM)
  list(APPEND opapi_generated ${generated})
endforeach()
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/opapi)

add_library(opapi SHARED ${opapi_sources} ${opapi_generated})
target_include_directories(opapi SYSTEM PRIVATE ${TORCH_DIR}/include)
target_compile_options(opapi PRIVATE -O1 ${WARNINGS} -fopenmp)
target_precompile_headers(opapi PRIVATE ${opapi_folder}/bodies_all.h)
# libgomp by torch's own file: two of them in one process would each have their threads.
target_link_libraries(opapi PRIVATE ascendcl hccl ${TORCH_DIR}/lib/libtorch_cpu.so ${TORCH_DIR}/lib/libc10.so
                                    ${TORCH_DIR}/lib/libgomp.so.1)
# torch_npu looks aclDestroyAclOpExecutor up in libnnopbase.so, where dlsym finds libopapi's
add_library(nnopbase SHARED ${CMAKE_BINARY_DIR}/empty.cpp)
target_link_options(nnopbase PRIVATE -Wl,--no-as-needed)
target_link_libraries(nnopbase PRIVATE opapi)
