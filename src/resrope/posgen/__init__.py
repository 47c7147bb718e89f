"""PosGen (Section 5): tasks -> splits -> model -> train -> evaluate -> report, one file each."""
