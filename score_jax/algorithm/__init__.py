"""What SCoRe is: pure functions of arrays. No IO, no configuration object, no model."""
