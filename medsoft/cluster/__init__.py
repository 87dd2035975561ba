"""Worker processes from Dask and SLURM."""
