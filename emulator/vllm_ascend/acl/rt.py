# SPDX-License-Identifier: Apache-2.0
"""Stands in for acl.rt, pyACL's runtime module."""

import ctypes


def memcpy(dst: int, dst_max: int, src: int, count: int, kind: int) -> int:
    """Copies `count` bytes between host and device and waits for it; returns the ACL error code."""
    copy = ctypes.CDLL("libascendcl.so").aclrtMemcpy
    return int(
        copy(ctypes.c_void_p(dst), ctypes.c_size_t(dst_max), ctypes.c_void_p(src), ctypes.c_size_t(count), kind)
    )
