"""Nodes that feed each other: who has which bytes of a snapshot, and how they are asked for and served."""
