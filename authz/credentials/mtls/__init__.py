"""Client certificates, from the connection or from X-Forwarded-Client-Cert."""
