"""Shared Feature Calibration (SFC, AAAI 2024) for weakly supervised semantic segmentation: the method itself.

Names in the code: N images, C foreground classes, K = C + 1 channels with the background first, D feature channels,
H x W an image's size, h x w a feature map's.
"""
