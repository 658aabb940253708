"""The command `fedlearn`: a thin layer over the library, which is usable alone."""
