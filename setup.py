# SPDX-License-Identifier: Apache-2.0
"""For tools that ask for a setup.py; metadata and dependencies are in pyproject.toml."""

import setuptools

setuptools.setup()
