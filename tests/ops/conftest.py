# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.ops.host_kernels import LIBRARY, HostKernels
from tests.support.host_build import host_library


@pytest.fixture(scope="session")
def host_kernels() -> HostKernels:
    """Loads the AscendC kernels on the CPU, 48 cores, eager schedule."""
    return HostKernels(host_library(LIBRARY))
