"""What the rest of the program sees of the transport: services, addresses and limits."""
