# SPDX-License-Identifier: Apache-2.0
"""Everything is in pyproject.toml; this file only lets tools that look for a setup.py find one."""

from setuptools import setup

setup()
