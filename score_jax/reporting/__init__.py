"""What people read of a run, from its metrics to the report page."""
