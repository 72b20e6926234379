"""What people read of a run: ledger, alarms, conversations, metrics, the live monitor, the report page."""
