"""What tests share: servers, clients, keys and messages."""
