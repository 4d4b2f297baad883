//! Cases, snapshots, end-to-end runs and the tidy test.
