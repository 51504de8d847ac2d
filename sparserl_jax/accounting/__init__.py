"""FLOPs and sizes: pure functions of a LayerTable and of live-weight counts."""
