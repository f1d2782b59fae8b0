"""What travels: frozen models, enums and ids. Imports nothing of ours."""
