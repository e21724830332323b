"""The stages: each declares in its SPEC what it reads, and writes its folder. None knows another."""
