//! Compiler passes, their one pipeline, the cost model and the clear interpreters.
