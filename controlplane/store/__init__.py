"""What is kept: one transaction at a time, one repository a noun, SQLite or PostgreSQL below."""
