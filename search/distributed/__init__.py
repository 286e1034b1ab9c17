"""Everything that runs on Ray: the cluster, its workers, the search by Ray Tune, and other tasks.

Ray is imported here and in :mod:`search.searchers.tune` only.
"""
