"""What leaves the building: smaller forms of a trained policy."""
