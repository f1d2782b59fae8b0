"""The long fault loops: workers die while events flow; what came out is held against what had to."""
