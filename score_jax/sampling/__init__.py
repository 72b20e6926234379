"""The compiled multi-attempt rollout: token ids in, token ids and log-probabilities out."""
