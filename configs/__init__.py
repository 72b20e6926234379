"""What a run is: one small file each. `common.py` has every field once; the others change a few."""
