"""What is measured, one subject per file; each works on plain arrays."""
