"""What it means: tables in, intervals and frontiers out."""
