"""FLOPs, sizes and memory: pure functions of a LayerTable and of live-weight counts."""
