"""How much memory, disk and time a run will take, and the cheapest setting that fits."""
