"""Algorithms, one file each, behind one contract."""
