# SPDX-License-Identifier: Apache-2.0
"""Names what took the place of a command of version 0.1."""

from score_jax import cli

if __name__ == '__main__':
  cli.moved('supervise')
