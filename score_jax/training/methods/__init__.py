# SPDX-License-Identifier: Apache-2.0
"""How a run's steps are made: each module implements `Method`."""

from typing import Any, Protocol

from score_jax.states import TrainState
from score_jax.training.hooks import Training
from score_jax.training.run import Run


class Method(Protocol):
  """What a module of this package offers."""

  def enter(self, training: Training) -> tuple[TrainState, Any]:
    """Returns the state and what `training.stage_run`, begun or resumed, holds fixed."""

  def step_inputs(self, run: Run, context: Any, step: int) -> Any:
    """Returns what the host can make ready for a step (0-based) before its state is known.

    A thread calls it, in the order of the steps; it must not talk to other hosts.
    """

  def run_step(self, training: Training, context: Any, inputs: Any) -> tuple[TrainState, dict[str, Any]]:
    """Returns the new state and the record, equal on all hosts but for `seconds`; consumes the state."""
