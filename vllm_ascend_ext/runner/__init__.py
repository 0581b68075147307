# SPDX-License-Identifier: Apache-2.0
"""One model runner on NPU, CUDA and CPU: what a step is (`step`), what we do around it (`features`), and the
mixin that puts that around a device's own runner (`mixin`)."""
