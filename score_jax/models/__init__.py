"""One decoder of many families: data and pure functions."""
