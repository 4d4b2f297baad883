//! Loader, interpreters, client side and peregrine-run.
