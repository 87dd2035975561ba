"""Worker processes from Dask, and jobs of SLURM, PBS, LSF and SGE."""
