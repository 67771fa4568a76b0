"""JSON Web Tokens: key sets, signatures and claims (RFC 7515, 7517, 7519)."""
