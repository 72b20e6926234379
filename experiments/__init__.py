"""Many runs that are compared: planned as data, run side by side and in pieces, counted together."""
