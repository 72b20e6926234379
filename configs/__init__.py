"""What a run is: `common.py` has every field once; the other files change a few."""
