# SPDX-License-Identifier: Apache-2.0
# libascend_ext_npu.so: the launches of the target ascend_ext_kernels as torch operators on NPU tensors. The same for the
# NPU and the emulated one; needs TORCH_DIR and TORCH_NPU_DIR, the packages in site-packages. The ACL comes with torch_npu.
add_library(ascend_ext_npu SHARED ${BINDING_SOURCES})
target_include_directories(ascend_ext_npu PRIVATE ${KERNELS})
target_include_directories(ascend_ext_npu SYSTEM PRIVATE ${TORCH_DIR}/include)
target_precompile_headers(ascend_ext_npu PRIVATE ${KERNELS}/binding.h)
target_compile_options(ascend_ext_npu PRIVATE -Wall -Wextra -Werror)
target_link_libraries(ascend_ext_npu PRIVATE ascend_ext_kernels ${TORCH_NPU_DIR}/lib/libtorch_npu.so
                                             ${TORCH_DIR}/lib/libtorch_cpu.so ${TORCH_DIR}/lib/libc10.so)
# torch and torch_npu are in the process before this library: nobody's path of theirs is kept in it
set_target_properties(ascend_ext_npu PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "$ORIGIN")
