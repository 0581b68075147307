# SPDX-License-Identifier: Apache-2.0
"""Extends a device's own model runner, alike on NPU, CUDA and CPU: with the facts of a step (`step`), the
observers of steps (`observers`), and the mixin that calls the observers (`mixin`)."""
