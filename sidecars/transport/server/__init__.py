"""The asyncio side of the transport: sockets, TLS, connections and handlers."""
