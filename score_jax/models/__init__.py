"""One decoder, many families: configuration as data, one weight table, pure functions."""
