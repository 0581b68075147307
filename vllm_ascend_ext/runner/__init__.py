# SPDX-License-Identifier: Apache-2.0
"""Holds what is one for NPU, CUDA and CPU around a device's own model runner: the facts of a step (`step`), who
follows steps (`observers`), and the mixin that tells them (`mixin`)."""
