# SPDX-License-Identifier: Apache-2.0
# What libraries of the AscendC kernels are made from.
get_filename_component(KERNELS ${CMAKE_CURRENT_LIST_DIR}/../csrc_ascendc ABSOLUTE)
set(OPERATORS expert_load expert_load_counts dp_rows add_rms_norm mtp_pack)
set(TILING_SOURCES ${KERNELS}/expert_load/tiling.cpp ${KERNELS}/add_rms_norm/tiling.cpp)
list(TRANSFORM OPERATORS REPLACE "(.+)" "${KERNELS}/\\1/launch.cpp" OUTPUT_VARIABLE LAUNCH_SOURCES)
list(TRANSFORM OPERATORS REPLACE "(.+)" "${KERNELS}/\\1/binding.cpp" OUTPUT_VARIABLE BINDING_SOURCES)
