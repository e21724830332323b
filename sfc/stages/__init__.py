"""The stages: each reads its inputs, calls functions of tensors and writes its folder. None knows another."""
