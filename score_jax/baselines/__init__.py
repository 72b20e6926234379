"""What SCoRe is compared with and is not reinforcement: supervised training on conversations of the policy's own."""
