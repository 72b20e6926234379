"""The compiled multi-attempt rollout."""
