"""Many runs that are compared: planned as data, run side by side, counted together."""
