"""A table of data, fitted by a network: from files to arrays, roles of columns, scales, a run, and predictions."""
