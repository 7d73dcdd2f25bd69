"""Video files to block means: container index, decoder, summing kernels."""
