"""The kernels in Cython. Same names, signatures and errors as `eventcore._pure`."""
