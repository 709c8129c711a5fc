"""Custom GPU kernels with their PyTorch references. Imports torch and triton only, never lmfast."""
