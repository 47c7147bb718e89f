"""The suite as tasks of lm-evaluation-harness: YAML files, and the functions that they name."""
