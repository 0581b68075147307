# SPDX-License-Identifier: Apache-2.0
"""Joins our mixins with the model runner and the worker of each device."""
