# SPDX-License-Identifier: Apache-2.0
"""Per device, our model runner and worker: two lines each over the device's own."""
