# SPDX-License-Identifier: Apache-2.0
"""Stands in for pyACL, of which vllm-ascend imports acl.rt.memcpy."""

from . import rt as rt
