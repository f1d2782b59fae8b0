"""The long fault loops: workers are killed while events flow, and what came out is held against what had to."""
