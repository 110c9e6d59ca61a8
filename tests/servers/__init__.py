"""Real servers for the tests: started on free loopback ports in a temporary folder, and ended."""
