"""What people read: the correction ledger, the lines of metrics.jsonl, the terminal."""
