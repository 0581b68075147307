# SPDX-License-Identifier: Apache-2.0
# No linker preference and no option for position-independent code: a project that needs either has to say so.
set(CMAKE_ASC_COMPILE_OBJECT "<CMAKE_ASC_COMPILER> <DEFINES> <INCLUDES> <FLAGS> -o <OBJECT> -c <SOURCE>")
set(CMAKE_ASC_CREATE_SHARED_LIBRARY
    "<CMAKE_ASC_COMPILER> -shared <LINK_FLAGS> -o <TARGET> <OBJECTS> <LINK_LIBRARIES>")
set(CMAKE_ASC_LINK_EXECUTABLE "<CMAKE_ASC_COMPILER> <OBJECTS> -o <TARGET> <LINK_LIBRARIES>")
set(CMAKE_ASC_INFORMATION_LOADED 1)
