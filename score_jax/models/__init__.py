"""One decoder, many families: configuration as data, one weight table, pure functions on plain parameter trees."""
