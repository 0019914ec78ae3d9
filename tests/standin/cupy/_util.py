class PerformanceWarning(RuntimeWarning):
    """What CuPy warns of where something is slow."""
