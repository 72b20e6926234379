"""What SCoRe is: pure functions of arrays."""
