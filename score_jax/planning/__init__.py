"""What a run will need of its devices, found out before it is run on them."""
