"""Compiled kernels: the normal equations of many rows, built and solved with SIMD registers."""
