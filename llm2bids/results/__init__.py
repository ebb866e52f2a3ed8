"""What analyses share: pieces of work that appear whole, where their files go, and maps read back."""
