"""Where the pipeline runs: the source digests that key its cache, the runner on this machine, the cluster's client."""
