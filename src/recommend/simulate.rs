//! Logs of any size from a known preference structure.
