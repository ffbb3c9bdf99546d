"""Which backend a session lives on."""
